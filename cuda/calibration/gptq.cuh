// The column loop of GPTQ (native/rounding/gptq_chunk.cc, docs/rounding.md) on a weight whose columns lie in visit
// order: blocks of at most 128 columns, whose errors are spread within the block at once, and over the columns behind
// it as one product.
#pragma once
#include "cuda/calibration/grid.cuh"

namespace tsq::cuda::calibration {

constexpr int kMostColumns = 128;  // of a block

struct Gptq {
  LaneGrid grid;
  Global<const float> source;     // [n][k], columns as they are
  Global<const uint8_t> dead;     // [k] by column
  Global<const int32_t> columns;  // [k] visit position -> column
  Global<const int32_t> groupOf;  // [k] visit position -> group
  Global<const float> u;          // [k][k]
  Global<float> w;                // [n][k] by visit position
  Global<float> errors;           // [kMostColumns][n] of the block
  Global<const float> scales;     // [n][groups]
  Global<const uint8_t> zeros;    // or null
  Global<uint8_t> codes;          // [n][k], columns as they are
  int64_t n, k, groups;
  int64_t begin, end;  // the block
  bool aligned;        // rows of w begin at multiples of 16 bytes, and so does column `end`
};

TSQ_KERNEL(kThreads) gatherColumns(Gptq p) {
  const int64_t stride = int64_t{blockCount()} * kThreads, all = p.n * p.k;
  for (int64_t at = int64_t{blockIndex()} * kThreads + threadIndex(); at < all; at += stride) {
    const int64_t column = load(p.columns + at % p.k);
    store(p.w + at, load(p.dead + column) != 0 ? 0.0f : load(p.source + (at / p.k * p.k + column)));
  }
}

// A warp takes four rows through the block: lane l has columns l, l + 32, … of each. Nothing but shuffles lies between
// one column and the next.
constexpr int kRowsOfWarp = 4, kRowsOfBlock = kRowsOfWarp * kWarps, kColumnsOfLane = kMostColumns / 32;

TSQ_KERNEL(kThreads) roundColumns(Gptq p) {
  const int lane = threadIndex() % 32;
  const int64_t firstRow = int64_t{blockIndex()} * kRowsOfBlock + threadIndex() / 32 * kRowsOfWarp;
  const int width = static_cast<int>(p.end - p.begin);
  float w[kColumnsOfLane][kRowsOfWarp], scale[kColumnsOfLane][kRowsOfWarp], zero[kColumnsOfLane][kRowsOfWarp];
  float error[kColumnsOfLane][kRowsOfWarp];
  TSQ_UNROLL for (int c = 0; c < kColumnsOfLane; ++c) {
    const bool has = lane + 32 * c < width;
    const int64_t position = p.begin + lane + 32 * c, group = has ? load(p.groupOf + position) : 0;
    TSQ_UNROLL for (int r = 0; r < kRowsOfWarp; ++r) {
      const bool inside = has && firstRow + r < p.n;
      const int64_t at = (firstRow + r) * p.groups + group;
      w[c][r] = inside ? load(p.w + ((firstRow + r) * p.k + position)) : 0.0f;
      scale[c][r] = inside ? load(p.scales + at) : 1.0f;
      zero[c][r] = inside && p.zeros ? static_cast<float>(load(p.zeros + at)) : p.grid.symmetricZero;
      error[c][r] = 0;
    }
  }
  float next[kColumnsOfLane];  // the factor's row of the column to come
  const auto fetch = [&](int j) {
    TSQ_UNROLL for (int c = 0; c < kColumnsOfLane; ++c) {
      const int column = lane + 32 * c;
      next[c] = j < width && column < width ? load(p.u + ((p.begin + j) * p.k + p.begin + column)) : 0.0f;
    }
  };
  fetch(0);
  TSQ_UNROLL for (int own = 0; own < kColumnsOfLane; ++own) {
    for (int from = 0; from < 32 && 32 * own + from < width; ++from) {
      float factor[kColumnsOfLane];
      TSQ_UNROLL for (int c = 0; c < kColumnsOfLane; ++c) factor[c] = next[c];
      fetch(32 * own + from + 1);
      const float inversePivot = 1.0f / shuffleFrom(factor[own], from);
      TSQ_UNROLL for (int r = 0; r < kRowsOfWarp; ++r) {
        const float value = shuffleFrom(w[own][r], from), step = shuffleFrom(scale[own][r], from);
        const float code = rounding::nearestStep(value, step, shuffleFrom(zero[own][r], from), p.grid.maxCode);
        const float off = (step * code - value) * inversePivot;
        if (lane == from) error[own][r] = off;
        // Columns that have been rounded stay as they were: their codes are taken at the end.
        TSQ_UNROLL for (int c = own; c < kColumnsOfLane; ++c) {
          if (lane + 32 * c > 32 * own + from) w[c][r] += factor[c] * off;
        }
      }
    }
  }
  TSQ_UNROLL for (int c = 0; c < kColumnsOfLane; ++c) {
    const int j = lane + 32 * c;
    if (j >= width) continue;
    const int64_t column = load(p.columns + (p.begin + j));
    TSQ_UNROLL for (int r = 0; r < kRowsOfWarp; ++r) {
      const int64_t row = firstRow + r;
      if (row >= p.n) continue;
      const float code = rounding::nearestStep(w[c][r], scale[c][r], zero[c][r], p.grid.maxCode) + zero[c][r];
      store(p.codes + (row * p.k + column), static_cast<uint8_t>(static_cast<int32_t>(code)));
      store(p.errors + (j * p.n + row), error[c][r]);
    }
  }
}

using SpreadTile = Tile<float, 128, false>;

// w(row, c) += sum over the block of error(row, j) u(j, c), for the columns c behind it.
TSQ_KERNEL(kThreads) spreadErrors(Gptq p) {
  constexpr int64_t kSide = 128;
  const int64_t rows = tilesOf(p.n, kSide);
  const int64_t top = blockIndex() % rows * kSide, left = p.end + blockIndex() / rows * kSide;
  SpreadTile tile;
  tile.add(
      p.end - p.begin, [&](int64_t j, int i) { return top + i < p.n ? load(p.errors + (j * p.n + top + i)) : 0.0f; },
      [&](int64_t j, int c) { return left + c < p.k ? load(p.u + ((p.begin + j) * p.k + left + c)) : 0.0f; });
  tile.into(p.w + (top * p.k + left), p.k, p.n - top, p.k - left, p.aligned,
            [](float w, float sum) { return w + sum; });
}

}  // namespace tsq::cuda::calibration
