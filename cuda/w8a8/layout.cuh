// Operands of products of 8 bits by 8 bits: s8 by s8, or e4m3 by e4m3.
//
// A fragment of m16n8k32, four bytes a register, is that of m16n8k16 over pairs of bytes (PTX ISA, both fragments). So
// weights lie as 16-bit ones of half as many k do (w4a16/layout.cuh), and that shape, of pairs, is what kernels are
// told. A tile of 64 outputs has 128 k then, in 8 KiB. n and k are padded to whole tiles, with zeros.
//
// Activations lie in tiles of 128 k too, the rows of all tokens in each: 128 bytes a token, in eight chunks of 16 that
// are permuted by the token's number, so that a slab of tokens is one run of bytes, and in shared memory what ldmatrix
// and wgmma want. There are rowsOf(m) rows, those from m on zero.
#pragma once
#include "cuda/w4a16/layout.cuh"

namespace tsq::cuda::w8a8 {

using w4a16::kTileN;
constexpr int kTileK = 128;                            // k of a tile
constexpr int kSteps = 4;                              // products along k in a tile, of 32 k
constexpr int kTileWords = kTileN * kTileK / 16;       // of 16 bytes
constexpr int kChunks = kTileK / 16;                   // of 16 bytes, in the row of a token
constexpr int64_t kBlockSide = 128;                    // of the blocks of weights that may share a scale
constexpr int64_t kMostKOfIntegers = (1 << 17) - 1;    // 2^14 k is below 2^31
constexpr int64_t kMostKOfShifted = int64_t{1} << 16;  // with zero points: 255 * 128 k is

TSQ_BOTH constexpr w4a16::Shape pairsOf(int64_t n, int64_t k) {
  return {n, (k + 1) / 2, (k + 1) / 2, 16};
}

// Slabs of more than 24 tokens are whole.
TSQ_BOTH constexpr int rowsOf(int m) {
  const int slab = m <= 24 ? 8 : m <= 32 ? 32 : m <= 64 ? 64 : 128;
  return (m + slab - 1) / slab * slab;
}
TSQ_BOTH constexpr int64_t activationWords(const w4a16::Shape& pairs, int rows) {
  return pairs.tiles() * rows * kChunks;
}
// Of the 16 bytes that hold k from 16 `chunk` on, counted over all tiles.
TSQ_BOTH constexpr int64_t activationWord(int rows, int row, int64_t chunk) {
  return (chunk / kChunks * rows + row) * kChunks + (static_cast<int>(chunk % kChunks) ^ row % 8);
}
// Four scales for each tile of weights, of 16 outputs each: those of blocks of 128 by 128, packed.
TSQ_BOTH constexpr int64_t blockScaleWords(const w4a16::Shape& pairs) {
  return pairs.columns() * pairs.tiles();
}

}  // namespace tsq::cuda::w8a8
