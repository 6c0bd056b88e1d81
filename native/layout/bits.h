// Codes of 2 to 8 bits as the little-endian bit streams of on-disk formats (GPTQ, AWQ, compressed-tensors), and
// transposition. In memory every code is one byte. A row of codes is one stream: code j takes bits [j * bits, (j + 1) *
// bits) of the row's 32-bit words, low bits first, across word boundaries where `bits` does not divide 32; the last
// word is padded with zeros.
#pragma once
#include <cstdint>

#include "runtime/status.h"

namespace tsq::layout {

// How the rows of one matrix are streamed.
struct BitStream {
  int64_t rows = 0, cols = 0;
  int bits = 4;  // 2 … 8
  bool interleave =
      false;    // AWQ: position p of each 8 holds column 0 2 4 6 1 3 5 7 [p]; needs bits = 4 and cols % 8 = 0
  int add = 0;  // added modulo 2^bits to a code before it is packed, after it is unpacked
};

// 32-bit words of a row.
constexpr int64_t rowWords(int64_t cols, int bits) {
  return (cols * bits + 31) / 32;
}

// kOption where `stream` contradicts itself.
Status checkBitStream(const BitStream& stream);

// words [rows, rowWords] from codes [rows, cols]. Threaded over rows. kFormat with row and column of the first code >=
// 2^bits.
Status packBits(const uint8_t* codes, const BitStream& stream, int32_t* words);

// codes [rows, cols] from words [rows, rowWords]. Threaded over rows. Padding bits are not looked at.
Status unpackBits(const int32_t* words, const BitStream& stream, uint8_t* codes);

// out [cols, rows] = source [rows, cols] transposed; elements of 1, 2 or 4 bytes, no overlap. Threaded, in cache-sized
// tiles.
Status transpose(const void* source, int64_t rows, int64_t cols, int elementBytes, void* out);

}  // namespace tsq::layout
