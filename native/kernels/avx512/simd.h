// Sixteen f32 lanes on AVX-512 (F, BW, DQ, VL). The same names and the same results as avx2/simd.h and neon/simd.h.
#pragma once

// gcc 12 takes the deliberately undefined operands inside its own AVX-512 intrinsics for mistakes (gcc bug 105593). The
// warning appears where they are inlined, so it is off for the whole file; the AVX2 build of the same code keeps it.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <cstdint>

#include "runtime/scalar.h"

namespace tsq {
namespace {

using Lanes = __m512;   // 16 x f32
using Words = __m512i;  // 16 x u32

// Shapes of the register tiles in generic/ that fit 32 registers of 16 lanes.
constexpr int kTileRows = 12;  // rows x panels of the matmul micro-kernel
constexpr int kTilePanels = 2;
constexpr int kFusedPanels = 2;      // panels side by side for few rows
constexpr int kDigitRegisters = 32;  // for sums, weights and digits
constexpr int kAttentionLanes = 24;  // accumulators of attention: query vectors x blocks
constexpr int kGramRows = 16;        // rows of a Gram tile at once
constexpr int kGramPairRows = 8;     // and of two side by side; 0: one tile after the other

TSQ_INLINE Lanes zeros() {
  return _mm512_setzero_ps();
}
TSQ_INLINE Lanes set1(float x) {
  return _mm512_set1_ps(x);
}
TSQ_INLINE Lanes load(const float* p) {
  return _mm512_loadu_ps(p);
}
TSQ_INLINE void store(float* p, Lanes x) {
  _mm512_storeu_ps(p, x);
}

// The first `count` (1 … 16) lanes.
TSQ_INLINE __mmask16 firstLanes(int64_t count) {
  return static_cast<__mmask16>((1u << count) - 1);
}
TSQ_INLINE Lanes loadPartial(const float* p, int64_t count, float fill = 0) {
  return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), firstLanes(count), p);
}
TSQ_INLINE void storePartial(float* p, Lanes x, int64_t count) {
  _mm512_mask_storeu_ps(p, firstLanes(count), x);
}

TSQ_INLINE Lanes add(Lanes a, Lanes b) {
  return _mm512_add_ps(a, b);
}
TSQ_INLINE Lanes sub(Lanes a, Lanes b) {
  return _mm512_sub_ps(a, b);
}
TSQ_INLINE Lanes mul(Lanes a, Lanes b) {
  return _mm512_mul_ps(a, b);
}
TSQ_INLINE Lanes div(Lanes a, Lanes b) {
  return _mm512_div_ps(a, b);
}
TSQ_INLINE Lanes sqrt(Lanes a) {
  return _mm512_sqrt_ps(a);
}
TSQ_INLINE Lanes fma(Lanes a, Lanes b, Lanes c) {
  return _mm512_fmadd_ps(a, b, c);
}  // a b + c
TSQ_INLINE Lanes fmaNegated(Lanes a, Lanes b, Lanes c) {
  return _mm512_fnmadd_ps(a, b, c);
}  // c - a b
// Of a constant and a value: a NaN in the value stays.
TSQ_INLINE Lanes max(Lanes constant, Lanes x) {
  return _mm512_max_ps(constant, x);
}
TSQ_INLINE Lanes min(Lanes constant, Lanes x) {
  return _mm512_min_ps(constant, x);
}
TSQ_INLINE Lanes abs(Lanes x) {
  return _mm512_abs_ps(x);
}
TSQ_INLINE Lanes roundEven(Lanes x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
TSQ_INLINE Lanes ifLess(Lanes a, Lanes b, Lanes yes, Lanes no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
// x 2^n for integral n in [-160, 128], rounded once.
TSQ_INLINE Lanes scaleByPower(Lanes x, Lanes n) {
  return _mm512_scalef_ps(x, n);
}

// Lanes i and i + 8, then i + 4, i + 2, i + 1: one order on every instruction set.
TSQ_INLINE float sum(Lanes x) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
TSQ_INLINE float largest(Lanes x) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

TSQ_INLINE Words loadWords(const void* p) {
  return _mm512_loadu_si512(p);
}
TSQ_INLINE Words upperHalves(Words w) {
  return _mm512_srli_epi32(w, 16);
}
// The bits of w under the mask laid over the bit pattern of `magic`.
TSQ_INLINE Lanes overlay(Words w, uint32_t mask, float magic) {
  const __m512i base = _mm512_castps_si512(_mm512_set1_ps(magic));
  return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(w, _mm512_set1_epi32(static_cast<int>(mask)), base, 0xea));
}
TSQ_INLINE void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
}

// Sixteen 16-bit storage scalars, any alignment.
TSQ_INLINE Lanes loadHalf(const void* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
TSQ_INLINE Lanes loadBfloat(const void* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
// Sixteen 8-bit floats: E4M3 (finite) times 2^-8, since its bits are those of a f16 number but for the exponent's bias.
TSQ_INLINE Lanes loadE4m3(const void* p) {
  const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  return _mm512_cvtph_ps(_mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(static_cast<short>(0xbfff))));
}
TSQ_INLINE Lanes loadE5m2(const void* p) {
  const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  return _mm512_cvtph_ps(_mm256_slli_epi16(wide, 8));
}
// Sixteen unsigned bytes as f32.
TSQ_INLINE Lanes loadBytes(const void* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
}
// Sixteen bytes with a sign as f32.
TSQ_INLINE Lanes loadSigned(const void* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
}
// The lower and the upper four bits of sixteen bytes.
TSQ_INLINE void loadNibbles(const void* p, Lanes* low, Lanes* high) {
  const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(p)), mask = _mm_set1_epi8(15);
  *low = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_and_si128(bytes, mask)));
  *high = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_and_si128(_mm_srli_epi16(bytes, 4), mask)));
}
TSQ_INLINE void storeHalf(void* p, Lanes x) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
TSQ_INLINE void storeBfloat(void* p, Lanes x) {
  const __m512i bits = _mm512_castps_si512(x), high = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
  const __m512i quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
  const __m512i result = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), rounded, quiet);
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(result));
}

}  // namespace
}  // namespace tsq
