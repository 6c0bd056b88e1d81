// tr(D H Dᵀ), D what a weight lost by rounding: D transposed, its products with H, and their sum in a fixed order. And
// D of AWQ's candidates.
#pragma once
#include "cuda/calibration/grid.cuh"

namespace tsq::cuda::calibration {

struct Residual {
  Codes on;  // with `codes`, where approx is null; n and k in any case
  Global<const uint8_t> codes;
  Global<const float> w, approx;  // [n][k]
  Global<float> d;                // [k][n]: w less the approximation
};

constexpr int kTurn = 32;  // side of a tile that is transposed
constexpr size_t kTurnShared = kTurn * (kTurn + 1) * sizeof(float);

TSQ_KERNEL(kThreads) residual(Residual p) {
  const int64_t across = tilesOf(p.on.k, kTurn);
  const int64_t top = blockIndex() / across * kTurn, left = blockIndex() % across * kTurn;
  const auto tile = sharedMemory<float>(0);
  for (int i = threadIndex(); i < kTurn * kTurn; i += kThreads) {
    const int64_t row = top + i / kTurn, column = left + i % kTurn, at = row * p.on.k + column;
    if (row >= p.on.n || column >= p.on.k) continue;
    float approx;
    if (p.approx) {
      approx = load(p.approx + at);
    } else {
      const Scale on = p.on.scaleAt(row, column);
      approx = on.scale * (static_cast<float>(load(p.codes + at)) - on.zero);
    }
    store(tile + (i / kTurn * (kTurn + 1) + i % kTurn), load(p.w + at) - approx);
  }
  syncThreads();
  for (int i = threadIndex(); i < kTurn * kTurn; i += kThreads) {
    const int64_t row = top + i % kTurn, column = left + i / kTurn;
    if (row >= p.on.n || column >= p.on.k) continue;
    store(p.d + (column * p.on.n + row), load(tile + (i % kTurn * (kTurn + 1) + i / kTurn)));
  }
}

// D of nearest codes on W diag(s), multiplied by diag(1 / s) again. fit: the grid and groups; its weight is W.
struct ScaledResidual {
  Fit fit;
  Global<const float> scale;  // [k]
  Global<float> d;            // [k][n]
};

// The weights of a group, scaled.
struct ScaledColumns {
  const ScaledResidual& p;
  int64_t row, begin;
  TSQ_DEVICE float operator()(int64_t c) const {
    return load(p.fit.w + (row * p.fit.k + begin + c)) * load(p.scale + (begin + c));
  }
};

TSQ_KERNEL(kThreads) scaledResidual(ScaledResidual p) {
  const Fit& f = p.fit;
  const int64_t stride = int64_t{blockCount()} * kWarps, all = f.n * f.groups;
  // A warp a row and group; warps side by side have rows side by side, and write what lies side by side.
  for (int64_t at = int64_t{blockIndex()} * kWarps + threadIndex() / 32; at < all; at += stride) {
    const int64_t row = at % f.n, begin = at / f.n * f.size;
    const int64_t columns = begin + f.size < f.k ? f.size : f.k - begin;
    const ScaledColumns weights{p, row, begin};
    float low, high;
    rangeOf(columns, weights, &low, &high);
    const Scale on = scaleOf(f.grid, low, high, 1.0f);
    for (int64_t c = threadIndex() % 32; c < columns; c += 32) {
      const float code = rounding::nearestStep(weights(c), on.scale, on.zero, f.grid.maxCode);
      const float approx = on.scale * code * (1.0f / load(p.scale + (begin + c)));
      store(p.d + ((begin + c) * f.n + row), load(f.w + (row * f.k + begin + c)) - approx);
    }
  }
}

struct Objective {
  Global<const float> d;    // [k][n]
  Global<const float> h;    // [k][k], symmetric; read where the row's tile is not behind the column's
  Global<double> partials;  // objectiveBlocks(n, k)
  Global<double> sum;       // one
  int64_t n, k;
};

using ObjectiveTile = Tile<float, 128, false>;
constexpr int64_t kObjectiveSide = 128;
constexpr size_t kSumShared = kThreads * sizeof(double);
constexpr size_t kObjectiveShared = ObjectiveTile::kSharedBytes > kSumShared ? ObjectiveTile::kSharedBytes : kSumShared;

TSQ_BOTH constexpr int64_t objectiveBlocks(int64_t n, int64_t k) {
  return tilesOf(n, kObjectiveSide) * tilesOf(k, kObjectiveSide);
}

// The sum of a value of every thread, for all of them, always in one order.
TSQ_DEVICE double sumOfThreads(double mine) {
  const auto values = sharedMemory<double>(0);
  const int thread = threadIndex();
  syncThreads();
  store(values + thread, mine);
  for (int half = kThreads / 2; half > 0; half /= 2) {
    syncThreads();
    if (thread < half) store(values + thread, load(values + thread) + load(values + (thread + half)));
  }
  syncThreads();
  return load(values);
}

// 128 rows by 128 columns of D H, each times its element of D. At most 128 terms are summed in f32.
TSQ_KERNEL(kThreads) quadratic(Objective p) {
  const int64_t rows = tilesOf(p.n, kObjectiveSide), top = blockIndex() % rows * kObjectiveSide;
  // The longest sums first, so that blocks end together.
  const int64_t left = (tilesOf(p.k, kObjectiveSide) - 1 - blockIndex() / rows) * kObjectiveSide;
  const auto element = [&](int64_t column, int64_t row) {
    return column < p.k && row < p.n ? load(p.d + (column * p.n + row)) : 0.0f;
  };
  double total = 0;
  ObjectiveTile tile;
  for (int64_t first = 0; first <= left; first += kObjectiveSide) {
    tile.clear();
    tile.add(
        p.k - first < kObjectiveSide ? p.k - first : kObjectiveSide,
        [&](int64_t q, int i) { return element(first + q, top + i); },
        [&](int64_t q, int j) { return left + j < p.k ? load(p.h + ((first + q) * p.k + left + j)) : 0.0f; });
    float sum = 0;
    TSQ_UNROLL for (int n = 0; n < ObjectiveTile::kMine; ++n) {
      TSQ_UNROLL for (int m = 0; m < ObjectiveTile::kMine; ++m) {
        sum = fusedMultiplyAdd(tile.sums[m][n], element(left + tile.column(n), top + tile.row(m)), sum);
      }
    }
    total += (first < left ? 2.0 : 1.0) * static_cast<double>(sum);
  }
  const double sum = sumOfThreads(total);
  if (threadIndex() == 0) store(p.partials + blockIndex(), sum);
}

// One block.
TSQ_KERNEL(kThreads) sumPartials(Objective p) {
  double mine = 0;
  for (int64_t at = threadIndex(); at < objectiveBlocks(p.n, p.k); at += kThreads) mine += load(p.partials + at);
  const double sum = sumOfThreads(mine);
  if (threadIndex() == 0) store(p.sum, sum);
}

}  // namespace tsq::cuda::calibration
