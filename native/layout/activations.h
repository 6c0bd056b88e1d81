// Where activations lie for the kernels that multiply pairs (bf16) or quads (int8) of k: the one description that
// preparation, kernels and tests share.
//
// k is cut into blocks: at most kBlock packed columns of one group. A block's columns are laid into chunks of 64 bytes
// for every row (32 bf16 or 64 int8), the last one filled up with zeros, so that no chunk holds two groups. Rows are
// taken in bundles of up to 16; a bundle of R rows is [chunk][limb][R][64 bytes]. Within a chunk the order of k is the
// one in which a packed word of the weight is taken apart: see pairColumn and quadColumn.
#pragma once
#include "layout/packed.h"

namespace tsq::layout {

constexpr int64_t kBlock = 256;      // packed k of a block at most: sums of longer chains lose accuracy
constexpr int64_t kBundle = 16;      // rows
constexpr int64_t kChunkBytes = 64;  // of one row
constexpr int64_t kPairChunk = 32;   // k of a chunk of bf16
constexpr int64_t kQuadChunk = 64;   // k of a chunk of int8
// Packed k of a group up to which products of bytes with int8 add up to less than 2^31: 255 * 128 each.
constexpr int64_t kMostByRow = 65536;

// A run of packed columns inside one group.
struct Block {
  int64_t group;
  int64_t p;       // first packed column
  int64_t length;  // packed columns, a multiple of groupAlign
};
TSQ_INLINE constexpr int64_t blocksPerGroup(const Shape& s) {
  return divideUp(groupStride(s), kBlock);
}
TSQ_INLINE constexpr int64_t blocks(const Shape& s) {
  const int64_t full = groups(s) - 1;
  return full * blocksPerGroup(s) + divideUp(packedK(s) - full * groupStride(s), kBlock);
}
TSQ_INLINE constexpr Block blockAt(const Shape& s, int64_t index) {
  const int64_t per = blocksPerGroup(s), group = index / per;
  const int64_t p = group * groupStride(s) + index % per * kBlock;
  const int64_t next = (group + 1) * groupStride(s) < packedK(s) ? (group + 1) * groupStride(s) : packedK(s);
  return {group, p, next - p < kBlock ? next - p : kBlock};
}
// The blocks in order, without the divisions of blockAt.
struct BlockWalk {
  const int64_t stride, width;
  int64_t group = 0, p = 0, groupEnd;
  TSQ_METHOD explicit BlockWalk(const Shape& s)
      : stride(groupStride(s)), width(packedK(s)), groupEnd(stride < width ? stride : width) {}
  TSQ_METHOD int64_t length() const { return groupEnd - p < kBlock ? groupEnd - p : kBlock; }
  TSQ_METHOD void next() {
    p += length();
    if (p < groupEnd) return;
    ++group;
    groupEnd = groupEnd + stride < width ? groupEnd + stride : width;
  }
};
// Chunks of `chunk` k (kPairChunk or kQuadChunk) before block `index`: every block of a group but its last is whole.
TSQ_INLINE constexpr int64_t firstChunk(const Shape& s, int64_t index, int64_t chunk) {
  const int64_t per = blocksPerGroup(s);
  return index / per * divideUp(groupStride(s), chunk) + index % per * (kBlock / chunk);
}
TSQ_INLINE constexpr int64_t chunks(const Shape& s, int64_t chunk) {
  const int64_t full = groups(s) - 1;
  return full * divideUp(groupStride(s), chunk) + divideUp(packedK(s) - full * groupStride(s), chunk);
}

// Column, within a run of 32 packed columns that begins at a step, of element e (0 or 1) of pair i (0 … 15).
TSQ_INLINE constexpr int64_t pairColumn(WeightKind kind, int64_t i, int64_t e) {
  switch (kind) {
    case WeightKind::kU8:  // bytes (0, 2), (1, 3) of a word of 4 k
      return i / 2 * 4 + i % 2 + 2 * e;
    case WeightKind::kU4:
    case WeightKind::kI4:  // nibbles (0, 4), (1, 5), … of a word of 8 k
      return i / 4 * 8 + i % 4 + 4 * e;
    case WeightKind::kU2:
    case WeightKind::kU3:  // bit pairs (0, 8), (1, 9), … of a word of 16 k
      return i / 8 * 16 + i % 8 + 8 * e;
    default:  // bf16: neighbours
      return 2 * i + e;
  }
}
// Column, within a run of 64 packed columns that begins at a step, of element e (0 … 3) of quad i (0 … 15). Integer
// kinds only.
TSQ_INLINE constexpr int64_t quadColumn(WeightKind kind, int64_t i, int64_t e) {
  switch (kind) {
    case WeightKind::kU4:
    case WeightKind::kI4:  // nibbles (0, 2, 4, 6), (1, 3, 5, 7) of a word of 8 k
      return i / 2 * 8 + i % 2 + 2 * e;
    case WeightKind::kU2:
    case WeightKind::kU3:  // bit pairs (0, 4, 8, 12), (1, 5, 9, 13), … of a word of 16 k
      return i / 4 * 16 + i % 4 + 4 * e;
    default:  // bytes of a word
      return 4 * i + e;
  }
}

// Bytes of the chunks of one row in all limbs.
TSQ_INLINE constexpr int64_t rowBytes(const Shape& s, int64_t chunk, int64_t limbs) {
  return chunks(s, chunk) * limbs * kChunkBytes;
}

}  // namespace tsq::layout
