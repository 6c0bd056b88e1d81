#include "gguf/search.h"

#include <algorithm>
#include <cstring>

namespace tsq::gguf {
namespace {

// How often codes are looked through for one that is better moved.
constexpr int kPasses = 5;

// Sums of weighted least squares: the fit x ~ (lx / ll) * code explains lx^2 / ll of the sum of squares.
struct Sums {
  float lx = 0, ll = 0;

  void add(float w, float x, float code) {
    lx += w * x * code;
    ll += w * code * code;
  }
  float scale() const { return ll > 0 ? lx / ll : 0.f; }
};

// Signed codes -top … top - 1 of x * inverse, and their sums.
Sums signedCodes(const float* x, int n, int top, const float* w, float inverse, int8_t* codes) {
  Sums sums;
  for (int i = 0; i < n; ++i) {
    const int code = clampTo(nearest(inverse * x[i]), -top, top - 1);
    codes[i] = static_cast<int8_t>(code);
    sums.add(w != nullptr ? w[i] : x[i] * x[i], x[i], static_cast<float>(code));
  }
  return sums;
}

void storeSigned(const int8_t* codes, int n, int top, uint8_t* out) {
  for (int i = 0; i < n; ++i) out[i] = static_cast<uint8_t>(codes[i] + top);
}

float errorOf(const float* x, int n, const float* w, float scale, float offset, bool absolute, const uint8_t* codes) {
  float sum = 0;
  for (int i = 0; i < n; ++i) {
    const float difference = scale * static_cast<float>(codes[i]) + offset - x[i];
    sum += w[i] * (absolute ? std::fabs(difference) : difference * difference);
  }
  return sum;
}

}  // namespace

// make_qkx2_quants, make_qkx3_quants
MinMaxFit fitMinMax(const float* x, int n, const float* w, const MinMaxSearch& search, uint8_t* codes) {
  float low = x[0], high = x[0], sumW = w[0], sumX = sumW * x[0];
  for (int i = 1; i < n; ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
    sumW += w[i];
    sumX += w[i] * x[i];
  }
  if (low > 0) low = 0;
  std::fill(codes, codes + n, uint8_t{0});
  if (high <= low) return {0, -low};
  const auto top = static_cast<float>(search.top);
  const auto toCode = [&](float inverse, float value) {
    return static_cast<uint8_t>(clampTo(nearest(inverse * (value - low)), 0, search.top));
  };
  const float firstInverse = top / (high - low);
  for (int i = 0; i < n; ++i) codes[i] = toCode(firstInverse, x[i]);
  float scale = 1 / firstInverse;
  float best = errorOf(x, n, w, scale, low, search.absolute, codes);
  uint8_t tried[kMaxGroup];
  for (int step = 0; step <= search.steps; ++step) {
    // `low` is what the best fit so far has made of it.
    const float inverse = (search.first + search.step * static_cast<float>(step) + top) / (high - low);
    float sumL = 0, sumLL = 0, sumXL = 0;
    for (int i = 0; i < n; ++i) {
      tried[i] = toCode(inverse, x[i]);
      const auto code = static_cast<float>(tried[i]);
      sumL += w[i] * code;
      sumLL += w[i] * code * code;
      sumXL += w[i] * code * x[i];
    }
    const float determinant = sumW * sumLL - sumL * sumL;
    if (!(determinant > 0)) continue;
    float newScale = (sumW * sumXL - sumX * sumL) / determinant;
    float newLow = (sumLL * sumX - sumL * sumXL) / determinant;
    if (newLow > 0) {
      newLow = 0;
      newScale = sumXL / sumLL;
    }
    const float error = errorOf(x, n, w, newScale, newLow, search.absolute, tried);
    if (!(error < best)) continue;
    std::memcpy(codes, tried, static_cast<size_t>(n));
    best = error;
    scale = newScale;
    low = newLow;
  }
  return {scale, -low};
}

// make_qx_quants
float fitSigned(const float* x, int n, int top, const float* w, uint8_t* codes) {
  std::fill(codes, codes + n, uint8_t{0});
  const Peak peak = peakOf(x, n);
  if (peak.magnitude < kLeastMagnitude) return 0;
  int8_t tried[kMaxGroup];
  Sums sums = signedCodes(x, n, top, w, static_cast<float>(-top) / peak.value, tried);
  storeSigned(tried, n, top, codes);
  float scale = sums.scale();
  float best = scale * sums.lx;
  for (int step = -9; step <= 9; ++step) {
    if (step == 0) continue;
    const float inverse = -(static_cast<float>(top) + 0.1f * static_cast<float>(step)) / peak.value;
    sums = signedCodes(x, n, top, w, inverse, tried);
    if (!(sums.ll > 0 && sums.lx * sums.lx > best * sums.ll)) continue;
    storeSigned(tried, n, top, codes);
    scale = sums.lx / sums.ll;
    best = scale * sums.lx;
  }
  return scale;
}

// make_q3_quants
float fitSignedByMoves(const float* x, int n, int top, uint8_t* codes) {
  std::fill(codes, codes + n, uint8_t{0});
  const Peak peak = peakOf(x, n);
  if (peak.magnitude < kLeastMagnitude) return 0;
  int8_t found[kMaxGroup];
  Sums sums = signedCodes(x, n, top, nullptr, static_cast<float>(-top) / peak.value, found);
  bool moved = true;
  for (int pass = 0; pass < kPasses && moved; ++pass) {
    moved = false;
    for (int i = 0; i < n; ++i) {
      const float w = x[i] * x[i];
      const auto old = static_cast<float>(found[i]);
      Sums without = sums;
      without.lx -= w * x[i] * old;
      if (!(without.lx > 0)) continue;
      without.ll -= w * old * old;
      const int code = clampTo(nearest(x[i] * without.ll / without.lx), -top, top - 1);
      if (code == found[i]) continue;
      without.add(w, x[i], static_cast<float>(code));
      if (!(without.ll > 0 && without.lx * without.lx * sums.ll > sums.lx * sums.lx * without.ll)) continue;
      found[i] = static_cast<int8_t>(code);
      sums = without;
      moved = true;
    }
  }
  storeSigned(found, n, top, codes);
  return sums.scale();
}

// make_qp_quants
float fitPositive(const float* x, int n, int top, const float* w, uint8_t* codes) {
  std::fill(codes, codes + n, uint8_t{0});
  const float high = std::max(0.f, *std::max_element(x, x + n));
  if (high < kLeastMagnitude) return 0;
  const auto toCode = [&](float value) { return clampTo(nearest(value), 0, top); };
  const auto errorAt = [&](float inverse) {
    const float scale = 1 / inverse;
    float sum = 0;
    for (int i = 0; i < n; ++i) {
      const float difference = x[i] - scale * static_cast<float>(toCode(inverse * x[i]));
      sum += w[i] * difference * difference;
    }
    return sum;
  };
  float inverse = static_cast<float>(top) / high;
  float best = errorAt(inverse);
  for (int step = -4; step <= 4; ++step) {
    if (step == 0) continue;
    const float tried = (0.1f * static_cast<float>(step) + static_cast<float>(top)) / high;
    const float error = errorAt(tried);
    if (!(error < best)) continue;
    best = error;
    inverse = tried;
  }
  Sums sums;
  for (int i = 0; i < n; ++i) {
    codes[i] = static_cast<uint8_t>(toCode(inverse * x[i]));
    sums.add(w[i], x[i], static_cast<float>(codes[i]));
  }
  bool moved = true;
  for (int pass = 0; pass < kPasses && moved; ++pass) {
    moved = false;
    for (int i = 0; i < n; ++i) {
      const auto old = static_cast<float>(codes[i]);
      Sums without = sums;
      without.lx -= w[i] * x[i] * old;
      without.ll -= w[i] * old * old;
      if (!(without.lx > 0 && without.ll > 0)) continue;
      const int code = toCode(x[i] * without.ll / without.lx);
      if (code == codes[i]) continue;
      without.add(w[i], x[i], static_cast<float>(code));
      if (!(without.lx * without.lx * sums.ll > sums.lx * sums.lx * without.ll)) continue;
      codes[i] = static_cast<uint8_t>(code);
      sums = without;
      moved = true;
    }
  }
  return sums.scale();
}

}  // namespace tsq::gguf
