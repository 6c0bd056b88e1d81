// Weights of 4 outputs as pairs of bf16 (layout::pairColumn): code minus zero point, which is exact, or the weight
// itself.
#pragma once

#include "kernels/neon/code_bytes.h"

namespace tsq {
namespace {

// Where the zero point comes in. kShared: one for all, part of the table. kOffset: by output and group, none above
// kMostOffset: moves the index into the table. kAny: subtracted from each code.
enum class ZeroWay { kShared, kOffset, kAny };
constexpr int kMostOffset = 16;

// Upper halves of two vectors of floats that have nothing in the lower ones, as pairs.
TSQ_INLINE uint8x16_t mergePairs(float32x4_t first, float32x4_t second) {
  return vreinterpretq_u8_u16(vtrn2q_u16(vreinterpretq_u16_f32(first), vreinterpretq_u16_f32(second)));
}

// Zero points of outputs 4 c … 4 c + 3, each in all bytes of its word.
TSQ_INLINE uint8x16_t repeatBytes(uint8x16_t zeros, int c) {
  const uint8x16_t first = vcombine_u8(vcreate_u8(0x0101010100000000), vcreate_u8(0x0303030302020202));
  return vqtbl1q_u8(zeros, vaddq_u8(first, vdupq_n_u8(static_cast<uint8_t>(4 * c))));
}

// Codes of 2 to 4 bits, by tables of the two bytes of a bf16.
template <WeightKind kKind, ZeroWay kWay>
struct PairCodes {
  using Bytes = CodeBytes<kKind>;
  static constexpr int kCenter = 0;
  static constexpr int kSteps = Bytes::kQuads / 2;
  static constexpr int64_t kColumns = kSteps * 8, kBytes = Bytes::kLines * kLineBytes;
  static constexpr bool kHalves = false, kUnrolled = kWay != ZeroWay::kAny;

  uint8x16x2_t low, high;  // kShared: by code, the first register alone; kOffset: by code + 16 - zero
  uint8x16_t zero[4];      // kOffset: 16 - zero in every byte of a word; kAny: zero

  __attribute__((always_inline)) explicit PairCodes(const PackedView& w) : zero{} {
    uint8_t bytes[2][32];
    const int subtract = kWay == ZeroWay::kShared ? w.zero : kMostOffset;
    for (int i = 0; i < 32; ++i) {
      const uint32_t bits = floatToBits(static_cast<float>(i - subtract)) >> 16;
      bytes[0][i] = static_cast<uint8_t>(bits);
      bytes[1][i] = static_cast<uint8_t>(bits >> 8);
    }
    low = {{vld1q_u8(bytes[0]), vld1q_u8(bytes[0] + 16)}};
    high = {{vld1q_u8(bytes[1]), vld1q_u8(bytes[1] + 16)}};
  }
  // `at`: index of the 16 outputs' zero points in the group.
  __attribute__((always_inline)) void setGroup(const PackedView& w, int64_t at) {
    if constexpr (kWay == ZeroWay::kShared) return;
    uint8x16_t zeros = vld1q_u8(w.zeros + at);
    if constexpr (kWay == ZeroWay::kOffset) zeros = vsubq_u8(vdupq_n_u8(kMostOffset), zeros);
#pragma GCC unroll 4
    for (int c = 0; c < kColumns4; ++c) zero[c] = repeatBytes(zeros, c);
  }

  // Of a quad's bytes 0 … 3: the pairs (0, 2) and (1, 3).
  __attribute__((always_inline)) void pairs(uint8x16_t codes, int c, uint8x16_t& even, uint8x16_t& odd) const {
    if constexpr (kWay == ZeroWay::kAny) {
      const auto value = [&](int byte) __attribute__((always_inline)) {
        const uint32x4_t mask = vdupq_n_u32(255), zeros = vandq_u32(vreinterpretq_u32_u8(zero[c]), mask);
        const uint32x4_t code = vandq_u32(vshlq_u32(vreinterpretq_u32_u8(codes), vdupq_n_s32(-8 * byte)), mask);
        return vcvtq_f32_s32(vreinterpretq_s32_u32(vsubq_u32(code, zeros)));
      };
      even = mergePairs(value(0), value(2));
      odd = mergePairs(value(1), value(3));
    } else {
      uint8x16_t lowBytes, highBytes;
      if constexpr (kWay == ZeroWay::kShared) {
        lowBytes = vqtbl1q_u8(low.val[0], codes);
        highBytes = vqtbl1q_u8(high.val[0], codes);
      } else {
        const uint8x16_t index = vaddq_u8(codes, zero[c]);
        lowBytes = vqtbl2q_u8(low, index);
        highBytes = vqtbl2q_u8(high, index);
      }
      even = vtrn1q_u8(lowBytes, highBytes);
      odd = vtrn2q_u8(lowBytes, highBytes);
    }
  }
  template <bool kHalf>
  __attribute__((always_inline)) void load(const uint8_t* line, int c, uint8x16_t (&w)[kSteps][4]) const {
    uint8x16_t codes[Bytes::kQuads];
    Bytes::take(line, c, codes);
    if constexpr (kKind == WeightKind::kU4) {
      pairs(codes[0], c, w[0][0], w[0][2]);
      pairs(codes[1], c, w[0][1], w[0][3]);
    } else {
#pragma GCC unroll 8
      for (int i = 0; i < Bytes::kQuads; ++i) pairs(codes[i], c, w[i / 4 * 2][i % 4], w[i / 4 * 2 + 1][i % 4]);
    }
  }
};

// Codes of 8 bits less any zero point: see generic/codes.h for the way to f32.
template <ZeroWay kWay>
struct PairCodes<WeightKind::kU8, kWay> {
  static constexpr int kCenter = 0;
  static constexpr int kSteps = 1;
  static constexpr int64_t kColumns = 8, kBytes = 2 * kLineBytes;
  static constexpr bool kHalves = false, kUnrolled = true;

  float32x4_t bias[2][4];  // by place of the byte in a half of a word

  __attribute__((always_inline)) explicit PairCodes(const PackedView&) : bias{} {}
  __attribute__((always_inline)) void setGroup(const PackedView& w, int64_t at) {
    const Lanes zero = loadZeros(w, at), lower = add(set1(kMagic<0>), zero), upper = add(set1(kMagic<8>), zero);
    bias[0][0] = lower.a, bias[0][1] = lower.b, bias[0][2] = lower.c, bias[0][3] = lower.d;
    bias[1][0] = upper.a, bias[1][1] = upper.b, bias[1][2] = upper.c, bias[1][3] = upper.d;
  }
  template <int kByte>
  __attribute__((always_inline)) float32x4_t value(uint32x4_t half, int c) const {
    const uint32x4_t magic = vreinterpretq_u32_f32(vdupq_n_f32(kMagic<8 * kByte>));
    return vsubq_f32(vreinterpretq_f32_u32(vbslq_u32(vdupq_n_u32(0xffu << 8 * kByte), half, magic)), bias[kByte][c]);
  }
  template <bool kHalf>
  __attribute__((always_inline)) void load(const uint8_t* line, int c, uint8x16_t (&w)[1][4]) const {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const uint32x4_t lower = vreinterpretq_u32_u8(loadCodes(line + i * kLineBytes, c)),
                       upper = vshrq_n_u32(lower, 16);
      w[0][2 * i] = mergePairs(value<0>(lower, c), value<0>(upper, c));
      w[0][2 * i + 1] = mergePairs(value<1>(lower, c), value<1>(upper, c));
    }
  }
};

// bf16: rows of 16 outputs.
template <>
struct PairCodes<WeightKind::kBF16, ZeroWay::kShared> {
  static constexpr int kCenter = 0;
  static constexpr int kSteps = 1;
  static constexpr int64_t kColumns = 8, kBytes = 8 * layout::kPanel * 2;
  static constexpr bool kHalves = false, kUnrolled = true;

  __attribute__((always_inline)) explicit PairCodes(const PackedView&) {}
  __attribute__((always_inline)) void setGroup(const PackedView&, int64_t) {}
  template <bool kHalf>
  __attribute__((always_inline)) void load(const uint8_t* line, int c, uint8x16_t (&w)[1][4]) const {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const uint8_t* at = line + 64 * i + c / 2 * 16;
      const uint16x8_t first = vreinterpretq_u16_u8(vld1q_u8(at)), second = vreinterpretq_u16_u8(vld1q_u8(at + 32));
      w[0][i] = vreinterpretq_u8_u16(c % 2 == 0 ? vzip1q_u16(first, second) : vzip2q_u16(first, second));
    }
  }
};

}  // namespace
}  // namespace tsq
