// Activations into shared memory, as B operands of mma (by ldmatrix) and of wgmma (by descriptor) want them: rows of
// 64 k, a token each, whose eight chunks of 16 bytes are permuted by the token's number so that neither meets in a
// bank.
#pragma once
#include "cuda/w4a16/gemm_parameters.cuh"

namespace tsq::cuda::w4a16 {

constexpr int kChunks = kTileK / 8;

TSQ_DEVICE int chunkOf(int token, int chunk) {
  return token * kChunks + (chunk ^ token % 8);
}

// Tokens `first` and on of a tile along k, by `threads` threads, a multiple of 8, of which this is number `thread`.
// What lies outside x becomes zero. Belongs to the group of copies that the caller commits.
TSQ_DEVICE void fetchActivations(const Gemm& p, Shared<Words> to, int64_t first, int tokens, int tile, int thread,
                                 int threads) {
  const int chunk = thread % kChunks;
  const int64_t k = int64_t{tile} * kTileK + chunk * 8, past = p.shape.k - k;
  const int inside = past <= 0 ? 0 : past < 8 ? static_cast<int>(past) : 8;
  for (int token = thread / kChunks; token < tokens; token += threads / kChunks) {
    const int64_t row = first + token;
    const int count = row < p.m ? inside : 0;
    if (p.vectorX) {
      const auto* from = reinterpret_cast<const Words*>(p.x.pointer + (count > 0 ? row * p.strideX + k : 0));
      copyAsync(to + chunkOf(token, chunk), Global<const Words>{from}, count * 2);
      continue;
    }
    Words values = {};
    TSQ_UNROLL for (int j = 0; j < 8; ++j) {
      if (j >= count) continue;
      const int64_t column = p.order ? load(p.order + (k + j)) : k + j;
      values.v[j / 2] |= uint32_t{load(p.x + (row * p.strideX + column))} << j % 2 * 16;
    }
    store(to + chunkOf(token, chunk), values);
  }
}

}  // namespace tsq::cuda::w4a16
