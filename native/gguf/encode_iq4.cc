// IQ4_NL and IQ4_XS: codes are indices of a fixed table of 16 values, denser around 0.
#include <algorithm>
#include <cmath>

#include "gguf/encode.h"
#include "gguf/iq4.h"
#include "gguf/search.h"

namespace tsq::gguf {
namespace {

constexpr int kTries = 7;
// Scales tried for a group: the one of its peak, then 2 kTries + 1 around it.
constexpr int kScales = 2 * kTries + 2;

// The scale of a group of 32 that explains most of its weighted sum of squares. All scales are tried side by side: each
// sum has the order of ggml's.
float fitTable(const float* x, const float* w) {
  const Peak peak = peakOf(x, kSmall);
  if (peak.magnitude < kLeastMagnitude) return 0;
  constexpr auto kLowest = static_cast<float>(kIq4Values[0]);
  float inverse[kScales], sumQX[kScales] = {}, sumQQ[kScales] = {};
  inverse[0] = 1 / (-peak.value / kLowest);
  for (int i = 1; i < kScales; ++i) inverse[i] = (static_cast<float>(i - 1 - kTries) + kLowest) / peak.value;
  for (int e = 0; e < kSmall; ++e) {
    for (int i = 0; i < kScales; ++i) {
      const float value = iq4Value(inverse[i] * x[e]);
      sumQX[i] += w[e] * value * x[e];
      sumQQ[i] += w[e] * value * value;
    }
  }
  float scale = 0, best = 0;
  for (int i = 0; i < kScales; ++i) {
    if (!(sumQQ[i] > 0 && (i == 0 || sumQX[i] * sumQX[i] > best * sumQQ[i]))) continue;
    scale = sumQX[i] / sumQQ[i];
    best = scale * sumQX[i];
  }
  return scale;
}

void weightsOf(const float* x, const float* columns, float meanSquare, float* w) {
  for (int e = 0; e < kSmall; ++e)
    w[e] = columns != nullptr ? columns[e] * std::sqrt(meanSquare + x[e] * x[e]) : x[e] * x[e];
}

float twiceMeanSquare(const float* x, int n) {
  float sum = 0;
  for (int i = 0; i < n; ++i) sum += x[i] * x[i];
  return sum * (2.f / static_cast<float>(n));
}

void packTable(const float* x, float scale, uint8_t* qs) {
  const float inverse = scale != 0 ? 1 / scale : 0.f;
  for (int j = 0; j < 16; ++j)
    qs[j] = static_cast<uint8_t>(iq4Index(inverse * x[j]) | iq4Index(inverse * x[j + 16]) << 4);
}

}  // namespace

void encodeBlock(const float* x, const Importance& importance, IQ4_NL& block) {
  float w[kSmall];
  weightsOf(x, importance.columns, twiceMeanSquare(x, kSmall), w);
  const float scale = fitTable(x, w);
  block.d.set(scale);
  packTable(x, scale, block.qs);
}

void encodeBlock(const float* x, const Importance& importance, IQ4_XS& block) {
  block = {};
  float scales[8], w[kSmall];
  const float meanSquare = twiceMeanSquare(x, kLarge);
  for (int group = 0; group < 8; ++group) {
    const float* columns = importance.columns != nullptr ? importance.columns + 32 * group : nullptr;
    weightsOf(x + 32 * group, columns, meanSquare, w);
    scales[group] = fitTable(x + 32 * group, w);
  }
  const float d = -peakOf(scales, 8).value / 32, inverse = d != 0 ? 1 / d : 0.f;
  block.d.set(d);
  int high = 0;
  for (int group = 0; group < 8; ++group) {
    const int scale = clampTo(nearest(inverse * scales[group]), -32, 31);
    packTable(x + 32 * group, d * static_cast<float>(scale), block.qs + 16 * group);
    const int stored = scale + 32;
    block.scalesLow[group / 2] = static_cast<uint8_t>(block.scalesLow[group / 2] | (stored & 15) << (4 * (group % 2)));
    high |= stored >> 4 << (2 * group);
  }
  block.scalesHigh[0] = static_cast<uint8_t>(high);
  block.scalesHigh[1] = static_cast<uint8_t>(high >> 8);
}

}  // namespace tsq::gguf
