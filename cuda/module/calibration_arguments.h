// What a call of calibration must satisfy before anything is launched. No CUDA here: tested without a device.
#pragma once
#include "cuda/module/arguments.h"

namespace tsq::cuda::module {

// Sizes whose tiles, of 32 by 32 at the least, are a grid.
inline int checkSizes(int64_t n, int64_t k, TsqCudaText reason) {
  constexpr int64_t kMost = int64_t{1} << 20, kMostRows = int64_t{1} << 24, kMostWeights = int64_t{1} << 40;
  if (n > 0 && n <= kMostRows && k > 0 && k <= kMost && n * k <= kMostWeights) return kTsqCudaOk;
  return refuse(kTsqCudaArgument, reason,
                "calibration: weight [%lld, %lld], expected at most 2^24 rows of 1 to 2^20 columns, and 2^40 weights",
                static_cast<long long>(n), static_cast<long long>(k));
}

struct Operand {
  const char* name;
  const void* pointer;
  size_t align;
  bool optional = false;
};

template <size_t kCount>
int checkOperands(const Operand (&operands)[kCount], TsqCudaText reason) {
  for (const auto& [name, pointer, align, optional] : operands) {
    if (pointer == nullptr && optional) continue;
    if (pointer == nullptr) return refuse(kTsqCudaArgument, reason, "calibration: %s is null", name);
    if (reinterpret_cast<uintptr_t>(pointer) % align == 0) continue;
    return refuse(kTsqCudaArgument, reason, "calibration: %s at %p is not aligned to %zu bytes", name, pointer, align);
  }
  return kTsqCudaOk;
}

inline int checkRange(const char* name, int64_t begin, int64_t end, int64_t all, TsqCudaText reason) {
  if (begin >= 0 && begin < end && end <= all) return kTsqCudaOk;
  return refuse(kTsqCudaArgument, reason, "calibration: %s %lld to %lld are not among %lld", name,
                static_cast<long long>(begin), static_cast<long long>(end), static_cast<long long>(all));
}

inline int checkGroups(int64_t n, int64_t k, int64_t group, TsqCudaText reason) {
  TSQ_TRY(checkSizes(n, k, reason));
  if (group > 0 && group <= k) return kTsqCudaOk;
  return refuse(kTsqCudaArgument, reason, "calibration: groups of %lld columns, expected 1 to k = %lld",
                static_cast<long long>(group), static_cast<long long>(k));
}

inline int checkHessian(const TsqCudaHessian& p, TsqCudaText reason) {
  TSQ_TRY(checkSizes(1, p.k, reason));
  if (p.type < 0 || p.type > 2) {
    return refuse(kTsqCudaArgument, reason, "calibration: rows of type %d, expected 0 (f32), 1 (f16) or 2 (bf16)",
                  p.type);
  }
  if (p.rows < 1 || p.stride < p.k) {
    return refuse(kTsqCudaArgument, reason, "calibration: %lld rows lie %lld apart, expected 1 or more of %lld or more",
                  static_cast<long long>(p.rows), static_cast<long long>(p.stride), static_cast<long long>(p.k));
  }
  return checkOperands({{"x", p.x, p.type == 0 ? size_t{4} : size_t{2}}, {"the Hessian", p.h, 16}}, reason);
}

inline int checkFactor(const TsqCudaFactor& p, int64_t steps, TsqCudaText reason) {
  TSQ_TRY(checkSizes(1, p.k, reason));
  TSQ_TRY(checkRange("steps", p.begin, p.end, steps, reason));
  if (!(p.unit > 0) || !(p.damp >= 0)) {
    return refuse(kTsqCudaArgument, reason, "calibration: a unit of %g and a damping of %g are not above 0", p.unit,
                  p.damp);
  }
  return checkOperands({{"the Hessian", p.h, 4},
                        {"the columns", p.columns, 4},
                        {"the workspace", p.workspace, 16},
                        {"the factor", p.u, 4},
                        {"the outcome", p.failed, 4}},
                       reason);
}

inline int checkScales(const TsqCudaScales& p, TsqCudaText reason) {
  TSQ_TRY(checkGroups(p.n, p.k, p.group, reason));
  const int64_t groups = (p.k + p.group - 1) / p.group;
  TSQ_TRY(checkRange("columns", p.begin, p.end, p.k, reason));
  TSQ_TRY(checkRange("groups", p.id, p.id + p.count, groups, reason));
  if ((p.count - 1) * p.group >= p.end - p.begin) {
    return refuse(kTsqCudaArgument, reason, "calibration: %lld groups of %lld do not begin within %lld columns",
                  static_cast<long long>(p.count), static_cast<long long>(p.group),
                  static_cast<long long>(p.end - p.begin));
  }
  if (p.steps < 0 || !(p.maxShrink >= 0 && p.maxShrink < 1) || (p.steps > 0 && !(p.norm > 0))) {
    return refuse(kTsqCudaArgument, reason, "calibration: a search of %d steps to 1 - %g by norm %g", p.steps,
                  p.maxShrink, p.norm);
  }
  return checkOperands({{"the weight", p.w, 4},
                        {"the dead columns", p.dead, 1, true},
                        {"the importance", p.importance, 4, true},
                        {"the clip", p.clip, 4, true},
                        {"the scales", p.scales, 4},
                        {"the zero points", p.zeros, 1, p.grid.symmetric != 0}},
                       reason);
}

inline int checkCodes(const TsqCudaCodes& p, TsqCudaText reason) {
  TSQ_TRY(checkGroups(p.n, p.k, p.group, reason));
  return checkOperands({{"the scales", p.scales, 4},
                        {"the zero points", p.zeros, 1, p.grid.symmetric != 0},
                        {"the groups", p.groupIndex, 4, true}},
                       reason);
}

inline int checkGptq(const TsqCudaGptq& p, TsqCudaText reason) {
  TSQ_TRY(checkCodes(p.on, reason));
  return checkOperands({{"the weight", p.source, 4},
                        {"the dead columns", p.dead, 1},
                        {"the columns", p.columns, 4},
                        {"the groups", p.on.groupIndex, 4},
                        {"the factor", p.u, 4},
                        {"the weight under way", p.w, 16},
                        {"the errors", p.errors, 4},
                        {"the codes", p.codes, 1}},
                       reason);
}

inline int checkObjective(const TsqCudaObjective& p, TsqCudaText reason) {
  const bool codes = p.approx == nullptr && p.scale == nullptr;
  TSQ_TRY(codes ? checkCodes(p.on, reason) : checkGroups(p.on.n, p.on.k, p.on.group, reason));
  return checkOperands({{"the weight", p.w, 4},
                        {"the approximation", p.approx, 4, true},
                        {"the codes", p.codes, 1, !codes},
                        {"the scale", p.scale, 4, true},
                        {"the residual", p.d, 4},
                        {"the Hessian", p.h, 4},
                        {"the partial sums", p.partials, 8},
                        {"the sum", p.sum, 8}},
                       reason);
}

}  // namespace tsq::cuda::module
