// Quads of int8 on base Armv8-A, which has no dot product: products of bytes are summed in 16 bits first.
#include "kernels/neon/quads.h"
#include "kernels/tables.h"

namespace tsq {
namespace {

// kMost: the largest magnitude of a code.
template <int kMost>
struct WideningEngine : QuadEngine {
  static constexpr bool kMatrix = false, kByElement = false, kUnsigned = false;
  static constexpr int kChains = 1;
  static constexpr int kTileRows = 4, kTileColumns = 4;
  // Whether four quads' products, and pairs of their sums, fit 16 bits.
  static constexpr bool kShort = kMost * 127 * 8 <= 32767;
  static_assert(kMost * 127 * 2 <= 32767);

  // Products of a quad with the first and the last two of 4 outputs.
  struct Products {
    int16x8_t low, high;
  };
  template <int kElement>
  __attribute__((always_inline)) static int8x16_t spread(uint8x16_t x) {
    return vreinterpretq_s8_u32(vdupq_laneq_u32(vreinterpretq_u32_u8(x), kElement));
  }
  __attribute__((always_inline)) static Products multiply(uint8x16_t codes, int8x16_t x) {
    const int8x16_t w = vreinterpretq_s8_u8(codes);
    return {vmull_s8(vget_low_s8(w), vget_low_s8(x)), vmull_high_s8(w, x)};
  }
  __attribute__((always_inline)) static Products multiplyAdd(Products sum, uint8x16_t codes, int8x16_t x) {
    const int8x16_t w = vreinterpretq_s8_u8(codes);
    return {vmlal_s8(sum.low, vget_low_s8(w), vget_low_s8(x)), vmlal_high_s8(sum.high, w, x)};
  }
  __attribute__((always_inline)) static Sum gather(Sum sum, Products products) {
    return vpadalq_s16(sum, vpaddq_s16(products.low, products.high));
  }
  __attribute__((always_inline)) static Sum dot(Sum sum, const uint8x16_t (&w)[4], uint8x16_t x) {
    const int8x16_t x0 = spread<0>(x), x1 = spread<1>(x), x2 = spread<2>(x), x3 = spread<3>(x);
    if constexpr (kShort) {
      const Products first = multiplyAdd(multiply(w[0], x0), w[1], x1);
      return gather(sum, multiplyAdd(multiplyAdd(first, w[2], x2), w[3], x3));
    }
    sum = gather(gather(sum, multiply(w[0], x0)), multiply(w[1], x1));
    return gather(gather(sum, multiply(w[2], x2)), multiply(w[3], x3));
  }
};

template <WeightKind kKind>
using Engine = WideningEngine<kKind == WeightKind::kU8 ? 128 : 15>;

}  // namespace

// Two products of -128 and -128 would not fit.
const DotKernel kNeonQuads = quadKernel<Engine>(-127);

}  // namespace tsq
