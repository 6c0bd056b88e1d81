// What calibration knows beside H of two runs of the same model: X, the inputs of a layer in the unquantized model, and
// X~, those behind quantized layers. From both, the weights that give X W^T from X~ (Qronos, arXiv 2505.11695).
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "rounding/rounding.h"

namespace tsq {

// M = sum of d x~^T over rows, [width, k] f32, where d is by how much something in the unquantized model is ahead of
// the same in the quantized one: of the inputs themselves, d = x - x~ (X~^T X is M^T + H: kept as a difference, which
// is small), or of the residual stream that the layer's output is added to.
class CrossGram {
 public:
  static Result<std::unique_ptr<CrossGram>> create(int64_t width, int64_t k);
  int64_t width() const { return width_; }
  int64_t k() const { return k_; }
  // d = original - quantized, or original where quantized is null, [rows, width]; x [rows, k] are the x~. Threaded; the
  // result depends only on the sequence of calls.
  Status accumulate(const float* original, const float* quantized, const float* x, int64_t rows);
  const float* data() const { return matrix_.as<float>(); }  // row-major
  uint64_t bytes() const { return matrix_.size() + panels_.size(); }

 private:
  int64_t width_ = 0, k_ = 0;
  AlignedBuffer matrix_, panels_;
};

struct TargetReport {
  double damp = 0;    // used
  bool kept = false;  // nothing could be solved: the target is w
  std::string note;   // why, for people
};

// target [n, k] = w + (H + damp I)^-1 (M^T w + R^T), damp in units of the mean diagonal, M of the inputs [k, k], R of
// the residual stream [n, k] or null: with D its drift, the least |X w + D - X~ target|^2 + damp |w - target|^2 of each
// row. H of x~. w itself where H, M or R is not finite, or H cannot be factored. Threaded, the same bytes for any
// number of threads. target may not be w. Errors: kShape, kNumeric (w not finite), kMemory, kAborted.
Result<TargetReport> correctTarget(const float* w, int64_t n, int64_t k, const Hessian& hessian, const CrossGram& cross,
                                   const CrossGram* residual, double damp, float* target, AbortFlag abort);

}  // namespace tsq
