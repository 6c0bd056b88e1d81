// Attention of a tile of query vectors against one KV head: online softmax over chunks of positions. Include after
// math.h.
//
// Chunks start at multiples of kChunk counted from position 0 and every query sums in order of position, so a query's
// result does not depend on the queries it shares a tile with. Running softmax: Milakov and Gimelshein, "Online
// normalizer calculation for softmax", 2018.
//
// Loops, outermost first. Blocks of keys and of values that fit into L1 are used by all queries of the tile before the
// next ones are read, so memory is read once for a tile.
//   chunk of kChunk positions    scores, then weights of all queries                 softmax
//   kStripe positions            keys [headDim][64] or values [64][64 columns]       L1
//   up to kQueryRows queries     kQueryRows x kWide accumulators                     registers
#pragma once

#include "kernels/generic/elementwise.h"
#include "kernels/generic/kv_unpack.h"
#include "kernels/kernels.h"

namespace tsq {
namespace {

constexpr int kMaxQueries = AttentionTile::kMaxTile;
constexpr int64_t kChunkPositions = AttentionTile::kChunk;
constexpr int64_t kPageRows = 16;
constexpr int64_t kStripe = 64;  // positions whose keys or values stay in L1; a chunk is a multiple of it
constexpr int64_t kStripePages = kStripe / kPageRows;
constexpr int kQueryRows = 6;  // queries of a register tile
constexpr float kLog2e = 1.44269504f;

// Blocks of 16 positions, or slices of 16 columns, beside each other in a register tile of `queries` rows.
constexpr int widthOf(int queries) {
  return kAttentionLanes / queries >= 4 ? 4 : kAttentionLanes / queries >= 2 ? 2 : 1;
}

TSQ_INLINE const uint8_t* pageOf(const AttentionTile& tile, int64_t block) {
  return tile.cache + tile.pages[block] * tile.pageStride;
}

// Pages that the next stripe reads are fetched while this one is computed. kSome: by all register tiles of a large tile
// together, a page each. kAll: by each alone, in a tile that memory is too slow for. All pages are as long.
enum class Ahead { kNone, kSome, kAll };

// Scores of kQueries queries with kBlocks blocks of 16 positions. queries: [kQueries][stride], scaled.
template <int kQueries, int kBlocks, Ahead kAhead>
TSQ_INLINE void scoreBlocks(int64_t headDim, const float* queries, int64_t stride, const float* const* keys,
                            float* scores, const float* const* ahead) {
  constexpr int kFetched = kAhead == Ahead::kAll ? kBlocks : kAhead == Ahead::kSome ? 1 : 0;
  const float* query[kQueries];
  Lanes total[kQueries][kBlocks];
#pragma GCC unroll 8
  for (int r = 0; r < kQueries; ++r) query[r] = queries + r * stride;
#pragma GCC unroll 8
  for (int b = 0; b < kBlocks; ++b) {
#pragma GCC unroll 8
    for (int r = 0; r < kQueries; ++r) total[r][b] = zeros();
  }
  for (int64_t d = 0; d < headDim; ++d) {
    Lanes key[kBlocks];
#pragma GCC unroll 8
    for (int b = 0; b < kFetched; ++b) prefetch(ahead[b] + d * kPageRows);
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) key[b] = load(keys[b] + d * kPageRows);
#pragma GCC unroll 8
    for (int r = 0; r < kQueries; ++r) {
      const Lanes q = set1(query[r][d]);
#pragma GCC unroll 8
      for (int b = 0; b < kBlocks; ++b) total[r][b] = fma(key[b], q, total[r][b]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kQueries; ++r) {
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; ++b) store(scores + r * kChunkPositions + b * kPageRows, total[r][b]);
  }
}

// `blocks` blocks, at most a stripe of them. keys: of each block.
template <int kQueries, Ahead kAhead>
__attribute__((noinline)) void scoreStripe(int64_t headDim, const float* queries, int64_t stride,
                                           const float* const* keys, int64_t blocks, float* scores,
                                           const float* const* ahead) {
  constexpr int kWide = widthOf(kQueries);
  constexpr Ahead kOnce = kAhead == Ahead::kSome ? Ahead::kNone : kAhead;
  if (blocks == kStripePages) {
    scoreBlocks<kQueries, kWide, kAhead>(headDim, queries, stride, keys, scores, ahead);
    for (int b = kWide; b < kStripePages; b += kWide)
      scoreBlocks<kQueries, kWide, kOnce>(headDim, queries, stride, keys + b, scores + b * kPageRows, ahead + b);
    return;
  }
  constexpr int kStep = kAhead == Ahead::kAll ? 1 : 0;
  int64_t b = 0;
  if constexpr (kWide > 1) {
    for (; b + 2 <= blocks; b += 2)
      scoreBlocks<kQueries, 2, kAhead>(headDim, queries, stride, keys + b, scores + b * kPageRows, ahead + b * kStep);
  }
  for (; b < blocks; ++b)
    scoreBlocks<kQueries, 1, kAhead>(headDim, queries, stride, keys + b, scores + b * kPageRows, ahead + b * kStep);
}

// Adds the weighted value rows [from, to] to kSlices * 16 columns of every accumulator, after scaling it by its factor.
// weights: of position `from`. values: of the blocks from that of `from` on, rows of `width`.
template <int kQueries, int kSlices, Ahead kAhead>
TSQ_INLINE void addValues(const float* const* values, const float* weights, int64_t from, int64_t to, int64_t column,
                          const float* factors, float* totals, int64_t width, const float* const* ahead) {
  Lanes sums[kQueries][kSlices];
#pragma GCC unroll 8
  for (int r = 0; r < kQueries; ++r) {
#pragma GCC unroll 8
    for (int s = 0; s < kSlices; ++s) sums[r][s] = zeros();
  }
  const float* next = *ahead + column / kStripe * kStripe * kPageRows;
  for (int64_t position = from; position <= to;) {
    const int64_t end = (position / kPageRows + 1) * kPageRows <= to ? (position / kPageRows + 1) * kPageRows : to + 1;
    const int64_t offset = position % kPageRows * width + column;
    const float* value = *values++ + offset;
    if constexpr (kAhead == Ahead::kAll) next = *ahead++ + offset;
    for (; position < end; ++position, ++weights, value += width) {
      Lanes row[kSlices];
      if constexpr (kAhead == Ahead::kAll) {
#pragma GCC unroll 8
        for (int s = 0; s < kSlices; ++s) prefetch(next + s * 16);
        next += width;
      } else if constexpr (kAhead == Ahead::kSome) {
        prefetch(next);
        next += 16;
      }
#pragma GCC unroll 8
      for (int s = 0; s < kSlices; ++s) row[s] = load(value + s * 16);
#pragma GCC unroll 8
      for (int r = 0; r < kQueries; ++r) {
        const Lanes weight = set1(weights[r * kChunkPositions]);
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

// Columns [column, columnEnd) of a stripe.
template <int kQueries, Ahead kAhead>
__attribute__((noinline)) void valueStripe(const float* const* values, const float* weights, int64_t from, int64_t to,
                                           int64_t column, int64_t columnEnd, const float* factors, float* totals,
                                           int64_t width, const float* const* ahead) {
  constexpr int kWide = widthOf(kQueries);
  constexpr Ahead kOnce = kAhead == Ahead::kSome ? Ahead::kNone : kAhead;
  if (columnEnd - column == kStripe) {
    addValues<kQueries, kWide, kAhead>(values, weights, from, to, column, factors, totals, width, ahead);
    for (column += kWide * 16; column < columnEnd; column += kWide * 16)
      addValues<kQueries, kWide, kOnce>(values, weights, from, to, column, factors, totals, width, ahead);
    return;
  }
  for (; column < columnEnd; column += 16)
    addValues<kQueries, 1, kAhead>(values, weights, from, to, column, factors, totals, width, ahead);
}

struct StripeKernels {
  decltype(&scoreStripe<1, Ahead::kAll>) scores;
  decltype(&valueStripe<1, Ahead::kAll>) values;
};
template <Ahead kAhead>
constexpr StripeKernels kStripeKernels[kQueryRows] = {
    {scoreStripe<1, kAhead>, valueStripe<1, kAhead>}, {scoreStripe<2, kAhead>, valueStripe<2, kAhead>},
    {scoreStripe<3, kAhead>, valueStripe<3, kAhead>}, {scoreStripe<4, kAhead>, valueStripe<4, kAhead>},
    {scoreStripe<5, kAhead>, valueStripe<5, kAhead>}, {scoreStripe<6, kAhead>, valueStripe<6, kAhead>},
};

// 2^x for x <= 0, at least 2^-126: n = round(x), and a minimax polynomial of degree 6 for 2^(x - n). Subnormal results
// would cost some hundred cycles each, and beside the weight of the largest score they count nothing.
TSQ_INLINE Lanes exp2NonPositive(Lanes x) {
  x = max(set1(-126.0f), x);
  const Lanes n = roundEven(x), r = sub(x, n);
  Lanes p = fma(set1(1.53458139e-4f), r, set1(1.33999321e-3f));
  p = fma(p, r, set1(9.61848907e-3f));
  p = fma(p, r, set1(5.55032864e-2f));
  p = fma(p, r, set1(2.40226462e-1f));
  p = fma(p, r, set1(6.93147182e-1f));
  p = fma(p, r, set1(1.0f));
  return scaleByPower(p, n);
}

// What the online softmax carries from chunk to chunk. By query, in whole vectors.
struct Running {
  static constexpr int kQueries = (kMaxQueries + 15) / 16 * 16;
  alignas(64) float peak[kQueries];       // largest score so far, in units of ln 2
  alignas(64) float found[kQueries];      // largest of this chunk
  alignas(64) float factor[kQueries];     // by which what was summed before this chunk shrinks
  alignas(64) float sums[kQueries * 16];  // weights so far, by lane
};

// Puts `fill` where position p + lane lies outside [first, last].
TSQ_INLINE Lanes fillOutside(Lanes x, float fill, int64_t p, int64_t first, int64_t last) {
  alignas(64) static constexpr float kLane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const Lanes lane = load(kLane), filled = set1(fill);
  x = ifLess(lane, set1(static_cast<float>(first - p)), filled, x);
  return ifLess(set1(static_cast<float>(last - p)), lane, filled, x);
}

// The largest of one query's scores [count] in a chunk; [first, last] are visible.
TSQ_INLINE float chunkPeak(float* scores, int64_t count, int64_t first, int64_t last, float softcap) {
  if (softcap > 0) {
    const Lanes cap = set1(softcap), unit = set1(softcap * kLog2e);
    for (int64_t p = 0; p < count; p += 16) store(scores + p, mul(unit, tanh(div(load(scores + p), cap))));
  }
  const float lowest = -__builtin_inff();
  Lanes best = set1(lowest);
  for (int64_t p = 0; p < count; p += 16) {
    Lanes score = load(scores + p);
    if (p < first || p + 15 > last) score = fillOutside(score, lowest, p, first, last);
    best = max(best, score);
  }
  return largest(best);
}

// Scores become weights 2^(score - peak), 0 where hidden. sums [16] gathers them, after what is there has shrunk.
TSQ_INLINE void chunkWeights(float* scores, int64_t count, int64_t first, int64_t last, float peak, float factor,
                             float* sums) {
  const Lanes base = set1(peak);
  Lanes total = zeros();
  for (int64_t p = 0; p < count; p += 16) {
    Lanes weight = exp2NonPositive(sub(load(scores + p), base));
    if (p < first || p + 15 > last) weight = fillOutside(weight, 0, p, first, last);
    store(scores + p, weight);
    total = add(total, weight);
  }
  store(sums, fma(load(sums), set1(factor), total));
}

void attention(const AttentionTile& tile, float* scratch) {
  const KvPage& page = *tile.page;
  const int64_t headDim = page.headDim, width = page.width;
  float* scores = scratch;                                 // [count][kChunk]
  float* totals = scores + kMaxQueries * kChunkPositions;  // [count][width]
  float* queries = totals + kMaxQueries * width;           // [count][width], scaled
  float* unpacked = queries + kMaxQueries * width;         // [kStripePages][16 * width]
  const float ones[kQueryRows] = {1, 1, 1, 1, 1, 1};
  Running running;
  for (int r = 0; r < Running::kQueries; ++r) running.peak[r] = running.found[r] = AttentionTile::kNoPeak;
  // Register tiles of even height: 7 queries are 4 and 3.
  const int parts = (tile.count + kQueryRows - 1) / kQueryRows;
  const auto partBegin = [&](int part) __attribute__((always_inline)) {
    return tile.count * part / parts;
  };
  int64_t first = tile.first[0], last = tile.last[0];
  const Lanes scale = set1(tile.softcap > 0 ? tile.scale : tile.scale * kLog2e);
  for (int r = 0; r < tile.count; ++r) {
    const float* query = tile.queries[r];
    for (int64_t d = 0; d < width; d += 16) {
      store(queries + r * width + d, mul(loadSome(query + d, headDim - d), scale));
      store(totals + r * width + d, zeros());
    }
    store(running.sums + r * 16, zeros());
    first = tile.first[r] < first ? tile.first[r] : first;
    last = tile.last[r] > last ? tile.last[r] : last;
  }
  // With fewer register tiles than pages in a stripe each fetches all of them.
  static_assert(kMaxQueries == kStripePages * kQueryRows);
  const bool large = parts == kStripePages;
  const StripeKernels* kernels = large ? kStripeKernels<Ahead::kSome> : kStripeKernels<Ahead::kAll>;
  const int64_t lastPage = last / kPageRows;
  // The pages from `block` on, for the register tile `part`.
  const float* ahead[kStripePages];
  const auto lookAhead = [&](int64_t offset, int64_t block) __attribute__((always_inline)) {
    for (int64_t i = 0; i < kStripePages; ++i)
      ahead[i] = reinterpret_cast<const float*>(pageOf(tile, block + i < lastPage ? block + i : lastPage) + offset);
  };
  // The f32 keys or values of a stripe's blocks, where they lie or unpacked. What was to be fetched ahead then is, and
  // the stripes do it once more where they are harmless.
  const float* blockData[kStripePages];
  const KvUnpacker unpackers[2] = {keyUnpacker(page.keys), valueUnpacker(page.values)};
  const auto openBlocks = [&](bool ofKeys, int64_t block, int64_t blocks) __attribute__((always_inline)) {
    const KvUnpacker unpack = unpackers[ofKeys ? 0 : 1];
    const int64_t offset = ofKeys ? page.keys.codes : page.values.codes;
    for (int64_t i = 0; i < blocks; ++i) {
      const uint8_t* data = pageOf(tile, block + i);
      if (unpack == nullptr) {
        blockData[i] = reinterpret_cast<const float*>(data + offset);
        continue;
      }
      float* out = unpacked + i * kPageRows * width;
      unpack({&page, data, reinterpret_cast<const uint8_t*>(ahead[i]), ofKeys ? tile.keyScale : tile.valueScale, out,
              unpacked + kStripePages * kPageRows * width});
      blockData[i] = out;
    }
    if (unpack == nullptr) return;
    for (int64_t i = 0; i < kStripePages; ++i) ahead[i] = unpacked + i * kPageRows * width;
  };
  const auto share = [&](int part) __attribute__((always_inline)) {
    return ahead + (large ? part : 0);
  };
  for (int64_t chunk = first / kChunkPositions * kChunkPositions; chunk <= last; chunk += kChunkPositions) {
    const int64_t from = first > chunk ? first : chunk;
    const int64_t to = last < chunk + kChunkPositions - 1 ? last : chunk + kChunkPositions - 1;
    const int64_t blockBegin = from / kPageRows, blockEnd = to / kPageRows + 1;
    const int64_t begin = blockBegin * kPageRows, count = blockEnd * kPageRows - begin;
    for (int64_t block = blockBegin; block < blockEnd; block += kStripePages) {
      const bool lastStripe = block + kStripePages >= blockEnd;
      const int64_t blocks = lastStripe ? blockEnd - block : kStripePages;
      lookAhead(lastStripe ? page.values.codes : page.keys.codes, lastStripe ? blockBegin : block + kStripePages);
      openBlocks(true, block, blocks);
      for (int part = 0; part < parts; ++part) {
        const int r = partBegin(part), rows = partBegin(part + 1) - r;
        kernels[rows - 1].scores(headDim, queries + r * width, width, blockData, blocks,
                                 scores + r * kChunkPositions + block * kPageRows - chunk, share(part));
      }
    }
    for (int r = 0; r < tile.count; ++r) {
      running.found[r] = chunkPeak(scores + r * kChunkPositions + begin - chunk, count, tile.first[r] - begin,
                                   tile.last[r] - begin, tile.softcap);
    }
    for (int r = 0; r < tile.count; r += 16) {
      const Lanes old = load(running.peak + r), peak = max(old, load(running.found + r));
      store(running.factor + r, exp2NonPositive(sub(old, peak)));
      store(running.peak + r, peak);
    }
    for (int r = 0; r < tile.count; ++r) {
      chunkWeights(scores + r * kChunkPositions + begin - chunk, count, tile.first[r] - begin, tile.last[r] - begin,
                   running.peak[r], running.factor[r], running.sums + r * 16);
    }
    for (int64_t stripe = from / kStripe * kStripe; stripe <= to; stripe += kStripe) {
      const int64_t a = from > stripe ? from : stripe, b = to < stripe + kStripe - 1 ? to : stripe + kStripe - 1;
      lookAhead(b == to ? page.keys.codes : page.values.codes, (b + 1) / kPageRows);
      openBlocks(false, a / kPageRows, b / kPageRows + 1 - a / kPageRows);
      for (int64_t column = 0; column < width; column += kStripe) {
        const int64_t columnEnd = column + kStripe < width ? column + kStripe : width;
        for (int part = 0; part < parts; ++part) {
          const int r = partBegin(part), rows = partBegin(part + 1) - r;
          kernels[rows - 1].values(blockData, scores + r * kChunkPositions + a - chunk, a, b, column, columnEnd,
                                   a == from ? running.factor + r : ones, totals + r * width, width, share(part));
        }
      }
    }
  }
  for (int r = 0; r < tile.count; ++r) {
    const float total = sum(load(running.sums + r * 16));
    const Lanes inverse = set1(total > 0 ? 1.0f / total : 0.0f);
    for (int64_t d = 0; d < headDim; d += 16) {
      storeSome(tile.outputs[r] + d, mul(load(totals + r * width + d), inverse), headDim - d);
    }
    if (tile.peaks == nullptr) continue;
    tile.peaks[r] = running.peak[r];
    tile.sums[r] = total;
  }
}

}  // namespace
}  // namespace tsq
