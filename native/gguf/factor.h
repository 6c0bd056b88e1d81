// Scales of several groups as one f16 number times a small whole number each, exactly.
#pragma once
#include <cmath>

#include "gguf/blocks.h"

namespace tsq::gguf {

// d and factors[i] in low … high with d * factors[i] = values[i], bit for bit in float32. False where there are none:
// the products of K types always have one, as an f16 number times eight bits is exact.
TSQ_INLINE bool factorScales(const float* values, int count, int low, int high, Half& d, int* factors) {
  float peak = 0;
  for (int i = 0; i < count; ++i)
    if (std::fabs(values[i]) > std::fabs(peak)) peak = values[i];
  const auto tryFactor = [&](float wanted) {
    const float scale = d.set(wanted);
    if (!std::isfinite(scale)) return false;
    for (int i = 0; i < count; ++i) {
      const float ratio = scale == 0 ? 0 : std::round(values[i] / scale);
      if (!(ratio >= static_cast<float>(low) && ratio <= static_cast<float>(high))) return false;
      factors[i] = static_cast<int>(ratio);
      if (floatToBits(scale * static_cast<float>(factors[i])) != floatToBits(values[i])) return false;
    }
    return true;
  };
  if (peak == 0) {
    // Zeros of either sign.
    const float sign = std::copysign(1.f, values[0]);
    if (tryFactor(sign * 0.f)) return true;
    if (low >= 0) return false;
    d.set(0.f);
    for (int i = 0; i < count; ++i) factors[i] = std::signbit(values[i]) ? -1 : 0;
    return true;
  }
  for (int factor = 1; factor <= std::max(high, -low); ++factor) {
    if (factor <= high && tryFactor(peak / static_cast<float>(factor))) return true;
    if (-factor >= low && tryFactor(peak / static_cast<float>(-factor))) return true;
  }
  return false;
}

}  // namespace tsq::gguf
