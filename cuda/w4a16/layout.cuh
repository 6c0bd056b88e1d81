// Packed 4-bit weights for tensor cores: one layout for mma and wgmma, f16 and bf16.
//
// A weight W[n][k] (outputs by inputs) is cut into tiles of 64 n by 64 k, stored so that the tiles of 64 outputs run
// along k. A tile is 2 KiB: four units of 16 k; a unit is 16 bytes for each of the 32 lanes of a warp; word j of lane
// l is what this lane holds of the slab of outputs 16 j … 16 j + 15 as operand A of mma.m16n8k16 (and of
// wgmma.m64nNk16 from registers): with g = l / 4 and t = l % 4, register r of the fragment has
//
//   output 16 j + g + 8 (r % 2),  inputs 2 t + 8 (r / 2) (lower half) and the next (upper half)   [PTX ISA, m16n8k16]
//
// The two codes of register r are nibbles at bits kShift[r] and kShift[r] + 16 of the word, modulo 32. One shift or
// rotation then brings them to the top of two mantissas, where a mask and the bits of 1.0 make them 1 + q/16 exactly:
// f16 wants bit 6 of each half, bf16 bit 3.
//
// Scales (f16 or bf16) and zero points (f16) of a group of k are 64 values of 16 bits, in order of 64 n and then
// groups; output o of the 64 is value 8 (o % 8) + 2 (o / 16) + o / 8 % 2, so that a lane finds the eight outputs of its
// rows in 16 bytes. n and k are padded to whole tiles; padding has scale 0.
#pragma once
#include "cuda/device.cuh"

namespace tsq::cuda::w4a16 {

constexpr int kTileN = 64, kTileK = 64, kUnitK = 16;
constexpr int kUnits = kTileK / kUnitK;
constexpr int kTileWords = kUnits * 32;  // of 16 bytes
constexpr int kScaleWords = 8;           // of 16 bytes, for a group of 64 outputs

struct Shape {
  int64_t n, k;
  int64_t group;  // 16, 32, a multiple of 64, or at least k

  TSQ_BOTH constexpr int64_t columns() const { return (n + kTileN - 1) / kTileN; }
  TSQ_BOTH constexpr int64_t tiles() const { return (k + kTileK - 1) / kTileK; }  // along k
  TSQ_BOTH constexpr int64_t groupK() const { return group < k ? group : tiles() * kTileK; }
  TSQ_BOTH constexpr int64_t groups() const { return (tiles() * kTileK + groupK() - 1) / groupK(); }
  TSQ_BOTH constexpr int64_t weightWords() const { return columns() * tiles() * kTileWords; }
  TSQ_BOTH constexpr int64_t scaleWords() const { return columns() * groups() * kScaleWords; }
  // Steps of work, of 2^14 weights and more, are counted in 31 bits.
  TSQ_BOTH constexpr bool valid() const {
    constexpr int64_t kMost = int64_t{1} << 31;
    return n > 0 && k > 0 && group > 0 && n <= kMost && k <= kMost && (n + 255) * (k + 255) < int64_t{1} << 45 &&
           (group >= k || group == 16 || group == 32 || group % kTileK == 0);
  }
};

// Where in its 16 k a unit, a lane and a word have the two codes of register r.
TSQ_BOTH constexpr int shiftOf(int r) {
  return r == 0 ? 6 : r == 1 ? 10 : r == 2 ? 2 : 14;
}

// Word j of the 16 bytes with this index. code(n, k) is asked for padding too.
template <typename Code>
TSQ_BOTH uint32_t packWord(const Shape& shape, int64_t index, int j, Code code) {
  const int lane = static_cast<int>(index % 32);
  const int64_t unit = index / 32, column = unit / (shape.tiles() * kUnits), step = unit % (shape.tiles() * kUnits);
  uint32_t word = 0;
  for (int r = 0; r < 4; ++r) {
    for (int half = 0; half < 2; ++half) {
      const int64_t n = column * kTileN + 16 * j + lane / 4 + 8 * (r % 2);
      const int64_t k = step * kUnitK + 2 * (lane % 4) + 8 * (r / 2) + half;
      word |= rotateRight(code(n, k) & 15u, 32 - (shiftOf(r) + 16 * half) % 32);
    }
  }
  return word;
}

// Output and group of the 16-bit value with this index among the scales.
struct ScalePlace {
  int64_t n, group;
};
TSQ_BOTH constexpr ScalePlace scalePlace(const Shape& shape, int64_t index) {
  const int64_t row = index / kTileN, value = index % kTileN;
  return {row / shape.groups() * kTileN + value % 8 / 2 * 16 + value % 2 * 8 + value / 8, row % shape.groups()};
}

// The fragment of operand A that a word holds, as 1 + q/16.
template <Type kType>
TSQ_DEVICE void unpack(uint32_t (&a)[4], uint32_t word) {
  constexpr bool kHalf = kType == Type::kF16;
  constexpr uint32_t kMask = kHalf ? 0x03c003c0u : 0x00780078u, kOne = kHalf ? 0x3c003c00u : 0x3f803f80u;
  a[0] = andOr(kHalf ? word : word >> 3, kMask, kOne);
  a[1] = andOr(word >> (kHalf ? 4 : 7), kMask, kOne);
  a[2] = andOr(word << (kHalf ? 4 : 1), kMask, kOne);
  a[3] = andOr(rotateRight(word, kHalf ? 8 : 11), kMask, kOne);
}

}  // namespace tsq::cuda::w4a16
