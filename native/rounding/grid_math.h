// The arithmetic of grids, a number at a time: what the CPU's loops (lanes.cc) and a device's kernels
// (cuda/calibration) share, so that both choose the same scales and codes. Formulas: docs/rounding.md. To be compiled
// without contraction: a product and a sum stay two roundings.
#pragma once
#include <cfloat>
#include <cstdint>

#if defined(__CUDACC__)
#define TSQ_GRID __host__ __device__ __forceinline__ static
#else
#define TSQ_GRID __attribute__((always_inline)) static inline
#endif

namespace tsq::rounding {

// GridSpec in the form the loops want.
struct LaneGrid {
  bool symmetric = true;
  float maxCode = 15;       // 2^bits - 1
  float symmetricZero = 8;  // 2^(bits-1)
  float minZero = 0;
  float minScale = 0;        // smallest positive number of f16 (2^-24), smallest normal of f32 and bf16
  float subnormalBelow = 0;  // where the scale type has subnormals that are used: 2^-14 for f16
  float maxScale = 0;        // largest finite of the scale type
  uint32_t dropBits = 0;     // mantissa bits that the scale type lacks
};

constexpr int64_t kErrorChain = 256;  // columns whose errors are summed in f32 before they are added to a double

TSQ_GRID float least(float a, float b) {
  return a < b ? a : b;
}
TSQ_GRID float most(float a, float b) {
  return a > b ? a : b;
}

// x + kRound - kRound rounds |x| < 2^22 to the nearest integer, ties to even, in the default rounding mode.
TSQ_GRID float toInteger(float x) {
  constexpr float kRound = 12582912.f;  // 1.5 * 2^23
  return (x + kRound) - kRound;
}

TSQ_GRID uint32_t bitsOfFloat(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  return bits;
}
TSQ_GRID float floatOfBits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

// Rounds a positive, finite, normal f32 to one with dropBits fewer mantissa bits, ties to even.
TSQ_GRID float dropMantissa(float x, uint32_t dropBits) {
  const uint32_t bits = bitsOfFloat(x);
  const uint32_t mask = (1u << dropBits) - 1u;
  return floatOfBits((bits + (mask >> 1) + (dropBits != 0 ? (bits >> dropBits) & 1u : 0u)) & ~mask);
}

// Rounds a scale within [minScale, maxScale] to its stored type. Below subnormalBelow (2^-14 for f16, 0 for the others)
// the type's numbers are multiples of 2^-24.
TSQ_GRID float toStored(float x, uint32_t dropBits, float subnormalBelow) {
  const float subnormal = toInteger(x * 16777216.f) * 5.9604644775390625e-8f;
  const float normal = dropMantissa(x, dropBits);
  return x < subnormalBelow ? subnormal : normal;
}

// |x|^norm, relative error below 1e-5 where the result is a normal number; below 2^-126 it is about 0.
// log2 by the series of atanh on [sqrt(1/2), sqrt(2)), 2^t by its Taylor series on [-1/2, 1/2].
TSQ_GRID float power(float x, float norm) {
  const int32_t bits = static_cast<int32_t>(bitsOfFloat(x) & 0x7fffffffu);
  const int32_t exponent = (bits - 0x3f3504f3) >> 23;
  const float mantissa = floatOfBits(static_cast<uint32_t>(bits - exponent * 8388608));
  const float s = (mantissa - 1.f) / (mantissa + 1.f), s2 = s * s;
  const float log2 =
      static_cast<float>(exponent) +
      s * (2.88539008f + s2 * (0.961796694f + s2 * (0.577078016f + s2 * (0.412198583f + s2 * 0.320598898f))));
  const float t = least(most(norm * log2, -126.f), 126.f);
  const float whole = toInteger(t), f = t - whole;
  const float fraction =
      1.f +
      f * (0.693147181f + f * (0.240226507f + f * (0.0555041087f +
                                                   f * (0.00961812911f + f * (0.00133335581f + f * 0.000154035304f)))));
  return fraction * floatOfBits(static_cast<uint32_t>((static_cast<int32_t>(whole) + 127) * 8388608));
}

// The scale of the range [low, high] times shrink, low <= 0 <= high; the zero point is grid.symmetricZero.
TSQ_GRID float symmetricScale(const LaneGrid& grid, float low, float high, float shrink) {
  const float peak = most(-low, high) * shrink;
  const float scale = toStored(least(most(peak / (grid.maxCode * 0.5f), grid.minScale), grid.maxScale), grid.dropBits,
                               grid.subnormalBelow);
  return peak == 0.f ? 1.f : scale;
}

// The same with a zero point.
TSQ_GRID float asymmetricScale(const LaneGrid& grid, float low, float high, float shrink, float* zero) {
  const float lo = low * shrink, hi = high * shrink;
  const float width = hi - lo;
  // A range wider than f32 reaches: divide first.
  const float raw = width <= FLT_MAX ? width / grid.maxCode : hi / grid.maxCode - lo / grid.maxCode;
  const float scale =
      width == 0.f ? 1.f : toStored(least(most(raw, grid.minScale), grid.maxScale), grid.dropBits, grid.subnormalBelow);
  *zero = most(toInteger(least(-lo / scale, grid.maxCode)), grid.minZero);
  return scale;
}

// What a shrunken range is compared by: the error of nearest codes in steps of the grid, code - zero in [low, high].
TSQ_GRID float stepError(float w, float inverseScale, float low, float high) {
  const float steps = w * inverseScale;
  return steps - toInteger(least(most(steps, low), high));
}
// Errors are summed in steps of the grid, which cannot underflow, and brought to a common unit at the end.
TSQ_GRID float errorUnit(float scale, float reference, bool square, float norm) {
  const float ratio = scale / reference;
  return square ? ratio * ratio : power(ratio, norm);
}

// Nearest code, less the zero point. Clamping to integers before rounding gives what clamping after it gives, and keeps
// the rounding in its domain.
TSQ_GRID float nearestStep(float w, float scale, float zero, float maxCode) {
  return toInteger(least(most(w / scale, -zero), maxCode - zero));
}

// The shrink of candidate i of a scale search.
TSQ_GRID float shrinkOf(double maxShrink, int steps, int i) {
  return static_cast<float>(1.0 - maxShrink * i / steps);
}

}  // namespace tsq::rounding
