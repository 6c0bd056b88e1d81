// Integer lanes on AVX-512: sixteen 32-bit words, whose bytes and halves are multiplied and moved. The same names as
// avx2/words.h.
#pragma once

#include "kernels/avx512/simd.h"
#include "layout/activations.h"

namespace tsq {
namespace {

TSQ_INLINE Words zeroWords() {
  return _mm512_setzero_si512();
}
TSQ_INLINE Words everyWord(int32_t x) {
  return _mm512_set1_epi32(x);
}
// The four bytes at p in every word.
TSQ_INLINE Words broadcastWord(const void* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return _mm512_set1_epi32(word);
}
TSQ_INLINE void storeWords(void* p, Words w) {
  _mm512_storeu_si512(p, w);
}
TSQ_INLINE void prefetchFar(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
}

TSQ_INLINE Words addWords(Words a, Words b) {
  return _mm512_add_epi32(a, b);
}
TSQ_INLINE Words subWords(Words a, Words b) {
  return _mm512_sub_epi32(a, b);
}
// The lower 32 bits of products.
TSQ_INLINE Words mulWords(Words a, Words b) {
  return _mm512_mullo_epi32(a, b);
}
// Bits of w move down by kBits, up where that is negative.
template <int kBits>
TSQ_INLINE Words shiftDown(Words w) {
  if constexpr (kBits > 0) return _mm512_srli_epi32(w, kBits);
  if constexpr (kBits < 0) return _mm512_slli_epi32(w, -kBits);
  return w;
}
// The same for signed words.
template <int kBits>
TSQ_INLINE Words shiftDownSigned(Words w) {
  return _mm512_srai_epi32(w, kBits);
}
TSQ_INLINE Words ifZero(Words w, Words yes, Words no) {
  return _mm512_mask_blend_epi32(_mm512_test_epi32_mask(w, w), yes, no);
}
TSQ_INLINE Words keepBits(Words w, uint32_t mask) {
  return _mm512_and_si512(w, _mm512_set1_epi32(static_cast<int>(mask)));
}
// Bits of `yes` where the mask has ones, of `no` elsewhere.
TSQ_INLINE Words selectBits(uint32_t mask, Words yes, Words no) {
  return _mm512_ternarylogic_epi32(_mm512_set1_epi32(static_cast<int>(mask)), yes, no, 0xca);
}

// Sixteen bytes, in every lane that lookUpBytes takes its table from.
TSQ_INLINE Words byteTable(const uint8_t* p) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
// For each byte of the index, all below 16, the byte of the table.
TSQ_INLINE Words lookUpBytes(Words table, Words index) {
  return _mm512_shuffle_epi8(table, index);
}

// Sixteen unsigned bytes.
TSQ_INLINE Words widenBytes(const uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
TSQ_INLINE Lanes floats(Words w) {
  return _mm512_cvtepi32_ps(w);
}
// To the nearest integer, even where two are as near.
TSQ_INLINE Words nearestWords(Lanes x) {
  return _mm512_cvtps_epi32(x);
}
TSQ_INLINE Words bitsOf(Lanes x) {
  return _mm512_castps_si512(x);
}
TSQ_INLINE Words maxWords(Words a, Words b) {
  return _mm512_max_epi32(a, b);
}
TSQ_INLINE int32_t largestWord(Words w) {
  return _mm512_reduce_max_epi32(w);
}
TSQ_INLINE int32_t sumWords(Words w) {
  return _mm512_reduce_add_epi32(w);
}

// Unsigned bytes times signed bytes, neighbours added to 16 bits (saturated).
TSQ_INLINE Words byteProducts(Words codes, Words x) {
  return _mm512_maddubs_epi16(codes, x);
}
// Signed halves multiplied, neighbours added to 32 bits.
TSQ_INLINE Words halfProducts(Words a, Words b) {
  return _mm512_madd_epi16(a, b);
}
// As assembly, since the compiler would reorder a chain of these sums and run out of registers.
TSQ_INLINE Words addHalves(Words sum, Words x) {
  __asm__("vpaddw %1, %0, %0" : "+v"(sum) : "v"(x));
  return sum;
}

// Sixteen words of -128 … 127 as bytes in the order of a chunk of quads.
template <layout::WeightKind kKind>
TSQ_INLINE void storeCodes(uint8_t* p, Words w) {
  __m128i bytes = _mm512_cvtepi32_epi8(w);
  if constexpr (kKind == layout::WeightKind::kU4 || kKind == layout::WeightKind::kI4) {
    bytes = _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
  } else if constexpr (kKind != layout::WeightKind::kU8) {
    bytes = _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  }
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

// Takes the largest bf16 part from x, lower bits dropped: what is left is exact. A NaN becomes the quiet one and leaves
// nothing, as an infinity does.
TSQ_INLINE Words cutPart(Lanes& x) {
  constexpr int kNan = 0x81, kInfinity = 0x18;
  const __m512i part = _mm512_and_si512(bitsOf(x), _mm512_set1_epi32(static_cast<int>(0xffff0000)));
  const Words cut = _mm512_mask_mov_epi32(part, _mm512_fpclass_ps_mask(x, kNan), _mm512_set1_epi32(0x7fc00000));
  x = _mm512_mask_sub_ps(_mm512_setzero_ps(), _knot_mask16(_mm512_fpclass_ps_mask(x, kNan | kInfinity)), x,
                         _mm512_castsi512_ps(part));
  return cut;
}
// Halves of the 32 words in a and b, by number.
TSQ_INLINE Words chooseHalves(Words a, Words b, const uint16_t* chosen) {
  return _mm512_permutex2var_epi16(a, _mm512_load_si512(chosen), b);
}
// Two columns of sixteen 8-bit floats, in half `kHalf` of a line, as pairs of bf16: exact, E4M3 (finite) times 2^-8. A
// bf16 is the upper half of a f32, and what such a number needs of it.
template <layout::WeightKind kKind, int kHalf>
TSQ_INLINE Words smallFloatPairs(Words line) {
  const __m256i bytes = _mm512_extracti64x4_epi64(line, kHalf);
  __m512i halves;
  if constexpr (kKind == layout::WeightKind::kE4M3) {
    halves = _mm512_and_si512(_mm512_slli_epi16(_mm512_cvtepi8_epi16(bytes), 7),
                              _mm512_set1_epi16(static_cast<short>(0xbfff)));
  } else {
    halves = _mm512_slli_epi16(_mm512_cvtepu8_epi16(bytes), 8);
  }
  const __m512i first = bitsOf(_mm512_cvtph_ps(_mm512_castsi512_si256(halves)));
  const __m512i second = bitsOf(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1)));
  return selectBits(0xffff0000, second, _mm512_srli_epi32(first, 16));
}
// For each half of the index's words, the half of the table that its lower five bits say.
TSQ_INLINE Words lookUp(Words table, Words index) {
  return _mm512_permutexvar_epi16(index, table);
}

}  // namespace
}  // namespace tsq
