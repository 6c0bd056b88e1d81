// The part of a panel that the fused matmul works on at a time: on AVX-512 the whole of it, for any number of rows. The
// same names as avx2/parts.h and neon/parts.h.
#pragma once

#include "kernels/avx512/words.h"

namespace tsq {
namespace {

// The sixteen values of a code book.
using Book = Lanes;
TSQ_INLINE Book loadBook(const float* values) {
  return load(values);
}
// The values of the codes at bits kShift … kShift + 3 of the words.
template <int kShift>
TSQ_INLINE Lanes choose(Book book, Words w) {
  return _mm512_permutexvar_ps(shiftDown<kShift>(w), book);
}

template <int kRows>
struct Part {
  using Floats = Lanes;
  using Codes = Words;
  using Marked = Words;
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
  // Lower halves of words that bits are taken from as 2^23 + bits.
  TSQ_INLINE Marked markLower(Codes w) { return w; }
  TSQ_INLINE Floats markedBits(Marked w, uint32_t mask) { return overlay(w, mask, 8388608.0f); }
};

}  // namespace
}  // namespace tsq
