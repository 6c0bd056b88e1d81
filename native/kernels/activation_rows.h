// Activations rounded as a scheme says: the grid of a row, and the nearest point of it.
//
// Grids are those of the engines that run such checkpoints (vLLM, csrc/quantization/w8a8): int8 without zero points has
// scale = absmax / 127; with them scale = (max - min) / 255 and zero = round(-128 - min / scale); E4M3 has absmax / 448
// and E5M2 absmax / 57344, by row at least 1 / (512 largest). Codes are x / scale to the nearest, halves to even,
// plus the zero point, and saturate. A row with a NaN, or with an infinity where the scale follows from it, becomes
// NaN.
#pragma once
#include <cstdint>

#include "kernels/activation_scheme.h"

namespace tsq {

// Of some activations. peak: the largest magnitude, as bits: those of an infinity or more where one is not finite.
struct ActivationRange {
  float least, most;
  int32_t peakBits;
};
// below: only magnitudes below it count; 0: all.
ActivationRange rangeOf(const float* x, int64_t count, float below = 0);
ActivationRange joined(const ActivationRange& a, const ActivationRange& b);

// x ~ scale * (code - zero); a scale of 0: all codes are `zero`; NaN: there are no codes.
struct ActivationGrid {
  float scale;
  int32_t zero;
};
ActivationGrid gridOf(const ActivationScheme& scheme, const ActivationRange& range);

// out = codes less the zero point, as floats: whole numbers of int8, or numbers of an 8-bit float. out may be x.
void roundToGrid(const ActivationScheme& scheme, ActivationGrid grid, const float* x, int64_t count, float* out);

// A row of k columns becomes what its codes stand for, in f32: group by group, or by `grid` for all. Columns with
// keep[column] != 0 stay; null: none do.
void roundRow(const ActivationScheme& scheme, ActivationGrid grid, float* x, int64_t k, const uint8_t* keep);

}  // namespace tsq
