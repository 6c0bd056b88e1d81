#include "cuda/emulation/tensor_core.h"

#include <cmath>
#include <limits>

#include "cuda/emulation/collective.h"
#include "runtime/scalar.h"

namespace tsq::emulation {
namespace {

using cuda::Type;

template <typename Sum>
struct Product {
  Sum* d;
  const uint32_t* a;
  uint32_t b[2];
};

int32_t elementS8(uint32_t word, int index) {
  return static_cast<int8_t>(word >> 8 * index);
}

// Registers hold kPerWord neighbours along k. With g = lane / 4 and t = lane % 4: word i of a is row g + 8 (i % 2),
// word i of b column g; both from k = kPerWord (t + 4 (i / 2)) for a and kPerWord (t + 4 i) for b on. Word i of d is
// row g + 8 (i / 2), column 2 t + i % 2.
template <int kPerWord, typename Sum, typename Element>
void multiplyFragments(void* const* lanes, Element element) {
  constexpr int kDepth = 8 * kPerWord;
  Sum a[16][kDepth], b[kDepth][8];
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto* operands = static_cast<const Product<Sum>*>(lanes[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int j = 0; j < kPerWord; ++j) {
      for (int i = 0; i < 4; ++i) a[g + i % 2 * 8][kPerWord * (t + i / 2 * 4) + j] = element(operands->a[i], j);
      for (int i = 0; i < 2; ++i) b[kPerWord * (t + i * 4) + j][g] = element(operands->b[i], j);
    }
  }
  Sum d[16][8] = {};
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < kDepth; ++k) {
      for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto* operands = static_cast<const Product<Sum>*>(lanes[lane]);
    for (int i = 0; i < 4; ++i) operands->d[i] += d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
  }
  ++machine().outcome().products;
}

}  // namespace

// OCP 8-bit floating point specification 1.0, E4M3: bias 7, no infinities, NaN where all of the lower bits are set.
float e4m3ToFloat(uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                  : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  if ((bits & 0x7f) == 0x7f) magnitude = std::numeric_limits<float>::quiet_NaN();
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

float element(Type type, uint32_t word, int index) {
  if (type == Type::kS8) return static_cast<float>(elementS8(word, index));
  if (type == Type::kE4M3) return e4m3ToFloat(static_cast<uint8_t>(word >> 8 * index));
  const auto bits = static_cast<uint16_t>(word >> 16 * index);
  return type == Type::kF16 ? f16ToFloat(bits) : bf16ToFloat(bits);
}

void multiply(Type type, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const Place& at) {
  Product<float> mine{d, a, {b0, b1}};
  switch (type) {
    case Type::kF16:
      return collective(
          "mma f16", kAllLanes, &mine,
          [](void* const* lanes) {
            multiplyFragments<2, float>(lanes, [](uint32_t word, int i) { return element(Type::kF16, word, i); });
          },
          at);
    case Type::kBF16:
      return collective(
          "mma bf16", kAllLanes, &mine,
          [](void* const* lanes) {
            multiplyFragments<2, float>(lanes, [](uint32_t word, int i) { return element(Type::kBF16, word, i); });
          },
          at);
    case Type::kE4M3:
      return collective(
          "mma e4m3", kAllLanes, &mine,
          [](void* const* lanes) {
            multiplyFragments<4, float>(lanes, [](uint32_t word, int i) { return element(Type::kE4M3, word, i); });
          },
          at);
    case Type::kS8:
      fail(at, "mma of s8 has integer sums: multiplyS8");
  }
}

void multiplyS8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const Place& at) {
  Product<int32_t> mine{d, a, {b0, b1}};
  collective(
      "mma s8", kAllLanes, &mine, [](void* const* lanes) { multiplyFragments<4, int32_t>(lanes, elementS8); }, at);
}

}  // namespace tsq::emulation
