// Rounding weights to integer codes: native/rounding/rounding.h.
#include "rounding/rounding.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <shared_mutex>
#include <string>
#include <utility>
#include <vector>

#include "bindings/exports.h"
#include "bindings/rounding_arguments.h"
#include "bindings/work.h"
#include "kernels/packed_weight.h"
#include "program/parallel.h"

namespace tsq {
namespace {

Napi::Value roundNearestCodes(Arguments& a) {
  const int64_t n = a.integer(a[1], "n", 1), k = a.integer(a[2], "k", 1);
  const GridSpec grid = readGrid(a, a[3], k);
  const SearchSpec search = readSearch(a, a[4], k);
  const float* w = a.view<float>(a[0], "w", product({n, k}, "w")).data;
  const float* clip = readClip(a, a[5], n, k, grid);
  const RoundedWeight out = readOutputs(a, a[6], n, k, grid);
  const AbortFlag abort = a.abortFlag(a[7]);
  return promise(a, [=]() -> Status { return roundNearest(w, n, k, grid, search, clip, out, abort); });
}

struct Dequantization {
  CodesSource source;
  std::vector<int32_t> groupIndex;  // a copy: it is used as an index after it was checked
  float* out;
};

// w[row, column] = fn(w, scale of the column) over all rows.
template <typename F>
void forColumns(float* w, int64_t n, int64_t k, const float* columnScale, F fn) {
  parallelBlocks(n, unitsPerTask(k), AbortFlag(), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t j = 0; j < k; ++j) w[row * k + j] = fn(w[row * k + j], columnScale[j]);
  });
}

Status dequantizeAll(const Dequantization& d) {
  CodesSource source = d.source;
  source.groupIndex = d.groupIndex.empty() ? nullptr : d.groupIndex.data();
  return dequantize(source, d.out);
}

Dequantization readDequantization(Arguments& a) {
  Dequantization d{};
  CodesSource& source = d.source;
  source.n = a.integer(a[5], "n", 1);
  source.k = a.integer(a[6], "k", 1);
  source.bits = static_cast<int>(a.integer(a[7], "bits", 2, 8));
  source.groupSize = a.integer(a[8], "groupSize", 1);
  const int64_t groups = groupCount(source.k, source.groupSize), count = product({source.n, source.k}, "codes");
  const int64_t scales = product({source.n, groups}, "scales");
  source.codes = a.view<uint8_t>(a[0], "codes", count).data;
  source.scales = a.view<float>(a[1], "scales", scales).data;
  source.zeros = a.optionalView<uint8_t>(a[2], "zeros", scales).data;
  source.offsets = a.optionalView<float>(a[3], "offsets", scales).data;
  source.codebook = a.optionalView<float>(a[4], "codebook", int64_t{1} << source.bits).data;
  if ((source.zeros != nullptr) + (source.offsets != nullptr) + (source.codebook != nullptr) > 1)
    refuse(Code::kFormat,
           std::string(a.target().name) + ": expected one of zeros, offsets and codebook at most, found several");
  if (!a.isNull(a[9])) {
    d.groupIndex = a.copy<int32_t>(a[9], "groupIndex");
    if (static_cast<int64_t>(d.groupIndex.size()) != source.k)
      refuse(Code::kShape, std::string(a.target().name) + ": groupIndex has " + std::to_string(d.groupIndex.size()) +
                               " elements, expected k = " + std::to_string(source.k));
    for (int64_t j = 0; j < source.k; ++j)
      if (d.groupIndex[static_cast<size_t>(j)] < 0 || d.groupIndex[static_cast<size_t>(j)] >= groups)
        refuse(Code::kFormat, std::string(a.target().name) + ": group of column " + std::to_string(j) + " is " +
                                  std::to_string(d.groupIndex[static_cast<size_t>(j)]) + ", expected 0 to " +
                                  std::to_string(groups - 1));
  }
  source.inputScale = a.optionalView<float>(a[10], "inputScale", source.k).data;
  d.out = a.view<float>(a[11], "out", count).data;
  return d;
}

Napi::Value dequantizeAsync(Arguments& a) {
  return promise(a, [d = readDequantization(a)]() -> Status { return dequantizeAll(d); });
}

Napi::Value dequantizeSync(Arguments& a) {
  check(dequantizeAll(readDequantization(a)));
  return a.env().Undefined();
}

// What w becomes when its columns are scaled, rounded to the grid and scaled back, as a packed f32 weight (AWQ's
// search).
Result<PackedWeight> roundAndPack(const float* w, int64_t n, int64_t k, const GridSpec& grid,
                                  const std::vector<float>& columnScale, const float* clip) {
  const int64_t count = n * k, groups = n * groupCount(k, grid.groupSize);
  Result<AlignedBuffer> floats = AlignedBuffer::allocate(static_cast<size_t>(count) * sizeof(float));
  Result<AlignedBuffer> codes = AlignedBuffer::allocate(static_cast<size_t>(count));
  Result<AlignedBuffer> scales = AlignedBuffer::allocate(static_cast<size_t>(groups) * sizeof(float));
  Result<AlignedBuffer> zeros = AlignedBuffer::allocate(grid.symmetric ? 0 : static_cast<size_t>(groups));
  for (const auto* buffer : {&floats, &codes, &scales, &zeros})
    if (!buffer->ok()) return buffer->status();
  float* copy = floats.value().as<float>();
  const float* scale = columnScale.empty() ? nullptr : columnScale.data();
  parallelBlocks(count, kTaskElements, AbortFlag(), [&](int64_t begin, int64_t end) {
    std::memcpy(copy + begin, w + begin, static_cast<size_t>(end - begin) * sizeof(float));
  });
  if (scale != nullptr) forColumns(copy, n, k, scale, [](float x, float s) { return x * s; });
  const RoundedWeight out{codes.value().as<uint8_t>(), scales.value().as<float>(),
                          grid.symmetric ? nullptr : zeros.value().as<uint8_t>()};
  TSQ_RETURN_IF_ERROR(roundNearest(copy, n, k, grid, SearchSpec(), clip, out, AbortFlag()));
  dequantizeCodes(out.codes, out.scales, out.zeros, n, k, grid.bits, grid.groupSize, nullptr, copy);
  if (scale != nullptr) forColumns(copy, n, k, scale, [](float x, float s) { return x / s; });
  return packDense(copy, Dtype::kF32, n, k, layout::WeightKind::kF32);
}

Napi::Value packRounded(Arguments& a) {
  const int64_t n = a.integer(a[1], "n", 1), k = a.integer(a[2], "k", 1);
  const GridSpec grid = readGrid(a, a[3], k);
  const float* w = a.view<float>(a[0], "w", product({n, k}, "w")).data;
  std::vector<float> columnScale;
  if (!a.isNull(a[4])) {
    columnScale = a.copy<float>(a[4], "columnScale");
    if (static_cast<int64_t>(columnScale.size()) != k)
      refuse(Code::kShape, "packRounded: columnScale has " + std::to_string(columnScale.size()) +
                               " elements, expected k = " + std::to_string(k));
    const auto bad =
        std::find_if(columnScale.begin(), columnScale.end(), [](float s) { return !(s > 0) || std::isinf(s); });
    if (bad != columnScale.end())
      refuse(Code::kNumeric, "packRounded: columnScale[" + std::to_string(bad - columnScale.begin()) + "] is " +
                                 numberText(*bad) + ", expected a positive finite number");
  }
  const float* clip = readClip(a, a[5], n, k, grid);
  return promise(
      a,
      [=, columnScale = std::move(columnScale)]() -> Result<PackedWeight> {
        return roundAndPack(w, n, k, grid, columnScale, clip);
      },
      [](Napi::Env env, PackedWeight& weight) {
        return Environment::of(env).hold(std::make_shared<const PackedWeight>(std::move(weight)));
      });
}

Napi::Value gptqCodes(Arguments& a) {
  const int64_t n = a.integer(a[1], "n", 1), k = a.integer(a[2], "k", 1);
  const auto hessian = readHessian(a, a[3], k);
  const GptqSpec spec = readGptqOptions(a, a[4], n, k);
  const RoundedWeight out = readOutputs(a, a[5], n, k, spec.grid);
  const float* w = a.view<float>(a[0], "w", product({n, k}, "w")).data;
  int32_t* groupIndex = readGroupIndex(a, a[6], k, spec);
  const AbortFlag abort = a.abortFlag(a[7]);
  return promise(
      a,
      [=]() -> Result<GptqReport> {
        const auto lock = hessian->lockFinished();
        if (!hessian->accumulator.hessian) return noRows();
        return gptq(w, n, k, *hessian->accumulator.hessian, spec, out, groupIndex, abort);
      },
      [](Napi::Env env, GptqReport& report) { return reportObject(env, report); });
}

Napi::Value layerErrorOf(Arguments& a) {
  const int64_t n = a.integer(a[2], "n", 1), k = a.integer(a[3], "k", 1), count = product({n, k}, "w");
  const float* w = a.view<float>(a[0], "w", count).data;
  const float* approx = a.view<float>(a[1], "approx", count).data;
  const auto hessian = readHessian(a, a[4], k);
  return promise(
      a,
      [=]() -> Result<double> {
        const auto lock = hessian->lockFinished();
        if (!hessian->accumulator.hessian) return noRows();
        return layerError(w, approx, n, k, *hessian->accumulator.hessian);
      },
      [](Napi::Env env, double& error) { return Napi::Number::New(env, error); });
}

Napi::Value searchClipRanges(Arguments& a) {
  const int64_t n = a.integer(a[1], "n", 1), k = a.integer(a[2], "k", 1);
  const auto hessian = readHessian(a, a[3], k);
  const GridSpec grid = readGrid(a, a[4], k);
  const int steps = static_cast<int>(a.integer(a[5], "steps", 1, 100000));
  const double maxShrink = a.number(a[6], "maxShrink", 0, 1);
  const float* w = a.view<float>(a[0], "w", product({n, k}, "w")).data;
  float* clip = a.view<float>(a[7], "clip", product({n, groupCount(k, grid.groupSize)}, "clip")).data;
  const AbortFlag abort = a.abortFlag(a[8]);
  return promise(a, [=]() -> Status {
    const auto lock = hessian->lockFinished();
    if (!hessian->accumulator.hessian) return noRows();
    return searchClip(w, n, k, *hessian->accumulator.hessian, grid, steps, maxShrink, clip, abort);
  });
}

constexpr Export kExports[] = {
    {"roundNearest", roundNearestCodes, true},
    {"dequantize", dequantizeAsync, true},
    {"dequantizeSync", dequantizeSync, false},
    {"packRounded", packRounded, true},
    {"gptq", gptqCodes, true},
    {"layerError", layerErrorOf, true},
    {"searchClip", searchClipRanges, true},
};

}  // namespace

std::span<const Export> roundingExports() {
  return kExports;
}

}  // namespace tsq
