// Choosing integer codes for a weight: nearest, error-minimising scale search, GPTQ. Source of the formulas: beside
// each definition.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "runtime/memory.h"
#include "runtime/scalar.h"
#include "runtime/status.h"
#include "runtime/thread_pool.h"

namespace tsq {

// The grid that codes live on. value = scale * (code - zero), code in [0, 2^bits).
struct GridSpec {
  int bits = 4;                   // 2 … 8
  bool symmetric = true;          // zero = 2^(bits-1)
  int64_t groupSize = 0;          // along k; k for per-channel
  bool perTensor = false;         // one scale and zero for the whole weight (groupSize = k)
  Dtype scaleType = Dtype::kF32;  // scales are rounded to it before codes are chosen, floored at 2^-24 (f16) or 2^-126
  int minZero = 0;                // 1 for GPTQ v1 files, which cannot store 0
};

struct SearchSpec {
  bool enabled = false;    // false: scales from the range (nearest), true: the scale of least weighted error (mse)
  int steps = 100;         // candidates
  double maxShrink = 0.8;  // the range is shrunk to no less than 1 - maxShrink
  double norm = 2.4;       // |error|^norm; 2 where importance is given
  const float* importance = nullptr;  // [k]: weight of a column's error, E[x^2]; or null
};

// Outputs, allocated by the caller: codes [n, k], scales [n, G], zeros [n, G] (null when symmetric), G = ceil(k /
// groupSize).
struct RoundedWeight {
  uint8_t* codes;
  float* scales;
  uint8_t* zeros;
};

// Scales and zero points of every group (perTensor: of the whole weight, repeated), then nearest codes.
// clip: [n, G] largest |w| kept, or null. Threaded over rows.
Status roundNearest(const float* w, int64_t n, int64_t k, const GridSpec& grid, const SearchSpec& search,
                    const float* clip, RoundedWeight out, AbortFlag abort);

// w[n, k] from codes.
void dequantizeCodes(const uint8_t* codes, const float* scales, const uint8_t* zeros, int64_t n, int64_t k, int bits,
                     int64_t groupSize, const int32_t* groupIndex, float* w);

// H = sum of x x^T over rows (times 2 / rows at use), [k, k] f32, symmetric.
class Hessian {
 public:
  static Result<std::unique_ptr<Hessian>> create(int64_t k);
  int64_t k() const { return k_; }
  double rows() const { return rows_; }
  // Adds rows of activations x [rows, k] (leading dimension ld). Threaded; the result depends only on the sequence of
  // calls.
  Status accumulate(const float* x, int64_t ld, int64_t rows);
  const float* data() const { return matrix_.as<float>(); }  // row-major [k, k], both triangles valid after finish()
  void finish();  // mirrors the triangle; idempotent until the next accumulate
  uint64_t bytes() const { return matrix_.size() + panels_.size(); }
  float* mutableData() { return matrix_.as<float>(); }  // tests and loading
  void setRows(double rows) { rows_ = rows; }

 private:
  int64_t k_ = 0;
  double rows_ = 0;
  bool mirrored_ = true;
  AlignedBuffer matrix_, panels_;
};

// sum over outputs of d^T H d / rows, d = w - approx: the objective that GPTQ minimises (mean squared output error,
// summed over outputs).
Result<double> layerError(const float* w, const float* approx, int64_t n, int64_t k, const Hessian& hessian);

enum class ActOrder { kNone, kStatic, kGroupAware, kDynamic };
// kNone: columns in order. kStatic: descending diag(H), groups fixed beforehand (no run-time index). kGroupAware:
// groups by descending sum of diag(H), columns inside by descending diag(H), scales computed as a group is reached.
// kDynamic: descending diag(H), groups of consecutive visited columns; needs a group index at run time (desc_act).

struct GptqSpec {
  GridSpec grid;
  SearchSpec search;            // importance null: diag(H) is used where search is enabled
  const float* clip = nullptr;  // [n, G] or null
  double damp = 0.01;           // share of mean diag(H) added to the diagonal
  double dampStep = 0.01;       // on failure damp rises by this, doubling, up to 1
  int block = 128;              // columns of a lazy update
  ActOrder order = ActOrder::kStatic;
};

struct GptqReport {
  double damp = 0;           // used
  bool degraded = false;     // eigenvalue floor or a fallback was needed
  bool keptNearest = false;  // nearest's objective on the same scales was lower, so nearest's codes are returned
  int64_t deadColumns = 0;   // diag(H) = 0
  double error = 0;          // objective of the result (layerError)
  double nearestError = 0;   // objective of nearest codes on the same scales
  std::string note;          // why degraded, for people
  // Seconds of the inverse factor, of scales and columns, and of the comparison.
  double factorSeconds = 0, columnSeconds = 0, compareSeconds = 0;
};

// groupIndex: [k] out, written for kDynamic; may be null otherwise. w is read only. hessian.finish() must have been
// called.
Result<GptqReport> gptq(const float* w, int64_t n, int64_t k, const Hessian& hessian, const GptqSpec& spec,
                        RoundedWeight out, int32_t* groupIndex, AbortFlag abort);

// Largest |w| to keep in every group [n, G]: the shrink (20 steps down to 1 - maxShrink) that minimises d_g^T H_gg d_g
// with nearest codes on the shrunken range (AWQ's clip search, arXiv 2306.00978 and AutoAWQ's auto_clip, on second
// moments).
Status searchClip(const float* w, int64_t n, int64_t k, const Hessian& hessian, const GridSpec& grid, int steps,
                  double maxShrink, float* clip, AbortFlag abort);

// In-place Cholesky factor (lower) of a [k, k] f64 or f32 matrix and inverse helpers: rounding/cholesky.h.

}  // namespace tsq
