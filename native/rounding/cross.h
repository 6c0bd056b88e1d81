// What calibration knows beside H of two runs of the same model: X, the inputs of a layer in the unquantized model, and
// X~, those behind quantized layers. From both, the weights that give X W^T from X~ (Qronos, arXiv 2505.11695).
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "rounding/rounding.h"

namespace tsq {

// M = sum of (x - x~) x~^T over rows, [k, k] f32. X~^T X is M^T + H: kept as a difference, which is small.
class CrossGram {
 public:
  static Result<std::unique_ptr<CrossGram>> create(int64_t k);
  int64_t k() const { return k_; }
  // Rows of x~ and of x, [rows, k] each. Threaded; the result depends only on the sequence of calls.
  Status accumulate(const float* quantized, const float* original, int64_t rows);
  const float* data() const { return matrix_.as<float>(); }  // row-major
  uint64_t bytes() const { return matrix_.size() + panels_.size(); }

 private:
  int64_t k_ = 0;
  AlignedBuffer matrix_, panels_;
};

struct TargetReport {
  double damp = 0;    // used
  bool kept = false;  // nothing could be solved: the target is w
  std::string note;   // why, for people
};

// target [n, k] = w + (H + damp I)^-1 M^T w, damp in units of the mean diagonal: the least of |X w - X~ target|^2 +
// damp |w - target|^2 for each row. H of x~. w itself where H or M is not finite, or H cannot be factored. Threaded,
// the same bytes for any number of threads. target may not be w. Errors: kShape, kNumeric (w not finite), kMemory,
// kAborted.
Result<TargetReport> correctTarget(const float* w, int64_t n, int64_t k, const Hessian& hessian, const CrossGram& cross,
                                   double damp, float* target, AbortFlag abort);

}  // namespace tsq
