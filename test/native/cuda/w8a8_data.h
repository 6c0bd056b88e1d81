// A W8A8 product with random contents, and what plain code and float64 make of it: for the emulation and for devices.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "cuda/w8a8/layout.cuh"

namespace w8a8_test {

using namespace tsq::cuda;        // NOLINT: the vocabulary of kernels
using namespace tsq::cuda::w8a8;  // NOLINT

struct Case {
  Type type = Type::kS8;
  int m = 1;
  int64_t n = 64, k = 128;
  int blocks = 3;
  bool wide = false;
  bool bf16 = false, bias = false;
  bool shifted = false;  // activations have zero points
  bool given = false;    // one scale for all tokens
  bool block = false;    // scales of blocks of 128
  bool one = false;      // scale of weights
  bool flipped = false;  // weights are codes around 128
  int padX = 0, padY = 0;
  unsigned seed = 1;
};

inline std::string describe(const Case& c) {
  return std::string(c.type == Type::kS8 ? "s8" : "e4m3") + " m=" + std::to_string(c.m) + " n=" + std::to_string(c.n) +
         " k=" + std::to_string(c.k) + " blocks=" + std::to_string(c.blocks) + (c.wide ? " wide" : "") +
         (c.bf16 ? " bf16" : "") + (c.bias ? " bias" : "") + (c.shifted ? " shifted" : "") + (c.given ? " given" : "") +
         (c.block ? " block scales" : "") + (c.one ? " one scale" : "") + (c.flipped ? " unsigned" : "") +
         " padX=" + std::to_string(c.padX) + " padY=" + std::to_string(c.padY) + " seed=" + std::to_string(c.seed);
}

inline float decode(bool bf16, uint16_t bits) {
  return bf16 ? toFloat<Type::kBF16>(bits) : toFloat<Type::kF16>(bits);
}
inline uint16_t encode(bool bf16, float value) {
  return bf16 ? fromFloat<Type::kBF16>(value) : fromFloat<Type::kF16>(value);
}

// OCP 8-bit floating point specification 1.0, E4M3.
inline double codeValue(Type type, uint8_t code) {
  if (type == Type::kS8) return static_cast<int8_t>(code);
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  if ((code & 0x7f) == 0x7f) return NAN;
  const double size = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return (code & 0x80) != 0 ? -size : size;
}

struct Data {
  std::vector<uint16_t> x, bias;
  std::vector<uint8_t> weights;  // [n][k]
  std::vector<float> scales;     // [n], one, or [ceil(n / 128)][ceil(k / 128)]
  float given = 0;
};

inline int64_t up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

inline Data draw(const Case& c) {
  std::mt19937 random(c.seed);
  const auto uniform = [&](float low, float high) { return std::uniform_real_distribution<float>(low, high)(random); };
  const auto n = static_cast<size_t>(c.n), k = static_cast<size_t>(c.k), stride = k + static_cast<size_t>(c.padX);
  Data d;
  d.x.assign(static_cast<size_t>(c.m) * stride, encode(c.bf16, NAN));  // between rows: poison
  for (size_t row = 0; row < static_cast<size_t>(c.m); ++row) {
    const float size = std::exp2(uniform(-6, 6)), shift = c.shifted ? uniform(-1, 1) : 0;
    for (size_t i = 0; i < k; ++i) d.x[row * stride + i] = encode(c.bf16, size * (shift + uniform(-1, 1)));
  }
  d.weights.resize(n * k);
  for (uint8_t& code : d.weights) {
    do code = static_cast<uint8_t>(random());
    while (c.type == Type::kE4M3 && (code & 0x7f) == 0x7f);
  }
  d.scales.resize(c.one ? 1 : c.block ? static_cast<size_t>(up(c.n, 128) * up(c.k, 128)) : n);
  for (float& scale : d.scales) scale = uniform(0.0001f, 0.01f);
  if (c.bias) d.bias.resize(n);
  for (uint16_t& bias : d.bias) bias = encode(c.bf16, uniform(-1, 1));
  d.given = uniform(0.001f, 0.1f);
  return d;
}

// Activations as they are to be quantized, by the words of quantize.cuh and none of its code.
struct Quantized {
  std::vector<uint8_t> codes;  // [m][k]
  std::vector<float> scales;   // [m], or [m][tiles]
  std::vector<int32_t> zeros;  // [m]
};

// The code of the value nearest to x, of two as near the even one; beyond the last the last.
inline uint8_t nearestE4M3(float x) {
  uint8_t best = 0;
  for (int code = 1; code < 0x7f; ++code) {
    const double a = std::abs(codeValue(Type::kE4M3, static_cast<uint8_t>(code)) - std::abs(double{x}));
    const double b = std::abs(codeValue(Type::kE4M3, best) - std::abs(double{x}));
    if (a < b || (a == b && code % 2 == 0)) best = static_cast<uint8_t>(code);
  }
  return std::signbit(x) ? best | 0x80 : best;
}

inline Quantized quantize(const Case& c, const Data& d) {
  const int64_t span = c.block ? 128 : c.k, spans = up(c.k, span);
  Quantized q;
  q.codes.resize(static_cast<size_t>(c.m * c.k));
  for (int64_t i = 0; i < c.m * spans; ++i) {
    const int64_t row = i / spans, begin = i % spans * span, end = std::min(begin + span, c.k);
    float least = 0, most = 0;
    bool finite = true;
    const auto x = [&](int64_t k) { return decode(c.bf16, d.x[static_cast<size_t>(row * (c.k + c.padX) + k)]); };
    for (int64_t k = begin; k < end; ++k) {
      least = std::min(least, x(k));
      most = std::max(most, x(k));
      finite = finite && std::isfinite(x(k));
    }
    const float last = c.type == Type::kS8 ? 127.0f : 448.0f, peak = std::max(-least, most);
    float inverse = last / peak, scale = peak / last;
    int32_t zero = 0;
    if (c.given) {
      inverse = 1 / d.given;
      scale = d.given;
    } else if (c.shifted) {
      inverse = 255 / (most - least);
      scale = (most - least) / 255;
    }
    const bool grid = finite && std::isfinite(inverse);
    if (c.shifted && !c.given && grid) zero = -128 - static_cast<int32_t>(std::nearbyint(least * inverse));
    for (int64_t k = begin; k < end && grid; ++k) {
      const float steps = x(k) * inverse;
      uint8_t& code = q.codes[static_cast<size_t>(row * c.k + k)];
      if (c.type == Type::kE4M3) {
        code = nearestE4M3(steps);
      } else {
        const double low = c.shifted && !c.given ? -128 : -127;
        code = static_cast<uint8_t>(static_cast<int8_t>(std::clamp(std::nearbyint(double{steps}) + zero, low, 127.0)));
      }
    }
    q.scales.push_back(!finite ? NAN : grid || c.given ? scale : 0.0f);
    q.zeros.push_back(zero);
  }
  return q;
}

// The largest error in units of what float32 may lose, with u half a unit in the last place of y: of e4m3
//   u |y| + (k + 32) 2^-24 sum |terms|
// and of s8, whose sums are exact, u |y| + 2^-22 (|y - bias| + |bias|): the roundings of the sum, of two scales and of
// the bias. Over every `step`-th output. NaN is wanted where the scale of a token is.
inline double worstError(const Case& c, const Data& d, const Quantized& q, const std::vector<uint16_t>& y,
                         int64_t step = 1) {
  const int64_t spans = c.block ? up(c.k, 128) : 1;
  const double unit = c.bf16 ? 0x1p-8 : 0x1p-11;
  double worst = 0;
  for (int64_t i = 0; i < c.m * c.n; i += step) {
    const int64_t row = i / c.n, n = i % c.n;
    double want = 0, size = 0;
    for (int64_t k = 0; k < c.k; ++k) {
      const int64_t span = c.block ? k / 128 : 0;
      const double scale = q.scales[static_cast<size_t>(row * spans + span)];
      const size_t at = c.one ? 0 : static_cast<size_t>(c.block ? n / 128 * up(c.k, 128) + span : n);
      const auto code = static_cast<uint8_t>(d.weights[static_cast<size_t>(n * c.k + k)] ^ (c.flipped ? 0x80 : 0));
      const double weight = codeValue(c.type, code) * d.scales[at];
      const double x = codeValue(c.type, q.codes[static_cast<size_t>(row * c.k + k)]) -
                       (c.shifted && !c.given ? q.zeros[static_cast<size_t>(row)] : 0);
      want += scale * x * weight;
      size += std::abs(scale * x * weight);
    }
    const double bias = c.bias ? decode(c.bf16, d.bias[static_cast<size_t>(n)]) : 0;
    const double lost = c.type == Type::kS8 ? 0x1p-22 * (std::abs(want) + std::abs(bias))
                                            : static_cast<double>(c.k + 32) * 0x1p-24 * size;
    want += bias;
    const double got = decode(c.bf16, y[static_cast<size_t>(row * (c.n + c.padY) + n)]);
    if (std::isnan(want) && std::isnan(got)) continue;
    const double most = c.bf16 ? 3.3e38 : 65519;
    if (std::abs(want) > most && std::isinf(got)) continue;
    const double error = std::abs(got - want) / (unit * std::abs(want) + lost + 0x1p-24);
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

class Draw {
 public:
  explicit Draw(unsigned seed) : random_(seed) {}
  int below(int limit) { return static_cast<int>(random_() % static_cast<unsigned>(limit)); }
  unsigned seed() { return static_cast<unsigned>(random_()); }

 private:
  std::mt19937 random_;
};

inline Case randomCase(Draw& draw, Type type) {
  Case c;
  c.type = type;
  c.m = 1 + (draw.below(4) == 0 ? draw.below(70) : draw.below(18));
  c.n = 1 + draw.below(300);
  c.k = 1 + draw.below(900);
  c.blocks = 1 + draw.below(7);
  c.bf16 = draw.below(2) == 0;
  c.bias = draw.below(2) == 0;
  c.block = type == Type::kE4M3 && draw.below(2) == 0;
  c.given = !c.block && draw.below(4) == 0;
  c.shifted = type == Type::kS8 && !c.given && draw.below(2) == 0;
  c.one = draw.below(4) == 0;
  c.flipped = type == Type::kS8 && draw.below(4) == 0;
  c.padX = draw.below(2) == 0 ? 0 : draw.below(20);
  c.padY = draw.below(2) == 0 ? 0 : draw.below(20);
  c.seed = draw.seed();
  return c;
}

// For the kernels of many tokens.
inline Case randomWideCase(Draw& draw, Type type) {
  Case c = randomCase(draw, type);
  c.wide = true;
  c.m = draw.below(3) == 0 ? 25 + draw.below(200) : 25 + draw.below(40);
  c.n = 1 + draw.below(600);
  c.blocks = 1 + draw.below(12);
  return c;
}

}  // namespace w8a8_test
