// Blocks of GGUF types: native/gguf/codec.h, gptq.h and pack.h.
#include <memory>
#include <utility>
#include <vector>

#include "bindings/exports.h"
#include "bindings/rounding_arguments.h"
#include "bindings/work.h"
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

Napi::Value packBlocks(Arguments& a) {
  const Blocks found = blocks(a);
  const Source source = a.source(a[0], "source", Dtype::kU8, found.bytes);
  std::vector<int32_t> from;
  if (!a.isNull(a[4])) from = a.copy<int32_t>(a[4], "from");
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
    {"packBlocks", packBlocks, true},
    {"decodeBlocks", decodeBlocks, true},
    {"encodeBlocks", encodeBlocks, true},
    {"gptqBlocks", gptqBlocks, true},
};

}  // namespace

std::span<const Export> ggufExports() {
  return kExports;
}

}  // namespace tsq
