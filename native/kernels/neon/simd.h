// Sixteen f32 lanes on Advanced SIMD of base Armv8-A: four registers of four. The same names and results as
// avx512/simd.h and avx2/simd.h.
#pragma once
#include <arm_neon.h>

#include <cstdint>

#include "runtime/scalar.h"

namespace tsq {
namespace {

struct Lanes {
  float32x4_t a, b, c, d;
};
struct Words {
  uint32x4_t a, b, c, d;
};

// Shapes of the register tiles in generic/ that fit 32 registers of 4 lanes.
constexpr int kTileRows = 6;  // rows x panels of the matmul micro-kernel
constexpr int kTilePanels = 1;
constexpr int kFusedPanels = 1;     // panels side by side for few rows
constexpr int kAttentionLanes = 6;  // accumulators of attention: query vectors x blocks
constexpr int kGramRows = 4;        // rows of a Gram tile at once
constexpr int kGramPairRows = 0;    // and of two side by side; 0: one tile after the other

TSQ_INLINE Lanes set1(float x) {
  const float32x4_t all = vdupq_n_f32(x);
  return {all, all, all, all};
}
TSQ_INLINE Lanes zeros() {
  return set1(0);
}
TSQ_INLINE Lanes load(const float* p) {
  return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}
TSQ_INLINE void store(float* p, Lanes x) {
  vst1q_f32(p, x.a);
  vst1q_f32(p + 4, x.b);
  vst1q_f32(p + 8, x.c);
  vst1q_f32(p + 12, x.d);
}
// The first `count` (1 … 16) lanes.
TSQ_INLINE Lanes loadPartial(const float* p, int64_t count, float fill = 0) {
  float whole[16];
  for (int64_t i = 0; i < 16; ++i) whole[i] = i < count ? p[i] : fill;
  return load(whole);
}
TSQ_INLINE void storePartial(float* p, Lanes x, int64_t count) {
  float whole[16];
  store(whole, x);
  for (int64_t i = 0; i < count; ++i) p[i] = whole[i];
}

TSQ_INLINE Lanes add(Lanes x, Lanes y) {
  return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b), vaddq_f32(x.c, y.c), vaddq_f32(x.d, y.d)};
}
TSQ_INLINE Lanes sub(Lanes x, Lanes y) {
  return {vsubq_f32(x.a, y.a), vsubq_f32(x.b, y.b), vsubq_f32(x.c, y.c), vsubq_f32(x.d, y.d)};
}
TSQ_INLINE Lanes mul(Lanes x, Lanes y) {
  return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b), vmulq_f32(x.c, y.c), vmulq_f32(x.d, y.d)};
}
TSQ_INLINE Lanes div(Lanes x, Lanes y) {
  return {vdivq_f32(x.a, y.a), vdivq_f32(x.b, y.b), vdivq_f32(x.c, y.c), vdivq_f32(x.d, y.d)};
}
TSQ_INLINE Lanes sqrt(Lanes x) {
  return {vsqrtq_f32(x.a), vsqrtq_f32(x.b), vsqrtq_f32(x.c), vsqrtq_f32(x.d)};
}
TSQ_INLINE Lanes fma(Lanes x, Lanes y, Lanes z) {  // x y + z
  return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c), vfmaq_f32(z.d, x.d, y.d)};
}
TSQ_INLINE Lanes fmaNegated(Lanes x, Lanes y, Lanes z) {  // z - x y
  return {vfmsq_f32(z.a, x.a, y.a), vfmsq_f32(z.b, x.b, y.b), vfmsq_f32(z.c, x.c, y.c), vfmsq_f32(z.d, x.d, y.d)};
}
// Of a constant and a value: a NaN in the value stays.
TSQ_INLINE Lanes max(Lanes constant, Lanes x) {
  return {vmaxq_f32(constant.a, x.a), vmaxq_f32(constant.b, x.b), vmaxq_f32(constant.c, x.c),
          vmaxq_f32(constant.d, x.d)};
}
TSQ_INLINE Lanes min(Lanes constant, Lanes x) {
  return {vminq_f32(constant.a, x.a), vminq_f32(constant.b, x.b), vminq_f32(constant.c, x.c),
          vminq_f32(constant.d, x.d)};
}
TSQ_INLINE Lanes abs(Lanes x) {
  return {vabsq_f32(x.a), vabsq_f32(x.b), vabsq_f32(x.c), vabsq_f32(x.d)};
}
TSQ_INLINE Lanes roundEven(Lanes x) {
  return {vrndnq_f32(x.a), vrndnq_f32(x.b), vrndnq_f32(x.c), vrndnq_f32(x.d)};
}
TSQ_INLINE Lanes ifLess(Lanes x, Lanes y, Lanes yes, Lanes no) {
  return {vbslq_f32(vcltq_f32(x.a, y.a), yes.a, no.a), vbslq_f32(vcltq_f32(x.b, y.b), yes.b, no.b),
          vbslq_f32(vcltq_f32(x.c, y.c), yes.c, no.c), vbslq_f32(vcltq_f32(x.d, y.d), yes.d, no.d)};
}
// In two steps, since 2^n itself may be out of range: the first product is exact, the second rounds.
TSQ_INLINE float32x4_t scaleByPower4(float32x4_t x, float32x4_t n) {
  const int32x4_t power = vcvtq_s32_f32(n), half = vshrq_n_s32(power, 1), rest = vsubq_s32(power, half);
  const int32x4_t one = vdupq_n_s32(127);
  const float32x4_t first = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, one), 23));
  const float32x4_t second = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(rest, one), 23));
  return vmulq_f32(vmulq_f32(x, first), second);
}
// x 2^n for integral n in [-160, 128], rounded once.
TSQ_INLINE Lanes scaleByPower(Lanes x, Lanes n) {
  return {scaleByPower4(x.a, n.a), scaleByPower4(x.b, n.b), scaleByPower4(x.c, n.c), scaleByPower4(x.d, n.d)};
}

// Lanes i and i + 8, then i + 4, i + 2, i + 1: one order on every instruction set.
TSQ_INLINE float sum(Lanes x) {
  const float32x4_t four = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
TSQ_INLINE float largest(Lanes x) {
  return vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(x.a, x.c), vmaxnmq_f32(x.b, x.d)));
}

TSQ_INLINE uint32x4_t loadWords4(const void* p) {
  return vreinterpretq_u32_u8(vld1q_u8(static_cast<const uint8_t*>(p)));
}
TSQ_INLINE Words loadWords(const void* p) {
  const uint8_t* at = static_cast<const uint8_t*>(p);
  return {loadWords4(at), loadWords4(at + 16), loadWords4(at + 32), loadWords4(at + 48)};
}
TSQ_INLINE Words upperHalves(Words w) {
  return {vshrq_n_u32(w.a, 16), vshrq_n_u32(w.b, 16), vshrq_n_u32(w.c, 16), vshrq_n_u32(w.d, 16)};
}
// The bits of w under the mask laid over the bit pattern of `magic`, which is zero there.
TSQ_INLINE Lanes overlay(Words w, uint32_t mask, float magic) {
  const uint32x4_t keep = vdupq_n_u32(mask), base = vreinterpretq_u32_f32(vdupq_n_f32(magic));
  return {vreinterpretq_f32_u32(vbslq_u32(keep, w.a, base)), vreinterpretq_f32_u32(vbslq_u32(keep, w.b, base)),
          vreinterpretq_f32_u32(vbslq_u32(keep, w.c, base)), vreinterpretq_f32_u32(vbslq_u32(keep, w.d, base))};
}
TSQ_INLINE void prefetch(const void* p) {
  __builtin_prefetch(p);
}

// Sixteen 16-bit storage scalars, any alignment.
TSQ_INLINE uint16x4_t loadShort4(const void* p) {
  return vreinterpret_u16_u8(vld1_u8(static_cast<const uint8_t*>(p)));
}
TSQ_INLINE Lanes loadHalf(const void* p) {
  const uint8_t* at = static_cast<const uint8_t*>(p);
  return {vcvt_f32_f16(vreinterpret_f16_u16(loadShort4(at))), vcvt_f32_f16(vreinterpret_f16_u16(loadShort4(at + 8))),
          vcvt_f32_f16(vreinterpret_f16_u16(loadShort4(at + 16))),
          vcvt_f32_f16(vreinterpret_f16_u16(loadShort4(at + 24)))};
}
TSQ_INLINE float32x4_t widenBfloat4(const uint8_t* p) {
  return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(loadShort4(p)), 16));
}
TSQ_INLINE Lanes loadBfloat(const void* p) {
  const uint8_t* at = static_cast<const uint8_t*>(p);
  return {widenBfloat4(at), widenBfloat4(at + 8), widenBfloat4(at + 16), widenBfloat4(at + 24)};
}
TSQ_INLINE void storeShort4(uint8_t* p, uint16x4_t x) {
  vst1_u8(p, vreinterpret_u8_u16(x));
}
// Eight and sixteen 8-bit floats: E4M3 (finite) times 2^-8, since its bits are those of a f16 number but for the
// exponent's bias.
TSQ_INLINE uint16x8_t halvesOfE4m3(const uint8_t* p) {
  const uint16x8_t wide = vreinterpretq_u16_s16(vmovl_s8(vreinterpret_s8_u8(vld1_u8(p))));
  return vandq_u16(vshlq_n_u16(wide, 7), vdupq_n_u16(0xbfff));
}
TSQ_INLINE uint16x8_t halvesOfE5m2(const uint8_t* p) {
  return vshll_n_u8(vld1_u8(p), 8);
}
TSQ_INLINE float32x4_t lowerHalves(uint16x8_t x) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(x)));
}
TSQ_INLINE float32x4_t higherHalves(uint16x8_t x) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(x)));
}
TSQ_INLINE Lanes loadE4m3(const void* p) {
  const uint8_t* at = static_cast<const uint8_t*>(p);
  const uint16x8_t first = halvesOfE4m3(at), second = halvesOfE4m3(at + 8);
  return {lowerHalves(first), higherHalves(first), lowerHalves(second), higherHalves(second)};
}
TSQ_INLINE Lanes loadE5m2(const void* p) {
  const uint8_t* at = static_cast<const uint8_t*>(p);
  const uint16x8_t first = halvesOfE5m2(at), second = halvesOfE5m2(at + 8);
  return {lowerHalves(first), higherHalves(first), lowerHalves(second), higherHalves(second)};
}
// Sixteen unsigned bytes as f32.
TSQ_INLINE Lanes unsignedBytes(uint8x16_t bytes) {
  const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_u8(vget_high_u8(bytes));
  return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(low))),
          vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(high)))};
}
TSQ_INLINE Lanes loadBytes(const void* p) {
  return unsignedBytes(vld1q_u8(static_cast<const uint8_t*>(p)));
}
// Sixteen bytes with a sign as f32.
TSQ_INLINE Lanes loadSigned(const void* p) {
  const int8x16_t bytes = vld1q_s8(static_cast<const int8_t*>(p));
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
  return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
          vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))};
}
// The lower and the upper four bits of sixteen bytes.
TSQ_INLINE void loadNibbles(const void* p, Lanes* low, Lanes* high) {
  const uint8x16_t bytes = vld1q_u8(static_cast<const uint8_t*>(p));
  *low = unsignedBytes(vandq_u8(bytes, vdupq_n_u8(15)));
  *high = unsignedBytes(vshrq_n_u8(bytes, 4));
}
TSQ_INLINE void storeHalf(void* p, Lanes x) {
  uint8_t* at = static_cast<uint8_t*>(p);
  storeShort4(at, vreinterpret_u16_f16(vcvt_f16_f32(x.a)));
  storeShort4(at + 8, vreinterpret_u16_f16(vcvt_f16_f32(x.b)));
  storeShort4(at + 16, vreinterpret_u16_f16(vcvt_f16_f32(x.c)));
  storeShort4(at + 24, vreinterpret_u16_f16(vcvt_f16_f32(x.d)));
}
TSQ_INLINE uint16x4_t roundBfloat4(float32x4_t x) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x), high = vshrq_n_u32(bits, 16);
  const uint32x4_t odd = vandq_u32(high, vdupq_n_u32(1));
  const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd), 16);
  const uint32x4_t quiet = vorrq_u32(high, vdupq_n_u32(0x40));
  return vmovn_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet));
}
TSQ_INLINE void storeBfloat(void* p, Lanes x) {
  uint8_t* at = static_cast<uint8_t*>(p);
  storeShort4(at, roundBfloat4(x.a));
  storeShort4(at + 8, roundBfloat4(x.b));
  storeShort4(at + 16, roundBfloat4(x.c));
  storeShort4(at + 24, roundBfloat4(x.d));
}

}  // namespace
}  // namespace tsq
