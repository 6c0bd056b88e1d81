// Types whose scale follows from the largest or the smallest number of a block, without a search (but with one where an
// importance matrix is given).
#include <algorithm>
#include <cmath>

#include "gguf/encode.h"
#include "gguf/search.h"
#include "gguf/store_codes.h"

namespace tsq::gguf {
namespace {

// 1 / d, or 0 where d is 0 or so small that the reciprocal is infinite: such a block is all zeros in 16 bits anyway.
float reciprocal(float d) {
  const float inverse = 1 / d;
  return d != 0 && std::isfinite(inverse) ? inverse : 0.f;
}

void columnWeights(const float* x, const Importance& importance, float* w) {
  for (int e = 0; e < kSmall; ++e) w[e] = importance.columns[e] * std::sqrt(importance.rowMeanSquare + x[e] * x[e]);
}

// d * (code - top), codes 0 … 2 top - 1.
void signedBlock(const float* x, const Importance& importance, int top, Half& d, uint8_t* codes) {
  if (importance.columns != nullptr) {
    float w[kSmall];
    columnWeights(x, importance, w);
    d.set(fitSigned(x, kSmall, top, w, codes));
    return;
  }
  const float scale = peakOf(x, kSmall).value / static_cast<float>(-top), inverse = reciprocal(scale);
  d.set(scale);
  for (int e = 0; e < kSmall; ++e) {
    const int code = static_cast<int>(x[e] * inverse + (static_cast<float>(top) + 0.5f));
    codes[e] = static_cast<uint8_t>(std::min(2 * top - 1, code));
  }
}

// d * code + m, codes 0 … top.
void offsetBlock(const float* x, const Importance& importance, int top, Half& d, Half& m, uint8_t* codes) {
  if (importance.columns != nullptr) {
    float w[kSmall];
    columnWeights(x, importance, w);
    const MinMaxFit fit = fitMinMax(x, kSmall, w, {top, -0.9f, 0.05f, 36, false}, codes);
    d.set(fit.scale);
    m.set(-fit.min);
    return;
  }
  const auto [low, high] = std::minmax_element(x, x + kSmall);
  const float scale = (*high - *low) / static_cast<float>(top), inverse = reciprocal(scale);
  d.set(scale);
  m.set(*low);
  for (int e = 0; e < kSmall; ++e)
    codes[e] = static_cast<uint8_t>(std::min(top, static_cast<int>((x[e] - *low) * inverse + 0.5f)));
}

// -1, 0, 1 as 0, 1, 2.
void ternaryCodes(const float* x, Half& d, uint8_t* codes) {
  const float scale = peakOf(x, kLarge).magnitude, inverse = reciprocal(scale);
  d.set(scale);
  for (int e = 0; e < kLarge; ++e) codes[e] = static_cast<uint8_t>(std::lround(x[e] * inverse) + 1);
}

// Five base-3 digits, `stride` apart, as a fixed-point number below 1, rounded up: so that multiplying by 3 brings them
// out.
uint8_t packTernary(const uint8_t* codes, int digits, int stride) {
  int value = 0;
  for (int n = 0; n < 5; ++n) value = value * 3 + (n < digits ? codes[n * stride] : 0);
  return static_cast<uint8_t>((value * 256 + 242) / 243);
}

}  // namespace

void encodeBlock(const float* x, const Importance& importance, Q4_0& block) {
  uint8_t codes[kSmall];
  signedBlock(x, importance, 8, block.d, codes);
  storeCodes(codes, block);
}

void encodeBlock(const float* x, const Importance& importance, Q5_0& block) {
  uint8_t codes[kSmall];
  signedBlock(x, importance, 16, block.d, codes);
  storeCodes(codes, block);
}

void encodeBlock(const float* x, const Importance& importance, Q4_1& block) {
  uint8_t codes[kSmall];
  offsetBlock(x, importance, 15, block.d, block.m, codes);
  storeCodes(codes, block);
}

void encodeBlock(const float* x, const Importance& importance, Q5_1& block) {
  uint8_t codes[kSmall];
  offsetBlock(x, importance, 31, block.d, block.m, codes);
  storeCodes(codes, block);
}

void encodeBlock(const float* x, const Importance&, Q8_0& block) {
  const float d = peakOf(x, kSmall).magnitude / 127, inverse = reciprocal(d);
  block.d.set(d);
  for (int e = 0; e < kSmall; ++e) block.qs[e] = static_cast<int8_t>(std::round(x[e] * inverse));
}

void encodeBlock(const float* x, const Importance&, MXFP4& block) {
  const float peak = peakOf(x, kSmall).magnitude;
  // E2M1's largest number is 6 = 1.5 * 2^2.
  block.e = static_cast<uint8_t>(peak > 0 ? clampTo(std::ilogb(peak) - 2 + 127, 0, 254) : 0);
  const float d = halfOfExponent(block.e);
  uint8_t codes[kSmall];
  for (int e = 0; e < kSmall; ++e) {
    int best = 0;
    for (int code = 1; code < 16; ++code)
      if (std::fabs(static_cast<float>(kE2M1Doubled[code]) * d - x[e]) <
          std::fabs(static_cast<float>(kE2M1Doubled[best]) * d - x[e]))
        best = code;
    codes[e] = static_cast<uint8_t>(best);
  }
  packNibbles(codes, block.qs);
}

void encodeBlock(const float* x, const Importance&, Q8_K& block) {
  block = {};
  const float inverse = -127.f / peakOf(x, kLarge).value;
  if (!std::isfinite(inverse)) return;
  block.d.set(1 / inverse);
  for (int group = 0; group < 16; ++group) {
    int sum = 0;
    for (int e = 16 * group; e < 16 * group + 16; ++e) {
      block.qs[e] = static_cast<int8_t>(std::min(127, nearest(inverse * x[e])));
      sum += block.qs[e];
    }
    block.bsums[2 * group] = static_cast<uint8_t>(sum);
    block.bsums[2 * group + 1] = static_cast<uint8_t>(sum >> 8);
  }
}

void encodeBlock(const float* x, const Importance&, TQ1_0& block) {
  uint8_t codes[kLarge];
  ternaryCodes(x, block.d, codes);
  for (int m = 0; m < 32; ++m) block.qs[m] = packTernary(codes + m, 5, 32);
  for (int m = 0; m < 16; ++m) block.qs[32 + m] = packTernary(codes + 160 + m, 5, 16);
  for (int m = 0; m < 4; ++m) block.qh[m] = packTernary(codes + 240 + m, 4, 4);
}

void encodeBlock(const float* x, const Importance&, TQ2_0& block) {
  uint8_t codes[kLarge];
  ternaryCodes(x, block.d, codes);
  packTwoBits(codes, 0, block.qs);
}

}  // namespace tsq::gguf
