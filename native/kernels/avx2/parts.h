// The part of a panel that the fused matmul works on at a time: on AVX2 one register or two, so that the sums of all
// rows fit and still hide each other's latency. The same names as avx512/parts.h and neon/parts.h.
#pragma once

#include "kernels/avx2/words.h"

namespace tsq {
namespace {

// What Words and Lanes can do, for one register.
TSQ_INLINE __m256 add(__m256 a, __m256 b) {
  return _mm256_add_ps(a, b);
}
TSQ_INLINE __m256 sub(__m256 a, __m256 b) {
  return _mm256_sub_ps(a, b);
}
TSQ_INLINE __m256 mul(__m256 a, __m256 b) {
  return _mm256_mul_ps(a, b);
}
TSQ_INLINE __m256 fma(__m256 a, __m256 b, __m256 c) {
  return _mm256_fmadd_ps(a, b, c);
}
TSQ_INLINE __m256i upperHalves(__m256i w) {
  return _mm256_srli_epi32(w, 16);
}
TSQ_INLINE __m256 overlay(__m256i w, uint32_t mask, float magic) {
  const __m256 keep = _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(mask)));
  return _mm256_or_ps(_mm256_and_ps(_mm256_castsi256_ps(w), keep), _mm256_set1_ps(magic));
}
template <int kBits>
TSQ_INLINE __m256i shiftDown(__m256i w) {
  if constexpr (kBits > 0) return _mm256_srli_epi32(w, kBits);
  if constexpr (kBits < 0) return _mm256_slli_epi32(w, -kBits);
  return w;
}
TSQ_INLINE __m256i selectBits(uint32_t mask, __m256i yes, __m256i no) {
  const __m256i keep = _mm256_set1_epi32(static_cast<int>(mask));
  return _mm256_or_si256(_mm256_and_si256(keep, yes), _mm256_andnot_si256(keep, no));
}

// The sixteen values of a code book, eight in a register.
struct Book {
  __m256 lower, upper;
};
TSQ_INLINE Book loadBook(const float* values) {
  return {_mm256_loadu_ps(values), _mm256_loadu_ps(values + 8)};
}
// The values of the codes at bits kShift … kShift + 3 of the words. A code's top bit becomes the sign, by which a blend
// chooses.
template <int kShift>
TSQ_INLINE __m256 choose(Book book, __m256i w) {
  const __m256i index = shiftDown<kShift>(w), top = shiftDown<kShift - 28>(w);
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(book.lower, index), _mm256_permutevar8x32_ps(book.upper, index),
                          _mm256_castsi256_ps(top));
}
template <int kShift>
TSQ_INLINE Lanes choose(Book book, Words w) {
  return {choose<kShift>(book, w.lo), choose<kShift>(book, w.hi)};
}

template <int kRows, bool kWhole = kRows >= 3 && kRows <= 6>
struct Part {
  using Floats = __m256;
  using Codes = __m256i;
  using Marked = __m256i;
  static constexpr int kLanes = 8;

  TSQ_INLINE Floats zero() { return _mm256_setzero_ps(); }
  TSQ_INLINE Floats every(float x) { return _mm256_set1_ps(x); }
  TSQ_INLINE Floats load(const float* p) { return _mm256_loadu_ps(p); }
  TSQ_INLINE Floats loadHalf(const void* p) { return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p))); }
  TSQ_INLINE Floats loadBfloat(const void* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  TSQ_INLINE Floats loadE4m3(const void* p) { return loadE4m3x8(static_cast<const uint8_t*>(p)); }
  TSQ_INLINE Floats loadE5m2(const void* p) { return loadE5m2x8(static_cast<const uint8_t*>(p)); }
  TSQ_INLINE Codes loadCodes(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  TSQ_INLINE Floats of(Lanes x, int part) { return part == 0 ? x.lo : x.hi; }
  TSQ_INLINE Lanes joined(const Floats* parts) { return {parts[0], parts[1]}; }
  // Lower halves of words below the upper half of 2^23, so that one `and` gives 2^23 + the bits under a mask.
  TSQ_INLINE Marked markLower(Codes w) { return _mm256_blend_epi16(w, _mm256_set1_epi32(0x4b000000), 0xaa); }
  TSQ_INLINE Floats markedBits(Marked w, uint32_t mask) {
    return _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32(static_cast<int>(mask | 0xffff0000u))));
  }
};

template <int kRows>
struct Part<kRows, true> {
  using Floats = Lanes;
  using Codes = Words;
  static constexpr int kLanes = 16;

  TSQ_INLINE Floats zero() { return zeros(); }
  TSQ_INLINE Floats every(float x) { return set1(x); }
  TSQ_INLINE Floats load(const float* p) { return tsq::load(p); }
  TSQ_INLINE Floats loadHalf(const void* p) { return tsq::loadHalf(p); }
  TSQ_INLINE Floats loadBfloat(const void* p) { return tsq::loadBfloat(p); }
  TSQ_INLINE Floats loadE4m3(const void* p) { return tsq::loadE4m3(p); }
  TSQ_INLINE Floats loadE5m2(const void* p) { return tsq::loadE5m2(p); }
  TSQ_INLINE Codes loadCodes(const void* p) { return loadWords(p); }
  TSQ_INLINE Floats of(Lanes x, int) { return x; }
  TSQ_INLINE Lanes joined(const Floats* parts) { return parts[0]; }
};

}  // namespace
}  // namespace tsq
