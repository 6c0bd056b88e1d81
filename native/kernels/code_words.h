// Codes of one row, a byte each, to the 32-bit words of layout/packed.h. Loops over whole arrays, written so that
// compilers make vectors of them. Little-endian. Include in pack_codes.cc only.
#pragma once
#include <cstdint>
#include <cstring>

#include "kernels/interleave.h"
#include "layout/packed.h"

namespace tsq {
namespace {

// Columns that are converted at a time: their words of 16 rows stay in the first-level cache.
constexpr int64_t kCodeChunk = 512;

// Bits kFirst … kFirst + kBits - 1 of two neighbouring bytes in one byte, the second above the first.
template <int kBits, int kFirst = 0>
TSQ_INLINE void fold(const uint8_t* __restrict in, int64_t count, uint8_t* __restrict out) {
  constexpr uint32_t kMask = ((1u << kBits) - 1) * 0x0101u;
  for (int64_t i = 0; i < count / 2; ++i) {
    uint16_t two;
    std::memcpy(&two, in + 2 * i, 2);
    two = static_cast<uint16_t>(two >> kFirst & kMask);
    out[i] = static_cast<uint8_t>(two | two >> (8 - kBits));
  }
}

// All bits that occur in `count` bytes.
TSQ_INLINE uint8_t bitsIn(const uint8_t* codes, int64_t count) {
  uint8_t seen = 0;
  for (int64_t i = 0; i < count; ++i) seen |= codes[i];
  return seen;
}

// Steps of U3: the words of the lower two bits of 32 codes, then the word of their top bits.
TSQ_INLINE void threeBitWords(const uint8_t* codes, int64_t count, uint32_t* words) {
  alignas(64) uint8_t pairs[kCodeChunk], low[kCodeChunk], top[kCodeChunk];
  fold<2>(codes, count, pairs);
  fold<4>(pairs, count / 2, low);
  fold<1, 2>(codes, count, pairs);
  fold<2>(pairs, count / 2, top);
  fold<4>(top, count / 4, pairs);
  for (int64_t step = 0; step < count / 32; ++step) {
    // Bytes for k = 0 …, 8 …, 16 …, 24 …: those of a low word's upper half belong into the upper half.
    uint32_t bits;
    std::memcpy(&bits, pairs + 4 * step, 4);
    bits = (bits & 0xff0000ffu) | (bits & 0xff00u) << 8 | (bits >> 8 & 0xff00u);
    std::memcpy(top + 4 * step, &bits, 4);
  }
  for (int64_t step = 0; step < count / 32; ++step) {
    std::memcpy(words + 3 * step, low + 8 * step, 8);
    std::memcpy(words + 3 * step + 2, top + 4 * step, 4);
  }
}

// 16 rows of bytes to [column][16]; columns in pairs.
TSQ_INLINE void byteColumns(const void* rows, int64_t stride, int64_t columns, void* out) {
  alignas(64) uint16_t pairs[kCodeChunk / 2 * layout::kPanel];
  interleave(rows, stride, columns / 2, pairs);
  uint8_t* to = static_cast<uint8_t*>(out);
  for (int64_t i = 0; i < columns / 2; ++i, to += 2 * layout::kPanel) {
    const uint16_t* __restrict from = pairs + i * layout::kPanel;
    for (int64_t row = 0; row < layout::kPanel; ++row) {
      to[row] = static_cast<uint8_t>(from[row]);
      to[layout::kPanel + row] = static_cast<uint8_t>(from[row] >> 8);
    }
  }
}

// `count` codes (a multiple of groupAlign, at most kCodeChunk), each below 2^bits of the kind.
TSQ_INLINE void codeWords(layout::WeightKind kind, const uint8_t* codes, int64_t count, uint32_t* words) {
  alignas(64) uint8_t pairs[kCodeChunk];
  uint8_t* out = reinterpret_cast<uint8_t*>(words);
  switch (kind) {
    case layout::WeightKind::kU2:
      fold<2>(codes, count, pairs);
      fold<4>(pairs, count / 2, out);
      break;
    case layout::WeightKind::kU3:
      threeBitWords(codes, count, words);
      break;
    case layout::WeightKind::kU4:
    case layout::WeightKind::kB4:
    case layout::WeightKind::kI4:
      fold<4>(codes, count, out);
      break;
    default:
      std::memcpy(out, codes, static_cast<size_t>(count));
  }
}

}  // namespace
}  // namespace tsq
