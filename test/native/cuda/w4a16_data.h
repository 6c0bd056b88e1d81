// A W4A16 product with random contents, and what float64 makes of it: for the emulation and for devices.
#pragma once
#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "check.h"
#include "cuda/w4a16/book.h"

namespace w4a16_test {

using namespace tsq::cuda;         // NOLINT: the vocabulary of kernels
using namespace tsq::cuda::w4a16;  // NOLINT

// bitsandbytes 0.43, functional.py: get_4bit_type.
inline constexpr float kNF4[16] = {-1.0f,
                                   -0.6961928009986877f,
                                   -0.5250730514526367f,
                                   -0.39491748809814453f,
                                   -0.28444138169288635f,
                                   -0.18477343022823334f,
                                   -0.09105003625154495f,
                                   0.0f,
                                   0.07958029955625534f,
                                   0.16093020141124725f,
                                   0.24611230194568634f,
                                   0.33791524171829224f,
                                   0.44070982933044434f,
                                   0.5626170039176941f,
                                   0.7229568362236023f,
                                   1.0f};
inline constexpr float kFP4[16] = {0,  0.0625f / 12,  8.f / 12,  1,  4.f / 12,  6.f / 12,  2.f / 12,  3.f / 12,
                                   -0, -0.0625f / 12, -8.f / 12, -1, -4.f / 12, -6.f / 12, -2.f / 12, -3.f / 12};
// Values without any order or sign that would help.
inline constexpr float kOddBook[16] = {0.3f,  -7,     2.5f,  1e-3f,  6.99f, -0.1f, 5.5f,  0,
                                       3.14f, -2.71f, 1.41f, -1e-2f, 4.2f,  -6.1f, 0.57f, -3.3f};

struct Case {
  Type type = Type::kF16;
  int m = 1;
  Shape shape{64, 64, 64};
  int blocks = 3;
  bool wide = false;                // the kernels for many tokens, where they may be used
  bool hopper = false;              // those of sm_90 for few tokens
  const float (*book)[16] = &kNF4;  // where the shape has one
  bool zeros = false, order = false, bias = false, scalesAreBF16 = false;
  int padX = 0, padY = 0;  // elements between rows
  unsigned seed = 1;
};

inline std::string describe(const Case& c) {
  return std::string(c.type == Type::kF16 ? "f16" : "bf16") + " m=" + std::to_string(c.m) +
         " n=" + std::to_string(c.shape.n) + " k=" + std::to_string(c.shape.k) +
         " group=" + std::to_string(c.shape.group) + " bits=" + std::to_string(c.shape.bits) +
         (!c.shape.book     ? ""
          : c.book == &kNF4 ? " nf4"
          : c.book == &kFP4 ? " fp4"
                            : " odd book") +
         " blocks=" + std::to_string(c.blocks) + (c.wide ? " wide" : "") + (c.hopper ? " hopper" : "") +
         (c.zeros ? " zeros" : "") + (c.order ? " order" : "") + (c.bias ? " bias" : "") +
         (c.scalesAreBF16 ? " bf16 scales" : "") + " padX=" + std::to_string(c.padX) +
         " padY=" + std::to_string(c.padY) + " seed=" + std::to_string(c.seed);
}

struct Data {
  std::vector<uint16_t> x, scales, zeros, bias;
  std::vector<uint8_t> codes;
  std::vector<uint16_t> weights;  // of 16 bits, in place of codes and scales
  std::vector<int32_t> order;
};

inline float decode(Type type, uint16_t bits) {
  return type == Type::kF16 ? toFloat<Type::kF16>(bits) : toFloat<Type::kBF16>(bits);
}
inline uint16_t encode(Type type, float value) {
  return type == Type::kF16 ? fromFloat<Type::kF16>(value) : fromFloat<Type::kBF16>(value);
}

inline Book bookOf(const Case& c) {
  if (!c.shape.book) return {};
  return c.type == Type::kF16 ? makeBook<Type::kF16>(*c.book) : makeBook<Type::kBF16>(*c.book);
}
inline double bookErrorOf(const Case& c) {
  return c.type == Type::kF16 ? bookError<Type::kF16>(bookOf(c), *c.book) : bookError<Type::kBF16>(bookOf(c), *c.book);
}

inline Data draw(const Case& c) {
  std::mt19937 random(c.seed);
  const auto uniform = [&](float low, float high) { return std::uniform_real_distribution<float>(low, high)(random); };
  const auto n = static_cast<size_t>(c.shape.n), k = static_cast<size_t>(c.shape.k);
  const auto groups = static_cast<size_t>((c.shape.k + c.shape.groupK() - 1) / c.shape.groupK());
  Data d;
  d.x.assign(static_cast<size_t>(c.m) * (k + static_cast<size_t>(c.padX)),
             encode(c.type, NAN));  // between rows: poison
  for (size_t row = 0; row < static_cast<size_t>(c.m); ++row) {
    for (size_t i = 0; i < k; ++i) d.x[row * (k + static_cast<size_t>(c.padX)) + i] = encode(c.type, uniform(-1, 1));
  }
  const bool scaled = c.shape.bits < 16;
  d.codes.resize(scaled ? n * k : 0);
  for (uint8_t& code : d.codes) code = static_cast<uint8_t>(random() % (1u << c.shape.bits));
  d.weights.resize(scaled ? 0 : n * k);
  for (uint16_t& weight : d.weights) weight = encode(c.type, uniform(-1, 1));
  d.scales.resize(scaled ? n * groups : 0);
  for (uint16_t& scale : d.scales) {
    const float size = uniform(0.001f, 0.1f);
    const uint32_t kind = random() % 16;  // some are nothing, some negative, some of another size
    const float value = kind == 0 ? 0 : kind == 1 ? -size : kind == 2 ? size / 256 : kind == 3 ? size * 32 : size;
    scale = encode(c.scalesAreBF16 ? Type::kBF16 : Type::kF16, value);
  }
  if (c.zeros) d.zeros.resize(n * groups);
  for (uint16_t& zero : d.zeros) zero = fromFloat<Type::kF16>(static_cast<float>(random() % (1u << c.shape.bits)));
  if (c.bias) d.bias.resize(n);
  for (uint16_t& bias : d.bias) bias = encode(c.type, uniform(-1, 1));
  if (c.order) d.order.resize(k);
  std::iota(d.order.begin(), d.order.end(), 0);
  std::shuffle(d.order.begin(), d.order.end(), random);
  return d;
}

// The largest error in units of what float32 sums and the rounding of y may lose:
// u (|y| + |bias|) + (k + 32) 2^-24 sum |x| (what is added up for x), with u half a unit in the last place of y. Added
// up are 16 s (1 + q/16) and 16 s (1 + z/16) for codes of 4 bits, s |q - 128| and s |z - 128| for those of 8, and of a
// code book the values themselves, each as far off as it is in 16 bits. And ||y - want|| / ||want||. Over every
// `step`-th output: float64 products take their time.
struct Errors {
  double worst, relative;
};
inline Errors errors(const Case& c, const Data& d, const std::vector<uint16_t>& y, int64_t step = 1) {
  const int64_t groups = (c.shape.k + c.shape.groupK() - 1) / c.shape.groupK();
  const double unit = c.type == Type::kF16 ? 0x1p-11 : 0x1p-8;
  const double bookUnit = c.shape.book ? bookErrorOf(c) : 0;
  double worst = 0, difference = 0, norm = 0;
  for (int64_t i = 0; i < c.m * c.shape.n; i += step) {
    const int64_t row = i / c.shape.n, n = i % c.shape.n;
    double want = 0, size = 0, book = 0;
    for (int64_t p = 0; p < c.shape.k; ++p) {
      const int64_t k = c.order ? d.order[static_cast<size_t>(p)] : p, group = n * groups + p / c.shape.groupK();
      const double x = decode(c.type, d.x[static_cast<size_t>(row * (c.shape.k + c.padX) + k)]);
      const auto at = static_cast<size_t>(n * c.shape.k + k);
      if (c.shape.bits == 16) {
        want += decode(c.type, d.weights[at]) * x;
        size += std::abs(decode(c.type, d.weights[at]) * x);
        continue;
      }
      const double s = decode(c.scalesAreBF16 ? Type::kBF16 : Type::kF16, d.scales[static_cast<size_t>(group)]);
      if (c.shape.book) {
        const double term = s * double{(*c.book)[d.codes[at]]} * x;
        want += term;
        size += std::abs(term);
        book += std::abs(term) * bookUnit;
        continue;
      }
      const double middle = c.shape.bits == 4 ? 8 : 128, q = d.codes[at];
      const double z = c.zeros ? toFloat<Type::kF16>(d.zeros[static_cast<size_t>(group)]) : middle;
      want += s * (q - z) * x;
      size += std::abs(s * x) * (c.shape.bits == 4 ? 32 + q + z : std::abs(q - 128) + std::abs(z - 128));
    }
    if (c.bias) want += decode(c.type, d.bias[static_cast<size_t>(n)]);
    const double got = decode(c.type, y[static_cast<size_t>(row * (c.shape.n + c.padY) + n)]);
    const double bound =
        unit * std::abs(want) + static_cast<double>(c.shape.k + 32) * 0x1p-24 * size + (1 + unit) * book + 0x1p-25;
    const double error = std::abs(got - want) / bound;
    if (!(error <= worst)) worst = error;
    difference += (got - want) * (got - want);
    norm += want * want;
  }
  return {worst, std::sqrt(difference / norm)};
}

inline void checkErrors(const Case& c, const Data& d, const std::vector<uint16_t>& y, int64_t step = 1) {
  const Errors found = errors(c, d, y, step);
  CHECK_MSG(found.worst <= 1, describe(c) + ": " + std::to_string(found.worst) + " of the bound");
  if (c.m * c.shape.n / step < 64) return;
  CHECK_MSG(found.relative <= (c.type == Type::kF16 ? 6e-4 : 4e-3),
            describe(c) + ": " + std::to_string(found.relative));
}

// --- the cases ---

inline std::vector<Case> everyGroupSizeAndVariant(int bits, bool book = false) {
  std::vector<Case> all;
  unsigned seed = 10;
  for (const Type type : {Type::kF16, Type::kBF16}) {
    for (const int m : {3, 13, 29}) {
      for (const int64_t group : {16, 32, 64, 128, 256, 1000}) {
        if (bits == 16 && group < 328) continue;
        Case c;
        c.type = type;
        c.m = m;
        c.shape = {80, 328, group, bits, book};
        c.book = seed % 3 == 0 ? &kFP4 : &kNF4;
        c.zeros = bits < 16 && !book && seed % 2 == 0;
        c.scalesAreBF16 = bits < 16 && seed % 3 == 0;
        c.seed = seed++;
        all.push_back(c);
      }
    }
  }
  return all;
}

class Draw {
 public:
  explicit Draw(unsigned seed) : random_(seed) {}
  int below(int limit) { return static_cast<int>(random_() % static_cast<unsigned>(limit)); }
  unsigned seed() { return static_cast<unsigned>(random_()); }

 private:
  std::mt19937 random_;
};

// Odd sizes, with what else a product may have.
inline Case randomCase(Draw& draw) {
  constexpr int64_t kGroups[] = {16, 32, 64, 128, 192, 256, 4096};
  Case c;
  c.type = draw.below(2) == 0 ? Type::kF16 : Type::kBF16;
  c.m = 1 + (draw.below(4) == 0 ? draw.below(70) : draw.below(18));
  c.shape = {1 + draw.below(300), 1 + draw.below(700), kGroups[draw.below(7)]};
  c.blocks = 1 + draw.below(7);
  c.hopper = draw.below(2) == 0;
  c.zeros = draw.below(2) == 0;
  c.order = draw.below(4) == 0;
  c.bias = draw.below(2) == 0;
  c.scalesAreBF16 = draw.below(2) == 0;
  c.padX = draw.below(2) == 0 ? 0 : draw.below(20);
  c.padY = draw.below(2) == 0 ? 0 : draw.below(20);
  c.seed = draw.seed();
  return c;
}
// With a code book.
inline Case randomBook(Draw& draw) {
  const float(*const kBooks[])[16] = {&kNF4, &kFP4, &kOddBook};
  Case c = randomCase(draw);
  c.shape.book = true;
  c.book = kBooks[draw.below(3)];
  c.zeros = false;
  return c;
}
// With weights of 8 bits, or of 16.
inline Case randomWidth(Draw& draw) {
  Case c = randomCase(draw);
  c.shape.bits = draw.below(3) == 0 ? 16 : 8;
  if (c.shape.bits == 8) return c;
  c.shape.group = c.shape.k;
  c.zeros = c.scalesAreBF16 = false;
  return c;
}
// For the kernels of many tokens.
inline Case randomWideCase(Draw& draw) {
  Case c = draw.below(3) == 0 ? randomBook(draw) : draw.below(2) == 0 ? randomWidth(draw) : randomCase(draw);
  c.wide = true;
  c.m = 25 + draw.below(draw.below(2) == 0 ? 8 : draw.below(2) == 0 ? 40 : 250);
  c.shape.n = 1 + draw.below(600);
  if (c.shape.bits == 16) c.shape.group = c.shape.k;
  return c;
}

}  // namespace w4a16_test
