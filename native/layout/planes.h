// Codes in bit planes, as GPTQModel's format gptq_p has them: every 32 codes of a row take `bits` words, first those of
// a plane with the codes' lower bits, then one with the next; a plane is as wide as the largest power of two that is
// left. Of 2, 4 and 8 bits there is one plane, which is the plain bit stream (layout/bits.h).
#pragma once
#include <cstdint>

#include "runtime/status.h"

namespace tsq::layout {

// The width of the plane that begins at bit `offset` of codes of `bits` bits.
constexpr int planeWidth(int bits, int offset) {
  const int left = bits - offset;
  return left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

// words [rows, cols * bits / 32] from codes [rows, cols], and back; 2 … 8 bits, cols a multiple of 32. Threaded over
// rows. kFormat where a code is not below 2^bits.
Status packPlanes(const uint8_t* codes, int64_t rows, int64_t cols, int bits, int32_t* words);
void unpackPlanes(const int32_t* words, int64_t rows, int64_t cols, int bits, uint8_t* codes);

}  // namespace tsq::layout
