// Attention of a tile of query vectors against one KV head: online softmax over chunks of positions. Include after
// math.h.
//
// Chunks start at multiples of kChunk counted from position 0 and every query sums in order of position, so a query's
// result does not depend on the queries it shares a tile with. Running softmax: Milakov and Gimelshein, "Online
// normalizer calculation for softmax", 2018.
#pragma once

#include "kernels/generic/elementwise.h"
#include "kernels/kernels.h"

namespace tsq {
namespace {

constexpr int64_t kMaxQueries = AttentionTile::kMaxTile;
constexpr int64_t kChunkPositions = AttentionTile::kChunk;
constexpr int64_t kPageRows = 16;

// Scores of kQueries queries (from `firstQuery`) with kBlocks blocks of 16 positions. queries: [headDim][kMaxQueries].
template <int kQueries, int kBlocks>
TSQ_INLINE void scoreBlocks(const AttentionTile& tile, const float* queries, int64_t block, float* scores,
                            int64_t chunk) {
  const float* keys[kBlocks];
  Lanes total[kQueries][kBlocks];
#pragma GCC unroll 8
  for (int b = 0; b < kBlocks; ++b) {
    keys[b] = tile.keys[block + b];
#pragma GCC unroll 8
    for (int r = 0; r < kQueries; ++r) total[r][b] = zeros();
  }
  for (int64_t d = 0; d < tile.headDim; ++d) {
    Lanes key[kBlocks];
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) key[b] = load(keys[b] + d * kPageRows);
#pragma GCC unroll 8
    for (int r = 0; r < kQueries; ++r) {
      const Lanes query = set1(queries[d * kMaxQueries + r]);
#pragma GCC unroll 8
      for (int b = 0; b < kBlocks; ++b) total[r][b] = fma(key[b], query, total[r][b]);
    }
  }
  const Lanes scale = set1(tile.scale);
#pragma GCC unroll 8
  for (int r = 0; r < kQueries; ++r) {
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) {
      Lanes score = mul(total[r][b], scale);
      if (tile.softcap > 0) score = mul(set1(tile.softcap), tanh(div(score, set1(tile.softcap))));
      store(scores + r * kChunkPositions + (block + b) * kPageRows - chunk, score);
    }
  }
}

// Adds the weighted value rows [from, to] to kSlices * 16 columns of every accumulator, after scaling it by its factor.
template <int kQueries, int kSlices>
TSQ_INLINE void addValues(const AttentionTile& tile, const float* weights, int64_t chunk, int64_t from, int64_t to,
                          int64_t column, const float* factors, float* totals, int64_t width) {
  Lanes sums[kQueries][kSlices];
#pragma GCC unroll 8
  for (int r = 0; r < kQueries; ++r) {
#pragma GCC unroll 8
    for (int s = 0; s < kSlices; ++s) sums[r][s] = zeros();
  }
  for (int64_t position = from; position <= to;) {
    const int64_t end = (position / kPageRows + 1) * kPageRows <= to ? (position / kPageRows + 1) * kPageRows : to + 1;
    const float* value = tile.values[position / kPageRows] + position % kPageRows * tile.vStride + column;
    for (; position < end; ++position, value += tile.vStride) {
      Lanes row[kSlices];
#pragma GCC unroll 8
      for (int s = 0; s < kSlices; ++s) row[s] = load(value + s * 16);
#pragma GCC unroll 8
      for (int r = 0; r < kQueries; ++r) {
        const Lanes weight = set1(weights[r * kChunkPositions + position - chunk]);
#pragma GCC unroll 8
        for (int s = 0; s < kSlices; ++s) sums[r][s] = fma(row[s], weight, sums[r][s]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kQueries; ++r) {
#pragma GCC unroll 8
    for (int s = 0; s < kSlices; ++s) {
      float* total = totals + r * width + column + s * 16;
      store(total, fma(load(total), set1(factors[r]), sums[r][s]));
    }
  }
}

// Softmax weights of one query in one chunk: scores become exp(score - peak), hidden positions 0. Updates peak and sum,
// gives the factor by which what was summed so far shrinks.
TSQ_INLINE float chunkSoftmax(float* scores, int64_t chunk, int64_t begin, int64_t end, int64_t first, int64_t last,
                              float* peak, float* sumOut) {
  const float hidden = -__builtin_inff();
  for (int64_t p = begin; p < end && p < first; ++p) scores[p - chunk] = hidden;
  for (int64_t p = last + 1 > begin ? last + 1 : begin; p < end; ++p) scores[p - chunk] = hidden;
  if (first >= end || last < begin) {
    for (int64_t p = begin; p < end; p += 16) store(scores + p - chunk, zeros());
    return 1;
  }
  Lanes best = load(scores + begin - chunk);
  for (int64_t p = begin + 16; p < end; p += 16) best = max(best, load(scores + p - chunk));
  const float chunkPeak = largest(best), newPeak = chunkPeak > *peak ? chunkPeak : *peak;
  const Lanes base = set1(newPeak);
  Lanes total = zeros();
  for (int64_t p = begin; p < end; p += 16) {
    const Lanes weight = exp(sub(load(scores + p - chunk), base));
    store(scores + p - chunk, weight);
    total = add(total, weight);
  }
  // exp(-inf) = 0 for a query's first chunk.
  alignas(64) float factor[16];
  store(factor, exp(set1(*peak - newPeak)));
  *sumOut = *sumOut * factor[0] + sum(total);
  *peak = newPeak;
  return factor[0];
}

// kQueries queries of the tile, from `query` on.
template <int kQueries>
__attribute__((noinline)) void attendQueries(const AttentionTile& tile, int query, float* scratch) {
  constexpr int kWide = kAttentionLanes / kQueries >= 4 ? 4 : kAttentionLanes / kQueries >= 2 ? 2 : 1;
  const int64_t width = layout::roundUp(tile.headDim, 16);
  float* scores = scratch;                                 // [kQueries][kChunk]
  float* totals = scores + kMaxQueries * kChunkPositions;  // [kQueries][width]
  float* queries = totals + kMaxQueries * width;           // [headDim][kMaxQueries]
  float peaks[kQueries], sums[kQueries], factors[kQueries];
  int64_t first = tile.first[query], last = tile.last[query];
  for (int r = 0; r < kQueries; ++r) {
    for (int64_t d = 0; d < tile.headDim; ++d) queries[d * kMaxQueries + r] = tile.queries[query + r][d];
    for (int64_t d = 0; d < width; d += 16) store(totals + r * width + d, zeros());
    peaks[r] = -__builtin_inff();
    sums[r] = 0;
    first = tile.first[query + r] < first ? tile.first[query + r] : first;
    last = tile.last[query + r] > last ? tile.last[query + r] : last;
  }
  for (int64_t chunk = first / kChunkPositions * kChunkPositions; chunk <= last; chunk += kChunkPositions) {
    const int64_t from = first > chunk ? first : chunk,
                  to = last < chunk + kChunkPositions - 1 ? last : chunk + kChunkPositions - 1;
    int64_t block = from / kPageRows;
    const int64_t blockEnd = to / kPageRows + 1, begin = block * kPageRows, end = blockEnd * kPageRows;
    for (; block + kWide <= blockEnd; block += kWide) scoreBlocks<kQueries, kWide>(tile, queries, block, scores, chunk);
    for (; block < blockEnd; ++block) scoreBlocks<kQueries, 1>(tile, queries, block, scores, chunk);
    for (int r = 0; r < kQueries; ++r) {
      factors[r] = chunkSoftmax(scores + r * kChunkPositions, chunk, begin, end, tile.first[query + r],
                                tile.last[query + r], &peaks[r], &sums[r]);
    }
    int64_t column = 0;
    for (; column + kWide * 16 <= width; column += kWide * 16) {
      addValues<kQueries, kWide>(tile, scores, chunk, from, to, column, factors, totals, width);
    }
    for (; column < width; column += 16)
      addValues<kQueries, 1>(tile, scores, chunk, from, to, column, factors, totals, width);
  }
  for (int r = 0; r < kQueries; ++r) {
    const Lanes inverse = set1(1.0f / sums[r]);
    for (int64_t d = 0; d < tile.headDim; d += 16) {
      storeSome(tile.outputs[query + r] + d, mul(load(totals + r * width + d), inverse), tile.headDim - d);
    }
  }
}

template <int kQueries = kAttentionLanes>
TSQ_INLINE void attendAtMost(const AttentionTile& tile, int query, int count, float* scratch) {
  if constexpr (kQueries > 1) {
    if (count < kQueries) return attendAtMost<kQueries - 1>(tile, query, count, scratch);
  }
  attendQueries<kQueries>(tile, query, scratch);
}

void attention(const AttentionTile& tile, float* scratch) {
  for (int query = 0; query < tile.count;) {
    const int here = tile.count - query < kAttentionLanes ? tile.count - query : kAttentionLanes;
    attendAtMost(tile, query, here, scratch);
    query += here;
  }
}

}  // namespace
}  // namespace tsq
