// IQ4_NL and IQ4_XS: codes are indices of a fixed table of 16 values, denser around 0.
#include <algorithm>
#include <cmath>

#include "gguf/encode.h"
#include "gguf/search.h"

namespace tsq::gguf {
namespace {

constexpr int kTries = 7;

// Index of the nearest value; the larger one where two are equally near.
int nearestIndex(float x) {
  const int8_t* above =
      std::upper_bound(kIq4Values, kIq4Values + 16, x, [](float a, int8_t b) { return a < static_cast<float>(b); });
  const auto index = static_cast<int>(above - kIq4Values);
  if (index == 0) return 0;
  if (index == 16) return 15;
  const float below = static_cast<float>(kIq4Values[index - 1]);
  return x - below < static_cast<float>(kIq4Values[index]) - x ? index - 1 : index;
}

// The scale of a group of 32 that explains most of its weighted sum of squares.
float fitTable(const float* x, const float* w) {
  const Peak peak = peakOf(x, kSmall);
  if (peak.magnitude < kLeastMagnitude) return 0;
  float scale = 0, best = 0;
  const auto attempt = [&](float inverse, bool first) {
    float sumQX = 0, sumQQ = 0;
    for (int e = 0; e < kSmall; ++e) {
      const auto value = static_cast<float>(kIq4Values[nearestIndex(inverse * x[e])]);
      sumQX += w[e] * value * x[e];
      sumQQ += w[e] * value * value;
    }
    if (!(sumQQ > 0 && (first || sumQX * sumQX > best * sumQQ))) return;
    scale = sumQX / sumQQ;
    best = scale * sumQX;
  };
  constexpr auto kLowest = static_cast<float>(kIq4Values[0]);
  attempt(1 / (-peak.value / kLowest), true);
  for (int step = -kTries; step <= kTries; ++step) attempt((static_cast<float>(step) + kLowest) / peak.value, false);
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
    qs[j] = static_cast<uint8_t>(nearestIndex(inverse * x[j]) | nearestIndex(inverse * x[j + 16]) << 4);
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
