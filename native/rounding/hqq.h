// HQQ (Badri & Shaji 2023, "Half-Quadratic Quantization"; reference code mobiusml/hqq, core/optimize.py): scales and
// zero points of least |w - dequantized|^norm, norm < 1, found without calibration.
#pragma once
#include <cstdint>

#include "rounding/rounding.h"

namespace tsq {

struct HqqSpec {
  GridSpec grid;
  int steps = 20;       // of alternation, at most; a group ends earlier where its error rises
  double norm = 0.7;    // above 0, at most 1
  double beta = 10;     // weight of the quadratic half, in units of the scale's square
  double kappa = 1.01;  // growth of beta a step
};

// Scales, zero points and nearest codes: no group has a larger sum of |error|^norm than nearest codes on its range.
// clip: [n, G] largest |w| kept, or null. Threaded over rows; the same bytes for any number of threads.
Status roundHqq(const float* w, int64_t n, int64_t k, const HqqSpec& spec, const float* clip, RoundedWeight out,
                AbortFlag abort);

}  // namespace tsq
