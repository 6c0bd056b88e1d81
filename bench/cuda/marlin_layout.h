// The layout of weights and scales that Marlin's kernel takes (IST-DASLab/marlin, marlin/__init__.py), as functions.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace bench {

struct MarlinPlace {
  int64_t n, k;
};

// The code in nibble i of a word of B, an int32 matrix [k / 16][2 n]. A row of B holds 16 k of all outputs in tiles of
// 16 k by 16 n, tile after tile; four tiles are permuted together, so that a lane of a warp finds the fragments of
// its products (16-bit m16n8k16, operand B) in 16 bytes. Nibbles are in the order 0 2 4 6 1 3 5 7.
__host__ __device__ constexpr MarlinPlace marlinPlace(int64_t row, int64_t word, int i) {
  const int inside = static_cast<int>(word % 128), lane = inside / 4, tile = inside % 4;
  const int entry = i < 4 ? 2 * i : 2 * i - 7;
  const int k = 2 * (lane % 4) + entry % 4 % 2 + entry % 4 / 2 * 8, n = lane / 4 + entry / 4 * 8;
  return {(word / 128 * 4 + tile) * 16 + n, row * 16 + k};
}

// Output of value i in a row [n] of scales: one for each group of k, or one in all.
__host__ __device__ constexpr int64_t marlinScale(int64_t i, bool grouped) {
  if (grouped) return i / 64 * 64 + i % 64 / 8 + i % 8 * 8;
  const int j = static_cast<int>(i % 8);
  return i / 32 * 32 + i % 32 / 8 * 2 + j % 2 + j / 2 * 8;
}

// From codes uint8 [n][k] and scales f16 [n][k / group].
void packMarlin(const uint8_t* codes, uint32_t* to, int64_t n, int64_t k, cudaStream_t stream);
void packMarlinScales(const uint16_t* scales, uint16_t* to, int64_t n, int64_t groups, cudaStream_t stream);

}  // namespace bench
