// The part of a panel that the fused matmul works on at a time: two registers, so that the sums of up to eight rows
// fit. The same names as avx512/parts.h and avx2/parts.h.
#pragma once

#include "kernels/neon/words.h"

namespace tsq {
namespace {

struct HalfLanes {
  float32x4_t a, b;
};
struct HalfWords {
  uint32x4_t a, b;
};

// What Words and Lanes can do, for half of them.
TSQ_INLINE HalfLanes add(HalfLanes x, HalfLanes y) {
  return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b)};
}
TSQ_INLINE HalfLanes sub(HalfLanes x, HalfLanes y) {
  return {vsubq_f32(x.a, y.a), vsubq_f32(x.b, y.b)};
}
TSQ_INLINE HalfLanes mul(HalfLanes x, HalfLanes y) {
  return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b)};
}
TSQ_INLINE HalfLanes fma(HalfLanes x, HalfLanes y, HalfLanes z) {
  return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b)};
}
TSQ_INLINE HalfWords upperHalves(HalfWords w) {
  return {vshrq_n_u32(w.a, 16), vshrq_n_u32(w.b, 16)};
}
TSQ_INLINE HalfLanes overlay(HalfWords w, uint32_t mask, float magic) {
  const uint32x4_t keep = vdupq_n_u32(mask), base = vreinterpretq_u32_f32(vdupq_n_f32(magic));
  return {vreinterpretq_f32_u32(vbslq_u32(keep, w.a, base)), vreinterpretq_f32_u32(vbslq_u32(keep, w.b, base))};
}
template <int kBits>
TSQ_INLINE HalfWords shiftDown(HalfWords w) {
  return {shiftDown4<kBits>(w.a), shiftDown4<kBits>(w.b)};
}
TSQ_INLINE HalfWords selectBits(uint32_t mask, HalfWords yes, HalfWords no) {
  const uint32x4_t keep = vdupq_n_u32(mask);
  return {vbslq_u32(keep, yes.a, no.a), vbslq_u32(keep, yes.b, no.b)};
}

// The sixteen values of a code book, as a table of bytes.
using Book = uint8x16x4_t;
TSQ_INLINE Book loadBook(const float* values) {
  const uint8_t* at = reinterpret_cast<const uint8_t*>(values);
  return {{vld1q_u8(at), vld1q_u8(at + 16), vld1q_u8(at + 32), vld1q_u8(at + 48)}};
}
// The values of the codes at bits kShift … kShift + 3 of the words: bytes 4 code … 4 code + 3 of the table.
template <int kShift>
TSQ_INLINE float32x4_t choose4(const Book& book, uint32x4_t w) {
  const uint32x4_t code = vandq_u32(shiftDown4<kShift>(w), vdupq_n_u32(15));
  const uint32x4_t bytes = vmlaq_u32(vdupq_n_u32(0x03020100), code, vdupq_n_u32(0x04040404));
  return vreinterpretq_f32_u8(vqtbl4q_u8(book, vreinterpretq_u8_u32(bytes)));
}
template <int kShift>
TSQ_INLINE HalfLanes choose(const Book& book, HalfWords w) {
  return {choose4<kShift>(book, w.a), choose4<kShift>(book, w.b)};
}
template <int kShift>
TSQ_INLINE Lanes choose(const Book& book, Words w) {
  return {choose4<kShift>(book, w.a), choose4<kShift>(book, w.b), choose4<kShift>(book, w.c),
          choose4<kShift>(book, w.d)};
}

template <int kRows>
struct Part {
  using Floats = HalfLanes;
  using Codes = HalfWords;
  using Marked = HalfWords;
  static constexpr int kLanes = 8;

  TSQ_INLINE Floats every(float x) {
    const float32x4_t all = vdupq_n_f32(x);
    return {all, all};
  }
  TSQ_INLINE Floats zero() { return every(0); }
  TSQ_INLINE Floats load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
  TSQ_INLINE Floats loadHalf(const void* p) {
    const uint8_t* at = static_cast<const uint8_t*>(p);
    return {vcvt_f32_f16(vreinterpret_f16_u16(loadShort4(at))), vcvt_f32_f16(vreinterpret_f16_u16(loadShort4(at + 8)))};
  }
  TSQ_INLINE Floats loadBfloat(const void* p) {
    const uint8_t* at = static_cast<const uint8_t*>(p);
    return {widenBfloat4(at), widenBfloat4(at + 8)};
  }
  TSQ_INLINE Floats loadE4m3(const void* p) {
    const uint16x8_t halves = halvesOfE4m3(static_cast<const uint8_t*>(p));
    return {lowerHalves(halves), higherHalves(halves)};
  }
  TSQ_INLINE Floats loadE5m2(const void* p) {
    const uint16x8_t halves = halvesOfE5m2(static_cast<const uint8_t*>(p));
    return {lowerHalves(halves), higherHalves(halves)};
  }
  TSQ_INLINE Codes loadCodes(const void* p) {
    const uint8_t* at = static_cast<const uint8_t*>(p);
    return {loadWords4(at), loadWords4(at + 16)};
  }
  TSQ_INLINE Floats of(Lanes x, int part) {
    if (part == 0) return {x.a, x.b};
    return {x.c, x.d};
  }
  TSQ_INLINE Lanes joined(const Floats* parts) { return {parts[0].a, parts[0].b, parts[1].a, parts[1].b}; }
  // Lower halves of words below the upper half of 2^23, so that one `and` gives 2^23 + the bits under a mask.
  TSQ_INLINE Marked markLower(Codes w) {
    const uint32x4_t lower = vdupq_n_u32(0xffff), mark = vdupq_n_u32(0x4b000000);
    return {vbslq_u32(lower, w.a, mark), vbslq_u32(lower, w.b, mark)};
  }
  TSQ_INLINE Floats markedBits(Marked w, uint32_t mask) {
    const uint32x4_t keep = vdupq_n_u32(mask | 0xffff0000u);
    return {vreinterpretq_f32_u32(vandq_u32(w.a, keep)), vreinterpretq_f32_u32(vandq_u32(w.b, keep))};
  }
};

}  // namespace
}  // namespace tsq
