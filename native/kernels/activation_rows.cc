#include "kernels/activation_rows.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "runtime/scalar.h"

namespace tsq {
namespace {

constexpr int64_t kLanes = 16;  // side by side, so that compilers make vectors of them
constexpr int32_t kInfinityBits = 0x7f800000;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

int32_t magnitudeBits(float x) {
  return static_cast<int32_t>(floatToBits(x) & 0x7fffffffu);
}

// Largest numbers of the 8-bit floats, mantissa bits and exponent of the least normal number.
struct SmallFloat {
  float most;
  int mantissa, leastExponent;
};
constexpr SmallFloat kE4M3 = {448.0f, 3, -6}, kE5M2 = {57344.0f, 2, -14};

SmallFloat smallFloat(ActivationType type) {
  return type == ActivationType::kE4M3 ? kE4M3 : kE5M2;
}

// Adding 1.5 * 2^23 units in the last place that the result is to have rounds to those, halves to even.
template <int kMantissa, int kLeastExponent>
TSQ_INLINE float nearestSmall(float x, float most) {
  const float size = std::fabs(x), kept = size > most ? most : size;  // a NaN stays
  constexpr uint32_t kLeastBits = static_cast<uint32_t>(kLeastExponent + 127) << 23;
  const uint32_t exponent = floatToBits(kept) & 0x7f800000u;
  const uint32_t step = (exponent > kLeastBits ? exponent : kLeastBits) + (static_cast<uint32_t>(23 - kMantissa) << 23);
  const float magic = 1.5f * bitsToFloat(step);
  return std::copysign((kept + magic) - magic, x);
}

template <int kMantissa, int kLeastExponent>
void roundSmall(float scale, float most, const float* x, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = nearestSmall<kMantissa, kLeastExponent>(x[i] / scale, most);
}

void roundWhole(ActivationGrid grid, const float* x, int64_t count, float* out) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  const auto least = static_cast<float>(-128 - grid.zero), most = static_cast<float>(127 - grid.zero);
  for (int64_t i = 0; i < count; ++i) {
    const float exact = x[i] / grid.scale, above = exact < least ? least : exact;
    const float kept = above > most ? most : above;
    out[i] = (kept + kMagic) - kMagic;
  }
}

}  // namespace

Status check(const ActivationScheme& scheme) {
  const auto refuse = [](const std::string& what) { return Status(Code::kFormat, "activations of a weight: " + what); };
  if (scheme.type > ActivationType::kE5M2 || scheme.grain > ActivationGrain::kGroup)
    return refuse("their type or what shares a scale is unknown");
  if (!std::isfinite(scheme.scale) || scheme.scale <= 0)
    return refuse("their scale is " + std::to_string(scheme.scale) + ", expected a positive number");
  if (scheme.zero < -128 || scheme.zero > 127)
    return refuse("their zero point is " + std::to_string(scheme.zero) + ", expected -128 to 127");
  if (!std::isfinite(scheme.threshold) || scheme.threshold < 0)
    return refuse("their threshold is " + std::to_string(scheme.threshold) + ", expected 0 or more");
  if ((scheme.grain == ActivationGrain::kGroup) != (scheme.groupSize > 0))
    return refuse("groups of " + std::to_string(scheme.groupSize) + " columns, expected a size with groups alone");
  const bool integer = scheme.type == ActivationType::kInt8;
  if ((!integer && (!scheme.symmetric || scheme.threshold > 0)) || (scheme.symmetric && scheme.zero != 0) ||
      (!scheme.symmetric && scheme.threshold > 0))
    return refuse("a zero point or a threshold, which they cannot have");
  if (scheme.threshold > 0 && scheme.grain == ActivationGrain::kGroup)
    return refuse("a threshold beside scales of groups, expected one of the two");
  if (!scheme.dynamic && scheme.grain != ActivationGrain::kTensor)
    return refuse("static scales that are not of the whole tensor");
  return {};
}

ActivationRange rangeOf(const float* x, int64_t count, float below) {
  const int32_t limit = below > 0 ? magnitudeBits(below) : std::numeric_limits<int32_t>::max();
  float least[kLanes], most[kLanes];
  int32_t peak[kLanes] = {};
  std::fill(least, least + kLanes, std::numeric_limits<float>::infinity());
  std::fill(most, most + kLanes, -std::numeric_limits<float>::infinity());
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const float value = x[i + lane];
      const int32_t bits = magnitudeBits(value), counted = bits < limit ? bits : 0;
      peak[lane] = counted > peak[lane] ? counted : peak[lane];
      least[lane] = value < least[lane] ? value : least[lane];
      most[lane] = value > most[lane] ? value : most[lane];
    }
  }
  for (int64_t lane = 0; i < count; ++i, ++lane) {
    const int32_t bits = magnitudeBits(x[i]);
    if (bits < limit) peak[lane] = std::max(peak[lane], bits);
    least[lane] = std::min(least[lane], x[i]);
    most[lane] = std::max(most[lane], x[i]);
  }
  return {*std::min_element(least, least + kLanes), *std::max_element(most, most + kLanes),
          *std::max_element(peak, peak + kLanes)};
}

ActivationRange joined(const ActivationRange& a, const ActivationRange& b) {
  return {std::min(a.least, b.least), std::max(a.most, b.most), std::max(a.peakBits, b.peakBits)};
}

ActivationGrid gridOf(const ActivationScheme& scheme, const ActivationRange& range) {
  if (!scheme.dynamic) return {range.peakBits > kInfinityBits ? kNan : scheme.scale, scheme.zero};
  if (range.peakBits >= kInfinityBits) return {kNan, 0};
  const float peak = bitsToFloat(static_cast<uint32_t>(range.peakBits));
  if (scheme.type != ActivationType::kInt8) {
    const float most = smallFloat(scheme.type).most;
    // By groups as vLLM's per_token_group_quant, by rows as its dynamic_per_token_scaled_fp8_quant.
    if (scheme.grain == ActivationGrain::kGroup) return {std::max(peak, 1e-10f) / most, 0};
    return {std::max(peak / most, 1.0f / (most * 512.0f)), 0};
  }
  if (scheme.symmetric) return {peak / 127.0f, 0};
  const float scale = (range.most - range.least) / 255.0f;
  const float zero = std::nearbyint(-128.0f - range.least / scale);
  // Activations that are nearly one number would need a zero point that no f32 holds exactly.
  constexpr float kMostZero = 1 << 20;
  if (!(scale > 0) || !std::isfinite(scale) || !(std::fabs(zero) <= kMostZero)) return {peak / 127.0f, 0};
  return {scale, static_cast<int32_t>(zero)};
}

void roundToGrid(const ActivationScheme& scheme, ActivationGrid grid, const float* x, int64_t count, float* out) {
  if (grid.scale == 0) return std::fill(out, out + count, 0.0f);
  if (std::isnan(grid.scale)) return std::fill(out, out + count, kNan);
  if (scheme.type == ActivationType::kInt8) return roundWhole(grid, x, count, out);
  if (scheme.type == ActivationType::kE4M3)
    return roundSmall<kE4M3.mantissa, kE4M3.leastExponent>(grid.scale, kE4M3.most, x, count, out);
  roundSmall<kE5M2.mantissa, kE5M2.leastExponent>(grid.scale, kE5M2.most, x, count, out);
}

void roundRow(const ActivationScheme& scheme, ActivationGrid grid, float* x, int64_t k, const uint8_t* keep) {
  constexpr int64_t kChunk = 256;
  float rounded[kChunk];
  const bool grouped = scheme.grain == ActivationGrain::kGroup;
  const int64_t stride = grouped ? scheme.groupSize : k;
  for (int64_t group = 0; group < k; group += stride) {
    const int64_t end = std::min(group + stride, k);
    if (grouped) grid = gridOf(scheme, rangeOf(x + group, end - group));
    for (int64_t begin = group; begin < end; begin += kChunk) {
      const int64_t count = std::min(kChunk, end - begin);
      roundToGrid(scheme, grid, x + begin, count, rounded);
      for (int64_t i = 0; i < count; ++i) {
        if (keep == nullptr || keep[begin + i] == 0) x[begin + i] = rounded[i] * grid.scale;
      }
    }
  }
}

}  // namespace tsq
