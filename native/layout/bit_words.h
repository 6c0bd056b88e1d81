// Codes of 2 to 8 bits, eight at a time: side by side in a word, or a byte each. Little-endian. Include in files of
// this folder only.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "runtime/scalar.h"

namespace tsq::layout {

// Of every 2 * shift bits the lower half.
TSQ_INLINE constexpr uint64_t lowHalves(int shift) {
  return shift == 32 ? 0xffffffffu : ~uint64_t{0} / ((uint64_t{1} << shift) + 1);
}
// The lower `bits` bits of every `step` bits.
template <int kBits, int kStep>
constexpr uint64_t kLowBits =
    ((uint64_t{1} << kBits) - 1) * (kStep == 64 ? 1 : ~uint64_t{0} / ((uint64_t{1} << kStep % 64) - 1));

// Eight codes of kBits bits, low ones first, to a byte each: the upper half of them moves up, then that of each half.
template <int kBits>
TSQ_INLINE uint64_t spread(uint64_t codes) {
  codes = (codes & kLowBits<4 * kBits, 64>) | (codes << (32 - 4 * kBits) & kLowBits<4 * kBits, 64> << 32);
  codes = (codes & kLowBits<2 * kBits, 32>) | (codes << (16 - 2 * kBits) & kLowBits<2 * kBits, 32> << 16);
  return (codes & kLowBits<kBits, 16>) | (codes << (8 - kBits) & kLowBits<kBits, 16> << 8);
}
// The inverse, of bytes below 2^kBits.
template <int kBits>
TSQ_INLINE uint64_t gather(uint64_t bytes) {
  bytes = (bytes & kLowBits<kBits, 16>) | (bytes >> (8 - kBits) & kLowBits<kBits, 16> << kBits);
  bytes = (bytes & kLowBits<2 * kBits, 32>) | (bytes >> (16 - 2 * kBits) & kLowBits<2 * kBits, 32> << 2 * kBits);
  return (bytes & kLowBits<4 * kBits, 64>) | (bytes >> (32 - 4 * kBits) & kLowBits<4 * kBits, 64> << 4 * kBits);
}

// The sums of eight bytes, each modulo 256.
TSQ_INLINE uint64_t addBytes(uint64_t a, uint64_t b) {
  constexpr uint64_t kTop = kLowBits<1, 8> << 7;
  return ((a & ~kTop) + (b & ~kTop)) ^ ((a ^ b) & kTop);
}

// AWQ keeps the even ones of eight 4-bit codes in the lower half of a word and the odd ones in the upper.
TSQ_INLINE uint32_t toAwqOrder(uint32_t codes) {
  codes = (codes & 0xf00ff00fu) | (codes & 0x0f000f00u) >> 4 | (codes & 0x00f000f0u) << 4;
  return (codes & 0xff0000ffu) | (codes & 0x00ff0000u) >> 8 | (codes & 0x0000ff00u) << 8;
}
TSQ_INLINE uint32_t fromAwqOrder(uint32_t codes) {
  codes = (codes & 0xff0000ffu) | (codes & 0x00ff0000u) >> 8 | (codes & 0x0000ff00u) << 8;
  return (codes & 0xf00ff00fu) | (codes & 0x0f000f00u) >> 4 | (codes & 0x00f000f0u) << 4;
}

// Transposes kWord x kWord elements that lie in kWord words, one a row: exchanges the off-diagonal halves, then those
// of every quarter, and so on (Hacker's Delight, 7-3).
template <int kBits, int kWord = 64 / kBits>
TSQ_INLINE void transposeWords(uint64_t (&words)[kWord]) {
#pragma GCC unroll 3
  for (int step = kWord / 2; step > 0; step /= 2) {
    const int shift = step * kBits;
    const uint64_t low = lowHalves(shift);
#pragma GCC unroll 8
    for (int i = 0; i < kWord; ++i) {
      if ((i & step) != 0) continue;
      const uint64_t swapped = ((words[i] >> shift) ^ words[i + step]) & low;
      words[i] ^= swapped << shift;
      words[i + step] ^= swapped;
    }
  }
}

// Codes of a row, a byte each, of its bit stream; see BitStream for `awq` and `add`.
template <int kBits>
void unpackRow(const uint8_t* stream, int64_t cols, bool awq, int add, uint8_t* codes) {
  const uint64_t added = kLowBits<1, 8> * static_cast<uint64_t>(add & ((1 << kBits) - 1));
  const auto take = [&](uint64_t packed) {
    if (kBits == 4 && awq) packed = fromAwqOrder(static_cast<uint32_t>(packed));
    return addBytes(spread<kBits>(packed), added) & kLowBits<kBits, 8>;
  };
  const int64_t size = (cols * kBits + 7) / 8;
  int64_t at = 0, from = 0;
  // Eight bytes are read at once where there are so many; those behind the eight codes are not looked at.
  for (; at + 8 <= cols && from + 8 <= size; at += 8, from += kBits) {
    uint64_t packed;
    std::memcpy(&packed, stream + from, 8);
    const uint64_t bytes = take(packed);
    std::memcpy(codes + at, &bytes, 8);
  }
  for (; at < cols; at += 8, from += kBits) {
    uint64_t packed = 0;
    std::memcpy(&packed, stream + from, static_cast<size_t>(std::min<int64_t>(kBits, size - from)));
    const uint64_t bytes = take(packed);
    std::memcpy(codes + at, &bytes, static_cast<size_t>(std::min<int64_t>(8, cols - at)));
  }
}

using UnpackRow = void (*)(const uint8_t*, int64_t, bool, int, uint8_t*);
// For 2 to 8 bits.
TSQ_INLINE UnpackRow unpackRowOf(int bits) {
  constexpr UnpackRow kRows[] = {unpackRow<2>, unpackRow<3>, unpackRow<4>, unpackRow<5>,
                                 unpackRow<6>, unpackRow<7>, unpackRow<8>};
  return kRows[bits - 2];
}

}  // namespace tsq::layout
