// The K types: groups of 16 or 32 numbers fitted one by one, their scales (and minima) rounded to 4, 6 or 8 bits of a
// scale of the block, and all codes chosen anew for what the scales have become.
#include <algorithm>
#include <cmath>

#include "gguf/encode.h"
#include "gguf/search.h"
#include "gguf/store_codes.h"

namespace tsq::gguf {
namespace {

float sumOfSquares(const float* x, int n) {
  float sum = 0;
  for (int i = 0; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

// Weights of a group's columns with an importance matrix, and their sum.
float groupWeights(const float* x, const float* columns, int n, float meanSquare, float* w) {
  float sum = 0;
  for (int i = 0; i < n; ++i) {
    w[i] = columns[i] * std::sqrt(meanSquare + x[i] * x[i]);
    sum += w[i];
  }
  return sum;
}

// Codes of a group for its final scale; those of the search stay where the scale has become 0.
void chooseAgain(const float* x, int n, float scale, float min, int low, int high, uint8_t* codes) {
  if (scale == 0) return;
  for (int i = 0; i < n; ++i) codes[i] = static_cast<uint8_t>(clampTo(nearest((x[i] + min) / scale), low, high) - low);
}

// Numbers >= 0 of the groups as 0 … top of a common scale, the largest becoming top. Gives the scale.
float roundScales(const float* values, int n, int top, uint8_t* rounded) {
  const float high = std::max(0.f, *std::max_element(values, values + n));
  const float inverse = high > 0 ? static_cast<float>(top) / high : 0.f;
  for (int i = 0; i < n; ++i) rounded[i] = static_cast<uint8_t>(clampTo(nearest(inverse * values[i]), 0, top));
  return high / static_cast<float>(top);
}

// Q4_K and Q5_K: eight groups of 32 with a minimum each.
struct MinMaxBlock {
  Half d, dmin;
  uint8_t scales[12];
  uint8_t codes[kLarge];
};

MinMaxBlock minMaxBlock(const float* x, const Importance& importance, const MinMaxSearch& search) {
  MinMaxBlock block{};
  float scales[8], mins[8], sums[8] = {}, w[32];
  const bool weighted = importance.columns != nullptr;
  const float meanSquare = weighted ? 2 * sumOfSquares(x, kLarge) / kLarge : 0;
  for (int group = 0; group < 8; ++group) {
    const float* part = x + 32 * group;
    if (weighted) {
      sums[group] = groupWeights(part, importance.columns + 32 * group, 32, meanSquare, w);
    } else {
      const float rms = std::sqrt(sumOfSquares(part, 32) / 32);
      for (int i = 0; i < 32; ++i) w[i] = rms + std::fabs(part[i]);
    }
    const MinMaxSearch with{search.top, -0.9f, 0.05f, 36, false};
    const MinMaxFit fit = fitMinMax(part, 32, w, weighted ? with : search, block.codes + 32 * group);
    scales[group] = fit.scale;
    mins[group] = fit.min;
  }
  uint8_t scaleCodes[8], minCodes[8];
  const auto round = [&](const float* values, uint8_t* codes) {
    return weighted ? fitPositive(values, 8, 63, sums, codes) : roundScales(values, 8, 63, codes);
  };
  const float d = block.d.set(round(scales, scaleCodes)), dmin = block.dmin.set(round(mins, minCodes));
  for (int group = 0; group < 8; ++group) {
    setScaleMin(block.scales, group, {scaleCodes[group], minCodes[group]});
    chooseAgain(x + 32 * group, 32, d * scaleCodes[group], dmin * minCodes[group], 0, search.top,
                block.codes + 32 * group);
  }
  return block;
}

}  // namespace

void encodeBlock(const float* x, const Importance& importance, Q2_K& block) {
  float scales[16], mins[16], sums[16] = {}, w[16];
  uint8_t codes[kLarge];
  const bool weighted = importance.columns != nullptr;
  const float meanSquare = weighted ? sumOfSquares(x, kLarge) / kLarge : 0;
  for (int group = 0; group < 16; ++group) {
    const float* part = x + 16 * group;
    if (weighted) {
      sums[group] = groupWeights(part, importance.columns + 16 * group, 16, meanSquare, w);
    } else {
      for (int i = 0; i < 16; ++i) w[i] = std::fabs(part[i]);
    }
    const MinMaxSearch search =
        weighted ? MinMaxSearch{3, -0.9f, 0.05f, 36, false} : MinMaxSearch{3, -0.5f, 0.1f, 15, true};
    const MinMaxFit fit = fitMinMax(part, 16, w, search, codes + 16 * group);
    scales[group] = fit.scale;
    mins[group] = fit.min;
  }
  uint8_t scaleCodes[16], minCodes[16];
  const auto round = [&](const float* values, uint8_t* rounded) {
    return weighted ? fitPositive(values, 16, 15, sums, rounded) : roundScales(values, 16, 15, rounded);
  };
  const float d = block.d.set(round(scales, scaleCodes)), dmin = block.dmin.set(round(mins, minCodes));
  for (int group = 0; group < 16; ++group) {
    block.scales[group] = static_cast<uint8_t>(scaleCodes[group] | minCodes[group] << 4);
    chooseAgain(x + 16 * group, 16, d * scaleCodes[group], dmin * minCodes[group], 0, 3, codes + 16 * group);
  }
  storeCodes(codes, block);
}

void encodeBlock(const float* x, const Importance& importance, Q3_K& block) {
  float scales[16], sums[16] = {}, w[16];
  uint8_t codes[kLarge], scaleCodes[16];
  const bool weighted = importance.columns != nullptr;
  const float meanSquare = weighted ? 2 * sumOfSquares(x, kLarge) / kLarge : 0;
  for (int group = 0; group < 16; ++group) {
    const float* part = x + 16 * group;
    if (weighted) {
      sums[group] = groupWeights(part, importance.columns + 16 * group, 16, meanSquare, w);
      scales[group] = fitSigned(part, 16, 4, w, codes + 16 * group);
    } else {
      scales[group] = fitSignedByMoves(part, 16, 4, codes + 16 * group);
    }
  }
  float d = 0;
  const Peak peak = peakOf(scales, 16);
  if (weighted) {
    d = block.d.set(fitSigned(scales, 16, 32, sums, scaleCodes));
  } else if (peak.magnitude > 0) {
    const float inverse = -32.f / peak.value;
    d = block.d.set(1 / inverse);
    for (int group = 0; group < 16; ++group)
      scaleCodes[group] = static_cast<uint8_t>(clampTo(nearest(inverse * scales[group]), -32, 31) + 32);
  } else {
    d = block.d.set(0);
    std::fill(scaleCodes, scaleCodes + 16, uint8_t{0});
  }
  std::memset(block.scales, 0, sizeof block.scales);
  for (int group = 0; group < 16; ++group) {
    const int scale = scaleCodes[group] - 32;
    setQ3Scale(block.scales, group, scale);
    chooseAgain(x + 16 * group, 16, d * static_cast<float>(scale), 0, -4, 3, codes + 16 * group);
  }
  storeCodes(codes, block);
}

void encodeBlock(const float* x, const Importance& importance, Q4_K& block) {
  const MinMaxBlock found = minMaxBlock(x, importance, {15, -1.f, 0.1f, 20, false});
  block.d = found.d;
  block.dmin = found.dmin;
  std::memcpy(block.scales, found.scales, sizeof block.scales);
  storeCodes(found.codes, block);
}

void encodeBlock(const float* x, const Importance& importance, Q5_K& block) {
  const MinMaxBlock found = minMaxBlock(x, importance, {31, -0.5f, 0.1f, 15, false});
  block.d = found.d;
  block.dmin = found.dmin;
  std::memcpy(block.scales, found.scales, sizeof block.scales);
  storeCodes(found.codes, block);
}

void encodeBlock(const float* x, const Importance& importance, Q6_K& block) {
  float scales[16];
  uint8_t codes[kLarge];
  for (int group = 0; group < 16; ++group) {
    const float* columns = importance.columns != nullptr ? importance.columns + 16 * group : nullptr;
    scales[group] = fitSigned(x + 16 * group, 16, 32, columns, codes + 16 * group);
  }
  const Peak peak = peakOf(scales, 16);
  if (peak.magnitude < kLeastMagnitude) {
    std::memset(&block, 0, sizeof block);
    return;
  }
  const float inverse = -128.f / peak.value, d = block.d.set(1 / inverse);
  for (int group = 0; group < 16; ++group) {
    block.scales[group] = static_cast<int8_t>(std::min(127, nearest(inverse * scales[group])));
    chooseAgain(x + 16 * group, 16, d * static_cast<float>(block.scales[group]), 0, -32, 31, codes + 16 * group);
  }
  storeCodes(codes, block);
}

}  // namespace tsq::gguf
