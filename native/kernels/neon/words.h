// Integer lanes on Advanced SIMD: sixteen 32-bit words in four registers. The same names as avx2/words.h, as far as
// activations are split here and multiplied digit by digit.
#pragma once

#include "kernels/neon/simd.h"
#include "layout/activations.h"

namespace tsq {
namespace {

TSQ_INLINE Words zeroWords() {
  const uint32x4_t zero = vdupq_n_u32(0);
  return {zero, zero, zero, zero};
}
TSQ_INLINE Words everyWord(int32_t x) {
  const uint32x4_t all = vdupq_n_u32(static_cast<uint32_t>(x));
  return {all, all, all, all};
}
// The four bytes at p in every word.
TSQ_INLINE Words broadcastWord(const void* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return everyWord(word);
}
TSQ_INLINE void storeWords(void* p, Words w) {
  uint8_t* at = static_cast<uint8_t*>(p);
  vst1q_u8(at, vreinterpretq_u8_u32(w.a));
  vst1q_u8(at + 16, vreinterpretq_u8_u32(w.b));
  vst1q_u8(at + 32, vreinterpretq_u8_u32(w.c));
  vst1q_u8(at + 48, vreinterpretq_u8_u32(w.d));
}
TSQ_INLINE void prefetchFar(const void* p) {
  __builtin_prefetch(p, 0, 2);
}

TSQ_INLINE Words addWords(Words a, Words b) {
  return {vaddq_u32(a.a, b.a), vaddq_u32(a.b, b.b), vaddq_u32(a.c, b.c), vaddq_u32(a.d, b.d)};
}
template <int kBits>
TSQ_INLINE uint32x4_t shiftDown4(uint32x4_t w) {
  if constexpr (kBits > 0) return vshrq_n_u32(w, kBits);
  if constexpr (kBits < 0) return vshlq_n_u32(w, -kBits);
  return w;
}
// Bits of w move down by kBits, up where that is negative.
template <int kBits>
TSQ_INLINE Words shiftDown(Words w) {
  return {shiftDown4<kBits>(w.a), shiftDown4<kBits>(w.b), shiftDown4<kBits>(w.c), shiftDown4<kBits>(w.d)};
}
// Bits of `yes` where the mask has ones, of `no` elsewhere.
TSQ_INLINE Words selectBits(uint32_t mask, Words yes, Words no) {
  const uint32x4_t keep = vdupq_n_u32(mask);
  return {vbslq_u32(keep, yes.a, no.a), vbslq_u32(keep, yes.b, no.b), vbslq_u32(keep, yes.c, no.c),
          vbslq_u32(keep, yes.d, no.d)};
}
TSQ_INLINE Words subWords(Words a, Words b) {
  return {vsubq_u32(a.a, b.a), vsubq_u32(a.b, b.b), vsubq_u32(a.c, b.c), vsubq_u32(a.d, b.d)};
}
template <int kBits>
TSQ_INLINE uint32x4_t shiftDownSigned4(uint32x4_t x) {
  return vreinterpretq_u32_s32(vshrq_n_s32(vreinterpretq_s32_u32(x), kBits));
}
// Bits of w move down by kBits, copies of the sign coming in.
template <int kBits>
TSQ_INLINE Words shiftDownSigned(Words w) {
  return {shiftDownSigned4<kBits>(w.a), shiftDownSigned4<kBits>(w.b), shiftDownSigned4<kBits>(w.c),
          shiftDownSigned4<kBits>(w.d)};
}
// Sixteen unsigned bytes.
TSQ_INLINE Words widenBytes(const uint8_t* p) {
  const uint8x16_t bytes = vld1q_u8(p);
  const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_u8(vget_high_u8(bytes));
  return {vmovl_u16(vget_low_u16(low)), vmovl_u16(vget_high_u16(low)), vmovl_u16(vget_low_u16(high)),
          vmovl_u16(vget_high_u16(high))};
}
// Sixteen bytes, and for each byte of an index, all below 16, the byte of that table.
TSQ_INLINE Words byteTable(const uint8_t* p) {
  const uint32x4_t all = vreinterpretq_u32_u8(vld1q_u8(p));
  return {all, all, all, all};
}
TSQ_INLINE uint32x4_t lookUpBytes4(uint32x4_t table, uint32x4_t index) {
  return vreinterpretq_u32_u8(vqtbl1q_u8(vreinterpretq_u8_u32(table), vreinterpretq_u8_u32(index)));
}
TSQ_INLINE Words lookUpBytes(Words table, Words index) {
  return {lookUpBytes4(table.a, index.a), lookUpBytes4(table.b, index.b), lookUpBytes4(table.c, index.c),
          lookUpBytes4(table.d, index.d)};
}
// Signed halves multiplied, neighbours added to 32 bits.
TSQ_INLINE uint32x4_t halfProducts4(uint32x4_t a, uint32x4_t b) {
  const int32x4_t x = vreinterpretq_s32_u32(a), y = vreinterpretq_s32_u32(b);
  const int32x4_t low = vmulq_s32(vshrq_n_s32(vshlq_n_s32(x, 16), 16), vshrq_n_s32(vshlq_n_s32(y, 16), 16));
  return vreinterpretq_u32_s32(vmlaq_s32(low, vshrq_n_s32(x, 16), vshrq_n_s32(y, 16)));
}
TSQ_INLINE Words halfProducts(Words a, Words b) {
  return {halfProducts4(a.a, b.a), halfProducts4(a.b, b.b), halfProducts4(a.c, b.c), halfProducts4(a.d, b.d)};
}
TSQ_INLINE uint32x4_t ifZero4(uint32x4_t x, uint32x4_t yes, uint32x4_t no) {
  return vbslq_u32(vceqzq_u32(x), yes, no);
}
TSQ_INLINE Words ifZero(Words w, Words yes, Words no) {
  return {ifZero4(w.a, yes.a, no.a), ifZero4(w.b, yes.b, no.b), ifZero4(w.c, yes.c, no.c), ifZero4(w.d, yes.d, no.d)};
}
TSQ_INLINE Words keepBits(Words w, uint32_t mask) {
  const uint32x4_t keep = vdupq_n_u32(mask);
  return {vandq_u32(w.a, keep), vandq_u32(w.b, keep), vandq_u32(w.c, keep), vandq_u32(w.d, keep)};
}
TSQ_INLINE Lanes floats(Words w) {
  return {vcvtq_f32_s32(vreinterpretq_s32_u32(w.a)), vcvtq_f32_s32(vreinterpretq_s32_u32(w.b)),
          vcvtq_f32_s32(vreinterpretq_s32_u32(w.c)), vcvtq_f32_s32(vreinterpretq_s32_u32(w.d))};
}
// To the nearest integer, even where two are as near.
TSQ_INLINE Words nearestWords(Lanes x) {
  return {vreinterpretq_u32_s32(vcvtnq_s32_f32(x.a)), vreinterpretq_u32_s32(vcvtnq_s32_f32(x.b)),
          vreinterpretq_u32_s32(vcvtnq_s32_f32(x.c)), vreinterpretq_u32_s32(vcvtnq_s32_f32(x.d))};
}
TSQ_INLINE Words bitsOf(Lanes x) {
  return {vreinterpretq_u32_f32(x.a), vreinterpretq_u32_f32(x.b), vreinterpretq_u32_f32(x.c),
          vreinterpretq_u32_f32(x.d)};
}
TSQ_INLINE int32x4_t max4(uint32x4_t a, uint32x4_t b) {
  return vmaxq_s32(vreinterpretq_s32_u32(a), vreinterpretq_s32_u32(b));
}
TSQ_INLINE Words maxWords(Words a, Words b) {
  return {vreinterpretq_u32_s32(max4(a.a, b.a)), vreinterpretq_u32_s32(max4(a.b, b.b)),
          vreinterpretq_u32_s32(max4(a.c, b.c)), vreinterpretq_u32_s32(max4(a.d, b.d))};
}
TSQ_INLINE int32_t largestWord(Words w) {
  return vmaxvq_s32(vmaxq_s32(max4(w.a, w.c), max4(w.b, w.d)));
}
TSQ_INLINE int32_t sumWords(Words w) {
  return static_cast<int32_t>(vaddvq_u32(vaddq_u32(vaddq_u32(w.a, w.c), vaddq_u32(w.b, w.d))));
}

// Sixteen words of -128 … 127 as bytes in the order of a chunk of quads.
template <layout::WeightKind kKind>
TSQ_INLINE void storeCodes(uint8_t* p, Words w) {
  constexpr uint8_t kNibbles[16] = {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15};
  constexpr uint8_t kPairsOfBits[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  const uint16x8_t low = vuzp1q_u16(vreinterpretq_u16_u32(w.a), vreinterpretq_u16_u32(w.b));
  const uint16x8_t high = vuzp1q_u16(vreinterpretq_u16_u32(w.c), vreinterpretq_u16_u32(w.d));
  uint8x16_t bytes = vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high));
  if constexpr (kKind == layout::WeightKind::kU4 || kKind == layout::WeightKind::kI4) {
    bytes = vqtbl1q_u8(bytes, vld1q_u8(kNibbles));
  } else if constexpr (kKind != layout::WeightKind::kU8) {
    bytes = vqtbl1q_u8(bytes, vld1q_u8(kPairsOfBits));
  }
  vst1q_u8(p, bytes);
}

TSQ_INLINE uint32x4_t cutPart4(float32x4_t& x) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x), part = vandq_u32(bits, vdupq_n_u32(0xffff0000u));
  const uint32x4_t finite = vcltq_f32(vabsq_f32(x), vdupq_n_f32(__builtin_inff()));
  const uint32x4_t cut = vbslq_u32(vceqq_f32(x, x), part, vdupq_n_u32(0x7fc00000));
  const float32x4_t rest = vsubq_f32(x, vreinterpretq_f32_u32(part));
  x = vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(rest), finite));
  return cut;
}
// Takes the largest bf16 part from x, lower bits dropped: what is left is exact. A NaN becomes the quiet one and leaves
// nothing, as an infinity does.
TSQ_INLINE Words cutPart(Lanes& x) {
  return {cutPart4(x.a), cutPart4(x.b), cutPart4(x.c), cutPart4(x.d)};
}

TSQ_INLINE uint8x16_t upperHalves8(uint32x4_t a, uint32x4_t b) {
  return vreinterpretq_u8_u16(vuzp2q_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b)));
}
// Upper halves of the 32 words in a and b, by number (all of them odd) among all halves.
TSQ_INLINE Words chooseHalves(Words a, Words b, const uint16_t* chosen) {
  const uint8x16x4_t upper = {
      {upperHalves8(a.a, a.b), upperHalves8(a.c, a.d), upperHalves8(b.a, b.b), upperHalves8(b.c, b.d)}};
  const auto choose = [&](int i) __attribute__((always_inline)) {
    // Half 2 i + 1 is bytes 2 i and 2 i + 1 of the table.
    const uint16x8_t number = vld1q_u16(chosen + 8 * i);
    const uint16x8_t bytes = vsubq_u16(vorrq_u16(number, vshlq_n_u16(number, 8)), vdupq_n_u16(1));
    return vreinterpretq_u32_u8(vqtbl4q_u8(upper, vreinterpretq_u8_u16(bytes)));
  };
  return {choose(0), choose(1), choose(2), choose(3)};
}

}  // namespace
}  // namespace tsq
