// Blocks of GGUF types: native/gguf/codec.h, gptq.h and pack.h.
#include <memory>
#include <utility>
#include <vector>

#include "bindings/exports.h"
#include "bindings/rounding_arguments.h"
#include "bindings/work.h"
#include "gguf/canonical.h"
#include "gguf/codec.h"
#include "gguf/gptq.h"
#include "gguf/pack.h"

namespace tsq {
namespace {

struct Blocks {
  gguf::Matrix matrix;
  int64_t bytes;
};

// Arguments 1 … 3: type, rows, k.
Blocks blocks(Arguments& a) {
  Blocks found{};
  found.matrix.type = static_cast<gguf::Type>(a.integer(a[1], "type", 0, 255));
  found.matrix.rows = a.integer(a[2], "rows");
  found.matrix.k = a.integer(a[3], "k");
  (void)product({found.matrix.rows, found.matrix.k, 4}, "rows x k");
  found.bytes = product({found.matrix.rows, take(gguf::rowBytes(found.matrix.type, found.matrix.k))}, "blocks");
  return found;
}

Napi::Value decodeBlocks(Arguments& a) {
  const Blocks found = blocks(a);
  const Source source = a.source(a[0], "source", Dtype::kU8, found.bytes);
  const auto out = a.view<float>(a[4], "out", product({found.matrix.rows, found.matrix.k}, "out"));
  return promise(a, [=]() -> Status { return gguf::decode(found.matrix, source.data, out.data); });
}

Napi::Value encodeBlocks(Arguments& a) {
  const Blocks found = blocks(a);
  const auto w = a.view<float>(a[0], "w", product({found.matrix.rows, found.matrix.k}, "w"));
  const auto importance = a.optionalView<float>(a[4], "importance", found.matrix.k);
  const auto out = a.view<uint8_t>(a[5], "out", found.bytes);
  const AbortFlag abort = a.abortFlag(a[6]);
  return promise(a, [=]() -> Status { return gguf::encode(found.matrix, w.data, importance.data, out.data, abort); });
}

std::vector<int32_t> order(Arguments& a, const Napi::Value& value) {
  return a.isNull(value) ? std::vector<int32_t>() : a.copy<int32_t>(value, "from");
}

// How many scales a row of the type has. ERR_UNSUPPORTED for types that hold no codes.
gguf::BlockGrid gridOfCodes(const gguf::Matrix& matrix) {
  const gguf::BlockGrid grid = gguf::blockGridOf(matrix.type);
  if (grid.group == 0) take(Result<int64_t>(Status(Code::kUnsupported, "the type holds no codes")));
  return grid;
}

Napi::Value readBlockCodes(Arguments& a) {
  const Blocks found = blocks(a);
  const gguf::Matrix matrix = found.matrix;
  const gguf::BlockGrid grid = gridOfCodes(matrix);
  const Source source = a.source(a[0], "source", Dtype::kU8, found.bytes);
  std::vector<int32_t> from = order(a, a[4]);
  const int64_t groups = product({matrix.rows, matrix.k / grid.group}, "groups");
  const auto codes = a.view<uint8_t>(a[5], "codes", product({matrix.rows, matrix.k}, "codes"));
  const auto scales = a.view<float>(a[6], "scales", groups);
  float* offsets = grid.hasOffsets ? a.view<float>(a[7], "offsets", groups).data : nullptr;
  return promise(a, [=, from = std::move(from)]() -> Status {
    return gguf::readCodes(matrix, source.data, from, {codes.data, scales.data, offsets});
  });
}

Napi::Value writeBlockCodes(Arguments& a) {
  const Blocks found = blocks(a);
  const gguf::Matrix matrix = found.matrix;
  (void)gridOfCodes(matrix);
  gguf::CanonicalCodes source{};
  source.codes = a.view<uint8_t>(a[0], "codes", product({matrix.rows, matrix.k}, "codes")).data;
  std::vector<int32_t> from = order(a, a[4]);
  source.bits = static_cast<int>(a.integer(a[5], "bits", 2, 8));
  source.groupSize = a.integer(a[6], "groupSize", 1);
  const int64_t groups = product({matrix.rows, groupCount(matrix.k, source.groupSize)}, "groups");
  source.scales = a.view<float>(a[7], "scales", groups).data;
  source.zeros = a.optionalView<uint8_t>(a[8], "zeros", groups).data;
  source.offsets = a.optionalView<float>(a[9], "offsets", groups).data;
  uint8_t* out = a.optionalView<uint8_t>(a[10], "out", found.bytes).data;
  return promise(a, [=, from = std::move(from)]() -> Status { return gguf::writeCodes(matrix, source, from, out); });
}

Napi::Value packBlocks(Arguments& a) {
  const Blocks found = blocks(a);
  const Source source = a.source(a[0], "source", Dtype::kU8, found.bytes);
  std::vector<int32_t> from = order(a, a[4]);
  return promise(
      a, [=, from = std::move(from)]() { return gguf::pack(found.matrix, source.data, from); },
      [](Napi::Env env, PackedWeight& weight) -> Napi::Value {
        Napi::Object result = Napi::Object::New(env);
        result.Set("bits", weight.bits);
        result.Set("handle", Environment::of(env).hold(std::make_shared<const PackedWeight>(std::move(weight))));
        return result;
      });
}

Napi::Value gptqBlocks(Arguments& a) {
  const Blocks found = blocks(a);
  const int64_t k = found.matrix.k;
  const auto w = a.view<float>(a[0], "w", product({found.matrix.rows, k}, "w"));
  const auto hessian = readHessian(a, a[4], k);
  const auto read = [&](const char* key) { return a.property(a[5], key, "options"); };
  gguf::GptqSpec spec;
  spec.importance = a.optionalView<float>(read("importance"), "options.importance", k).data;
  spec.damp = a.number(read("damp"), "options.damp", 0, 1);
  spec.dampStep = a.number(read("dampStep"), "options.dampStep", 0, 1);
  spec.block = static_cast<int>(a.integer(read("block"), "options.block", 1, 1 << 20));
  spec.order = static_cast<ActOrder>(a.integer(read("order"), "options.order", 0, 3));
  const auto out = a.view<uint8_t>(a[6], "out", found.bytes);
  const AbortFlag abort = a.abortFlag(a[7]);
  return promise(
      a,
      [=]() -> Result<GptqReport> {
        const auto lock = hessian->lockFinished();
        if (!hessian->accumulator.hessian) return noRows();
        return gguf::gptqEncode(found.matrix, w.data, *hessian->accumulator.hessian, spec, out.data, abort);
      },
      [](Napi::Env env, GptqReport& report) { return reportObject(env, report); });
}

constexpr Export kExports[] = {
    {"packBlocks", packBlocks, true},           {"decodeBlocks", decodeBlocks, true},
    {"encodeBlocks", encodeBlocks, true},       {"readBlockCodes", readBlockCodes, true},
    {"writeBlockCodes", writeBlockCodes, true}, {"gptqBlocks", gptqBlocks, true},
};

}  // namespace

std::span<const Export> ggufExports() {
  return kExports;
}

}  // namespace tsq
