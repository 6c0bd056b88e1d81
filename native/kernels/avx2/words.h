// Integer lanes on AVX2: sixteen 32-bit words in two registers, whose bytes and halves are multiplied and moved. The
// same names as avx512/words.h.
#pragma once

#include "kernels/avx2/simd.h"
#include "layout/activations.h"

namespace tsq {
namespace {

TSQ_INLINE Words zeroWords() {
  return {_mm256_setzero_si256(), _mm256_setzero_si256()};
}
TSQ_INLINE Words everyWord(int32_t x) {
  const __m256i all = _mm256_set1_epi32(x);
  return {all, all};
}
// The four bytes at p in every word.
TSQ_INLINE Words broadcastWord(const void* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return everyWord(word);
}
TSQ_INLINE void storeWords(void* p, Words w) {
  __m256i* at = static_cast<__m256i*>(p);
  _mm256_storeu_si256(at, w.lo);
  _mm256_storeu_si256(at + 1, w.hi);
}
TSQ_INLINE void prefetchFar(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
}

TSQ_INLINE Words addWords(Words a, Words b) {
  return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
TSQ_INLINE Words subWords(Words a, Words b) {
  return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)};
}
// The lower 32 bits of products.
TSQ_INLINE Words mulWords(Words a, Words b) {
  return {_mm256_mullo_epi32(a.lo, b.lo), _mm256_mullo_epi32(a.hi, b.hi)};
}
// Bits of w move down by kBits, up where that is negative.
template <int kBits>
TSQ_INLINE Words shiftDown(Words w) {
  if constexpr (kBits > 0) return {_mm256_srli_epi32(w.lo, kBits), _mm256_srli_epi32(w.hi, kBits)};
  if constexpr (kBits < 0) return {_mm256_slli_epi32(w.lo, -kBits), _mm256_slli_epi32(w.hi, -kBits)};
  return w;
}
// The same for signed words.
template <int kBits>
TSQ_INLINE Words shiftDownSigned(Words w) {
  return {_mm256_srai_epi32(w.lo, kBits), _mm256_srai_epi32(w.hi, kBits)};
}
TSQ_INLINE __m256i ifZero8(__m256i w, __m256i yes, __m256i no) {
  return _mm256_blendv_epi8(no, yes, _mm256_cmpeq_epi32(w, _mm256_setzero_si256()));
}
TSQ_INLINE Words ifZero(Words w, Words yes, Words no) {
  return {ifZero8(w.lo, yes.lo, no.lo), ifZero8(w.hi, yes.hi, no.hi)};
}
TSQ_INLINE Words keepBits(Words w, uint32_t mask) {
  const __m256i keep = _mm256_set1_epi32(static_cast<int>(mask));
  return {_mm256_and_si256(w.lo, keep), _mm256_and_si256(w.hi, keep)};
}
// Bits of `yes` where the mask has ones, of `no` elsewhere.
TSQ_INLINE Words selectBits(uint32_t mask, Words yes, Words no) {
  const __m256i keep = _mm256_set1_epi32(static_cast<int>(mask));
  return {_mm256_or_si256(_mm256_and_si256(keep, yes.lo), _mm256_andnot_si256(keep, no.lo)),
          _mm256_or_si256(_mm256_and_si256(keep, yes.hi), _mm256_andnot_si256(keep, no.hi))};
}

// Sixteen bytes, in every lane that lookUpBytes takes its table from.
TSQ_INLINE Words byteTable(const uint8_t* p) {
  const __m256i all = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return {all, all};
}
// For each byte of the index, all below 16, the byte of the table.
TSQ_INLINE Words lookUpBytes(Words table, Words index) {
  return {_mm256_shuffle_epi8(table.lo, index.lo), _mm256_shuffle_epi8(table.hi, index.hi)};
}

// Sixteen unsigned bytes.
TSQ_INLINE Words widenBytes(const uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))};
}
TSQ_INLINE Lanes floats(Words w) {
  return {_mm256_cvtepi32_ps(w.lo), _mm256_cvtepi32_ps(w.hi)};
}
// To the nearest integer, even where two are as near.
TSQ_INLINE Words nearestWords(Lanes x) {
  return {_mm256_cvtps_epi32(x.lo), _mm256_cvtps_epi32(x.hi)};
}
TSQ_INLINE Words bitsOf(Lanes x) {
  return {_mm256_castps_si256(x.lo), _mm256_castps_si256(x.hi)};
}
TSQ_INLINE Words maxWords(Words a, Words b) {
  return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)};
}
TSQ_INLINE int32_t largestWord(Words w) {
  const __m256i eight = _mm256_max_epi32(w.lo, w.hi);
  const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
TSQ_INLINE int32_t sumWords(Words w) {
  const __m256i eight = _mm256_add_epi32(w.lo, w.hi);
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

// Unsigned bytes times signed bytes, neighbours added to 16 bits (saturated).
TSQ_INLINE Words byteProducts(Words codes, Words x) {
  return {_mm256_maddubs_epi16(codes.lo, x.lo), _mm256_maddubs_epi16(codes.hi, x.hi)};
}
// Signed halves multiplied, neighbours added to 32 bits.
TSQ_INLINE Words halfProducts(Words a, Words b) {
  return {_mm256_madd_epi16(a.lo, b.lo), _mm256_madd_epi16(a.hi, b.hi)};
}
// As assembly, since the compiler would reorder a chain of these sums and run out of registers.
TSQ_INLINE Words addHalves(Words sum, Words x) {
  __asm__("vpaddw %1, %0, %0" : "+x"(sum.lo) : "x"(x.lo));
  __asm__("vpaddw %1, %0, %0" : "+x"(sum.hi) : "x"(x.hi));
  return sum;
}

// Sixteen words of -128 … 127 as bytes in the order of a chunk of quads.
template <layout::WeightKind kKind>
TSQ_INLINE void storeCodes(uint8_t* p, Words w) {
  const __m128i lo = _mm_packs_epi32(_mm256_castsi256_si128(w.lo), _mm256_extracti128_si256(w.lo, 1));
  const __m128i hi = _mm_packs_epi32(_mm256_castsi256_si128(w.hi), _mm256_extracti128_si256(w.hi, 1));
  __m128i bytes = _mm_packs_epi16(lo, hi);
  if constexpr (kKind == layout::WeightKind::kU4 || kKind == layout::WeightKind::kI4) {
    bytes = _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
  } else if constexpr (kKind != layout::WeightKind::kU8) {
    bytes = _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  }
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

}  // namespace
}  // namespace tsq
