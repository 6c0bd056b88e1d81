// Sixteen f32 lanes on AVX2, FMA and F16C: two registers of eight. The same names and results as avx512/simd.h and
// neon/simd.h.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "runtime/scalar.h"

namespace tsq {
namespace {

struct Lanes {
  __m256 lo, hi;
};
struct Words {
  __m256i lo, hi;
};

// Shapes of the register tiles in generic/ that fit 16 registers of 8 lanes.
constexpr int kTileRows = 6;  // rows x panels of the matmul micro-kernel
constexpr int kTilePanels = 1;
constexpr int kFusedPanels = 1;     // panels side by side for few rows
constexpr int kAttentionLanes = 6;  // accumulators of attention: query vectors x blocks
constexpr int kGramRows = 4;        // rows of a Gram tile at once
constexpr int kGramPairRows = 0;    // and of two side by side; 0: one tile after the other

TSQ_INLINE Lanes zeros() {
  return {_mm256_setzero_ps(), _mm256_setzero_ps()};
}
TSQ_INLINE Lanes set1(float x) {
  const __m256 all = _mm256_set1_ps(x);
  return {all, all};
}
TSQ_INLINE Lanes load(const float* p) {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
TSQ_INLINE void store(float* p, Lanes x) {
  _mm256_storeu_ps(p, x.lo);
  _mm256_storeu_ps(p + 8, x.hi);
}

// The first `count` (1 … 16) lanes; those at `from` and above of the whole.
TSQ_INLINE __m256i firstLanes(int64_t count, int from) {
  const __m256i index = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(from));
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), index);
}
TSQ_INLINE Lanes loadPartial(const float* p, int64_t count, float fill = 0) {
  const __m256i lo = firstLanes(count, 0), hi = firstLanes(count, 8);
  const __m256 rest = _mm256_set1_ps(fill);
  return {_mm256_blendv_ps(rest, _mm256_maskload_ps(p, lo), _mm256_castsi256_ps(lo)),
          _mm256_blendv_ps(rest, _mm256_maskload_ps(p + 8, hi), _mm256_castsi256_ps(hi))};
}
TSQ_INLINE void storePartial(float* p, Lanes x, int64_t count) {
  _mm256_maskstore_ps(p, firstLanes(count, 0), x.lo);
  _mm256_maskstore_ps(p + 8, firstLanes(count, 8), x.hi);
}

TSQ_INLINE Lanes add(Lanes a, Lanes b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
TSQ_INLINE Lanes sub(Lanes a, Lanes b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
TSQ_INLINE Lanes mul(Lanes a, Lanes b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
TSQ_INLINE Lanes div(Lanes a, Lanes b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
TSQ_INLINE Lanes sqrt(Lanes a) {
  return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)};
}
TSQ_INLINE Lanes fma(Lanes a, Lanes b, Lanes c) {  // a b + c
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
TSQ_INLINE Lanes fmaNegated(Lanes a, Lanes b, Lanes c) {  // c - a b
  return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}
// Of a constant and a value: a NaN in the value stays.
TSQ_INLINE Lanes max(Lanes constant, Lanes x) {
  return {_mm256_max_ps(constant.lo, x.lo), _mm256_max_ps(constant.hi, x.hi)};
}
TSQ_INLINE Lanes min(Lanes constant, Lanes x) {
  return {_mm256_min_ps(constant.lo, x.lo), _mm256_min_ps(constant.hi, x.hi)};
}
TSQ_INLINE Lanes abs(Lanes x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.lo), _mm256_andnot_ps(sign, x.hi)};
}
TSQ_INLINE Lanes roundEven(Lanes x) {
  return {_mm256_round_ps(x.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
          _mm256_round_ps(x.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
TSQ_INLINE Lanes ifLess(Lanes a, Lanes b, Lanes yes, Lanes no) {
  return {_mm256_blendv_ps(no.lo, yes.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
          _mm256_blendv_ps(no.hi, yes.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}
// In two steps, since 2^n itself may be out of range: the first product is exact, the second rounds.
TSQ_INLINE __m256 scaleByPower8(__m256 x, __m256 n) {
  const __m256i power = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(power, 1), rest = _mm256_sub_epi32(power, half);
  const __m256i one = _mm256_set1_epi32(127);
  const __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, one), 23));
  const __m256 second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, one), 23));
  return _mm256_mul_ps(_mm256_mul_ps(x, first), second);
}
// x 2^n for integral n in [-160, 128], rounded once.
TSQ_INLINE Lanes scaleByPower(Lanes x, Lanes n) {
  return {scaleByPower8(x.lo, n.lo), scaleByPower8(x.hi, n.hi)};
}

// Lanes i and i + 8, then i + 4, i + 2, i + 1: one order on every instruction set.
TSQ_INLINE float sum(Lanes x) {
  const __m256 eight = _mm256_add_ps(x.lo, x.hi);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
TSQ_INLINE float largest(Lanes x) {
  const __m256 eight = _mm256_max_ps(x.lo, x.hi);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

TSQ_INLINE Words loadWords(const void* p) {
  const __m256i* at = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
}
TSQ_INLINE Words upperHalves(Words w) {
  return {_mm256_srli_epi32(w.lo, 16), _mm256_srli_epi32(w.hi, 16)};
}
// The bits of w under the mask laid over the bit pattern of `magic`.
TSQ_INLINE Lanes overlay(Words w, uint32_t mask, float magic) {
  const __m256 keep = _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(mask))), base = _mm256_set1_ps(magic);
  return {_mm256_or_ps(_mm256_and_ps(_mm256_castsi256_ps(w.lo), keep), base),
          _mm256_or_ps(_mm256_and_ps(_mm256_castsi256_ps(w.hi), keep), base)};
}
TSQ_INLINE void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
}

// Sixteen 16-bit storage scalars, any alignment.
TSQ_INLINE Lanes loadHalf(const void* p) {
  const __m128i* at = static_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(at)), _mm256_cvtph_ps(_mm_loadu_si128(at + 1))};
}
TSQ_INLINE Lanes loadBfloat(const void* p) {
  const __m128i* at = static_cast<const __m128i*>(p);
  const __m256i lo = _mm256_cvtepu16_epi32(_mm_loadu_si128(at)), hi = _mm256_cvtepu16_epi32(_mm_loadu_si128(at + 1));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
}
// Eight and sixteen 8-bit floats: E4M3 (finite) times 2^-8, since its bits are those of a f16 number but for the
// exponent's bias.
TSQ_INLINE __m256 loadE4m3x8(const uint8_t* p) {
  const __m128i wide = _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return _mm256_cvtph_ps(_mm_and_si128(_mm_slli_epi16(wide, 7), _mm_set1_epi16(static_cast<short>(0xbfff))));
}
TSQ_INLINE __m256 loadE5m2x8(const uint8_t* p) {
  const __m128i wide = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return _mm256_cvtph_ps(_mm_slli_epi16(wide, 8));
}
TSQ_INLINE Lanes loadE4m3(const void* p) {
  const uint8_t* at = static_cast<const uint8_t*>(p);
  return {loadE4m3x8(at), loadE4m3x8(at + 8)};
}
TSQ_INLINE Lanes loadE5m2(const void* p) {
  const uint8_t* at = static_cast<const uint8_t*>(p);
  return {loadE5m2x8(at), loadE5m2x8(at + 8)};
}
// Sixteen unsigned bytes as f32.
TSQ_INLINE Lanes unsignedBytes(__m128i bytes) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
}
TSQ_INLINE Lanes loadBytes(const void* p) {
  return unsignedBytes(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
// Sixteen bytes with a sign as f32.
TSQ_INLINE Lanes loadSigned(const void* p) {
  const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
// The lower and the upper four bits of sixteen bytes.
TSQ_INLINE void loadNibbles(const void* p, Lanes* low, Lanes* high) {
  const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(p)), mask = _mm_set1_epi8(15);
  *low = unsignedBytes(_mm_and_si128(bytes, mask));
  *high = unsignedBytes(_mm_and_si128(_mm_srli_epi16(bytes, 4), mask));
}
TSQ_INLINE void storeHalf(void* p, Lanes x) {
  __m128i* at = static_cast<__m128i*>(p);
  _mm_storeu_si128(at, _mm256_cvtps_ph(x.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  _mm_storeu_si128(at + 1, _mm256_cvtps_ph(x.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
TSQ_INLINE __m256i roundBfloat8(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x), high = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
}
TSQ_INLINE void storeBfloat(void* p, Lanes x) {
  const __m256i packed = _mm256_packus_epi32(roundBfloat8(x.lo), roundBfloat8(x.hi));  // 64-bit pieces: lo, hi, lo, hi
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}

}  // namespace
}  // namespace tsq
