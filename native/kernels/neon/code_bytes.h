// Integer codes of 4 outputs taken apart into bytes: each register holds one quad of k (layout::quadColumn) of outputs
// 4 c … 4 c + 3 of a panel.
#pragma once

#include "kernels/neon/dots.h"

namespace tsq {
namespace {

TSQ_INLINE uint8x16_t loadCodes(const uint8_t* line, int c) {
  return vld1q_u8(line + 16 * c);
}

// kQuads registers out of kLines lines.
template <layout::WeightKind kKind>
struct CodeBytes;

template <>
struct CodeBytes<layout::WeightKind::kU8> {
  static constexpr int kLines = 1, kQuads = 1;
  __attribute__((always_inline)) static void take(const uint8_t* line, int c, uint8x16_t* out) {
    out[0] = loadCodes(line, c);
  }
};

template <>
struct CodeBytes<layout::WeightKind::kU4> {
  static constexpr int kLines = 1, kQuads = 2;
  __attribute__((always_inline)) static void take(const uint8_t* line, int c, uint8x16_t* out) {
    const uint8x16_t word = loadCodes(line, c);
    out[0] = vandq_u8(word, vdupq_n_u8(15));
    out[1] = vshrq_n_u8(word, 4);
  }
};

template <>
struct CodeBytes<layout::WeightKind::kU2> {
  static constexpr int kLines = 1, kQuads = 4;
  __attribute__((always_inline)) static void take(const uint8_t* line, int c, uint8x16_t* out) {
    const uint8x16_t word = loadCodes(line, c), mask = vdupq_n_u8(3);
    out[0] = vandq_u8(word, mask);
    out[1] = vandq_u8(vshrq_n_u8(word, 2), mask);
    out[2] = vandq_u8(vshrq_n_u8(word, 4), mask);
    out[3] = vshrq_n_u8(word, 6);
  }
};

template <>
struct CodeBytes<layout::WeightKind::kU3> {
  static constexpr int kLines = 3, kQuads = 8;
  // Four quads: bits 2 s and 2 s + 1 of a byte of `low` below bit s of the same byte of `top`.
  __attribute__((always_inline)) static void join(uint8x16_t low, uint8x16_t top, uint8x16_t* out) {
    const uint8x16_t mask = vdupq_n_u8(7);
    out[0] = vandq_u8(vsliq_n_u8(low, top, 2), mask);
    out[1] = vandq_u8(vsliq_n_u8(vshrq_n_u8(low, 2), vshrq_n_u8(top, 1), 2), mask);
    out[2] = vandq_u8(vsliq_n_u8(vshrq_n_u8(low, 4), vshrq_n_u8(top, 2), 2), mask);
    out[3] = vsliq_n_u8(vshrq_n_u8(low, 6), vshrq_n_u8(top, 3), 2);
  }
  __attribute__((always_inline)) static void take(const uint8_t* line, int c, uint8x16_t* out) {
    // Byte 2 h + t of a word of top bits holds those of eight k, the lower four of them for byte 2 h of a quad, the
    // upper four for byte 2 h + 1.
    const uint8x16_t top = loadCodes(line + 2 * kLineBytes, c);
    const uint8x16_t even = vandq_u8(top, vdupq_n_u8(15)), odd = vshrq_n_u8(top, 4);
    join(loadCodes(line, c), vtrn1q_u8(even, odd), out);
    join(loadCodes(line + kLineBytes, c), vtrn2q_u8(even, odd), out + 4);
  }
};

}  // namespace
}  // namespace tsq
