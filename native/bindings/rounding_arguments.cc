#include "bindings/rounding_arguments.h"

#include <string>

namespace tsq {

GridSpec readGrid(Arguments& a, Napi::Value grid, int64_t k) {
  GridSpec spec;
  spec.bits = static_cast<int>(a.integer(a.property(grid, "bits", "grid"), "grid.bits", 2, 8));
  spec.symmetric = a.boolean(a.property(grid, "symmetric", "grid"), "grid.symmetric");
  spec.groupSize = a.integer(a.property(grid, "groupSize", "grid"), "grid.groupSize", 1, k);
  spec.perTensor = a.boolean(a.property(grid, "perTensor", "grid"), "grid.perTensor");
  spec.scaleType = a.dtype(a.property(grid, "scaleType", "grid"), "grid.scaleType", Dtype::kBF16);
  spec.minZero = static_cast<int>(a.integer(a.property(grid, "minZero", "grid"), "grid.minZero", 0, 1));
  if (spec.perTensor && spec.groupSize != k)
    refuse(Code::kOption,
           std::string(a.target().name) + ": grid.perTensor needs grid.groupSize = k = " + std::to_string(k));
  return spec;
}

SearchSpec readSearch(Arguments& a, Napi::Value search, int64_t k) {
  constexpr int64_t kMaxSteps = 100000;
  SearchSpec spec;
  if (a.isNull(search)) return spec;
  spec.enabled = true;
  spec.steps = static_cast<int>(a.integer(a.property(search, "steps", "search"), "search.steps", 1, kMaxSteps));
  spec.maxShrink = a.number(a.property(search, "maxShrink", "search"), "search.maxShrink", 0, 1);
  spec.norm = a.number(a.property(search, "norm", "search"), "search.norm", 0, 100);
  spec.importance = a.optionalView<float>(a.property(search, "importance", "search"), "search.importance", k).data;
  return spec;
}

RoundedWeight readOutputs(Arguments& a, Napi::Value out, int64_t n, int64_t k, const GridSpec& grid) {
  const int64_t groups = product({n, groupCount(k, grid.groupSize)}, "scales");
  RoundedWeight rounded{};
  rounded.codes = a.view<uint8_t>(a.property(out, "codes", "out"), "out.codes", product({n, k}, "codes")).data;
  rounded.scales = a.view<float>(a.property(out, "scales", "out"), "out.scales", groups).data;
  const Napi::Value zeros = a.property(out, "zeros", "out");
  if (!grid.symmetric) rounded.zeros = a.view<uint8_t>(zeros, "out.zeros", groups).data;
  return rounded;
}

const float* readClip(Arguments& a, Napi::Value clip, int64_t n, int64_t k, const GridSpec& grid) {
  return a.optionalView<float>(clip, "clip", product({n, groupCount(k, grid.groupSize)}, "clip")).data;
}

// The accumulator of kind hessian and width k.
std::shared_ptr<SharedAccumulator> readHessian(Arguments& a, Napi::Value value, int64_t k) {
  auto shared = a.object<SharedAccumulator>(value, "hessian");
  if (shared->accumulator.kind != Reduction::kHessian)
    refuse(Code::kOption,
           std::string(a.target().name) + ": hessian is an accumulator of another kind, expected kind 0 (hessian)");
  if (shared->accumulator.width != k)
    refuse(Code::kShape, std::string(a.target().name) + ": the Hessian is of " +
                             std::to_string(shared->accumulator.width) + " columns, expected k = " + std::to_string(k));
  return shared;
}

Status noRows() {
  return Status(Code::kNumeric, "the Hessian has seen no rows: feed it calibration activations first");
}

GptqSpec readGptqOptions(Arguments& a, Napi::Value options, int64_t n, int64_t k) {
  const auto read = [&](const char* key) { return a.property(options, key, "options"); };
  GptqSpec spec;
  spec.grid = readGrid(a, read("grid"), k);
  spec.search = readSearch(a, read("search"), k);
  spec.clip = readClip(a, read("clip"), n, k, spec.grid);
  spec.damp = a.number(read("damp"), "options.damp", 0, 1);
  spec.dampStep = a.number(read("dampStep"), "options.dampStep", 0, 1);
  spec.block = static_cast<int>(a.integer(read("block"), "options.block", 1, 1 << 20));
  spec.order = static_cast<ActOrder>(a.integer(read("order"), "options.order", 0, 3));
  return spec;
}

int32_t* readGroupIndex(Arguments& a, Napi::Value value, int64_t k, const GptqSpec& spec) {
  int32_t* groupIndex = a.optionalView<int32_t>(value, "groupIndex", k).data;
  if (spec.order == ActOrder::kDynamic && groupIndex == nullptr)
    refuse(Code::kOption,
           std::string(a.target().name) + ": order 3 (dynamic) needs groupIndex, the group of each column");
  return groupIndex;
}

Napi::Value reportObject(Napi::Env env, const GptqReport& report) {
  auto object = Napi::Object::New(env);
  object.Set("damp", report.damp);
  object.Set("degraded", report.degraded);
  object.Set("keptNearest", report.keptNearest);
  object.Set("deadColumns", static_cast<double>(report.deadColumns));
  object.Set("error", report.error);
  object.Set("nearestError", report.nearestError);
  object.Set("note", report.note);
  object.Set("factorSeconds", report.factorSeconds);
  object.Set("columnSeconds", report.columnSeconds);
  object.Set("compareSeconds", report.compareSeconds);
  return object;
}

}  // namespace tsq
