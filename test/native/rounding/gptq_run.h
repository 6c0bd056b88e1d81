// Running GPTQ in a test: specs, outputs, names of orders.
#pragma once
#include "rounding_test.h"

namespace rounding_test {

using tsq::ActOrder;
using tsq::GptqReport;
using tsq::GptqSpec;

struct Run {
  tsq::Status status;
  GptqReport report;
  Rounded rounded;
  std::vector<int32_t> index;
};

inline Run run(const std::vector<float>& w, int64_t n, int64_t k, const Hessian& h, const GptqSpec& spec,
               AbortFlag abort = AbortFlag()) {
  Run done{{}, {}, Rounded(n, k, spec.grid), std::vector<int32_t>(static_cast<size_t>(k), -1)};
  tsq::Result<GptqReport> result = tsq::gptq(w.data(), n, k, h, spec, done.rounded.out(), done.index.data(), abort);
  done.status = result.status();
  done.report = result.value();
  return done;
}

inline std::vector<float> dequantized(const Run& done, int64_t n, int64_t k, const GptqSpec& spec) {
  return done.rounded.dequantize(n, k, spec.grid, spec.order == ActOrder::kDynamic ? done.index.data() : nullptr);
}

inline constexpr ActOrder kOrders[] = {ActOrder::kNone, ActOrder::kStatic, ActOrder::kGroupAware, ActOrder::kDynamic};
inline constexpr const char* kOrderNames[] = {"none", "static", "group-aware", "dynamic"};

inline GptqSpec specOf(int bits, bool symmetric, int64_t groupSize, ActOrder kind, int block) {
  GptqSpec spec;
  spec.grid = {bits, symmetric, groupSize, false, tsq::Dtype::kF32, 0};
  spec.order = kind;
  spec.block = block;
  return spec;
}

}  // namespace rounding_test
