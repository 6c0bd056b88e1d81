// The factor that GPTQ needs, in f64: H⁻¹ = UᵀU for the damped Hessian in visit order
// (native/rounding/inverse_factor.cc and docs/rounding.md, "The factor without the inverse").
//
// A is that Hessian with its columns reversed, padded to tiles of 64 by an identity. With A = L Lᵀ and Z = L⁻ᵀ, U(i, j)
// = Z(k-1-j, k-1-i). Both come out of one pass in place: L below the diagonal, Z above. After j columns, for the column
// j with pivot d = sqrt(A(j, j)),
//
//   column j, all other rows:  A(x, j) /= d        below it is L's, above it Z's
//   A(j, j) = 1 / d                                Z's
//   columns q > j, rows x <= j and x >= q:         A(x, q) -= A(x, j) A(q, j)
//
// and the same holds for tiles in place of elements, a division being a product with the inverse of a triangle.
#pragma once
#include <cfloat>

#include "cuda/calibration/tile.cuh"

namespace tsq::cuda::calibration {

constexpr int kFactorTile = 64;
using FactorTile = Tile<double, kFactorTile, true>;

TSQ_BOTH constexpr int64_t factorSteps(int64_t k) {
  return tilesOf(k, kFactorTile);
}
TSQ_BOTH constexpr int64_t paddedSize(int64_t k) {
  return factorSteps(k) * kFactorTile;
}

struct Factor {
  int64_t k;
  Global<const float> h;          // [k][k]
  Global<const int32_t> columns;  // visit position -> column
  Global<double> a;               // [padded][padded]
  Global<double> inverses;        // [64][64], L⁻¹ of the tile under way
  Global<double> smallest;        // [padded], of pivots that are more than rounding errors
  Global<float> u;                // [k][k], zero below the diagonal
  Global<int32_t> failed;  // the first row without a pivot, or -1; how many diagonal elements of U are no numbers
  double unit, damp;       // 1 / mean of the diagonal; added to it in these units
  double noise;            // of a pivot, in units of its diagonal element
  int64_t step;
};

TSQ_KERNEL(kThreads) buildMatrix(Factor p) {
  const int64_t padded = paddedSize(p.k), stride = int64_t{blockCount()} * kThreads;
  if (blockIndex() == 0 && threadIndex() < 2) store(p.failed + threadIndex(), threadIndex() == 0 ? -1 : 0);
  const auto element = [&](int64_t row, int64_t column) -> double {
    if (row >= p.k || column >= p.k) return row == column ? 1.0 : 0.0;
    if (column > row) return 0;  // where Z comes
    const int64_t i = load(p.columns + (p.k - 1 - row)), j = load(p.columns + (p.k - 1 - column));
    const float atI = load(p.h + i * (p.k + 1)), atJ = load(p.h + j * (p.k + 1));
    if (i == j) return (atI > 0 ? double{atI} * p.unit : 1.0) + p.damp;
    if (!(atI > 0) || !(atJ > 0)) return 0;
    return 0.5 * (double{load(p.h + (i * p.k + j))} + double{load(p.h + (j * p.k + i))}) * p.unit;
  };
  for (int64_t at = int64_t{blockIndex()} * kThreads + threadIndex(); at < padded * padded; at += stride) {
    const int64_t row = at / padded, column = at % padded;
    const double value = element(row, column);
    store(p.a + at, value);
    if (row == column) store(p.smallest + row, p.noise * value);
  }
}

// The tile on the diagonal: one block.
TSQ_KERNEL(kThreads) factorDiagonal(Factor p) {
  constexpr int kSide = kFactorTile, kStride = kSide + 1;
  const int64_t padded = paddedSize(p.k), begin = p.step * kSide;
  const auto tile = sharedMemory<double>(0);
  const auto at = [&](int row, int column) { return tile + (row * kStride + column); };
  const int thread = threadIndex();
  for (int i = thread; i < kSide * kSide; i += kThreads) {
    const int row = i / kSide, column = i % kSide;
    store(at(row, column), column > row ? 0.0 : load(p.a + ((begin + row) * padded + begin + column)));
  }
  int32_t failed = -1;
  for (int j = 0; j < kSide; ++j) {
    syncThreads();
    const double diagonal = load(at(j, j));
    // A negated comparison, so that NaN fails.
    const bool bad = !(diagonal > load(p.smallest + (begin + j))) || !(diagonal <= DBL_MAX);
    if (bad && failed < 0) failed = static_cast<int32_t>(begin) + j;
    const double inverse = bad ? 1.0 : 1.0 / squareRoot(diagonal);
    syncThreads();
    if (thread < kSide) store(at(thread, j), thread == j ? inverse : load(at(thread, j)) * inverse);
    syncThreads();
    for (int i = thread; i < kSide * kSide; i += kThreads) {
      const int row = i / kSide, column = i % kSide;
      if (column <= j || (row > j && row < column)) continue;
      store(at(row, column), fusedMultiplyAdd(-load(at(row, j)), load(at(column, j)), load(at(row, column))));
    }
  }
  syncThreads();
  for (int i = thread; i < kSide * kSide; i += kThreads) {
    const int row = i / kSide, column = i % kSide;
    store(p.a + ((begin + row) * padded + begin + column), column >= row ? load(at(row, column)) : 0.0);
    store(p.inverses + i, column <= row ? load(at(column, row)) : 0.0);
  }
  if (thread == 0 && failed >= 0 && load(p.failed) < 0) store(p.failed, failed);
}
constexpr size_t kDiagonalShared = kFactorTile * (kFactorTile + 1) * sizeof(double);

// The other tiles of the column, a block each.
TSQ_KERNEL(kThreads) factorColumn(Factor p) {
  const int64_t padded = paddedSize(p.k), row = blockIndex() < p.step ? blockIndex() : blockIndex() + 1;
  const auto tile = p.a + (row * kFactorTile * padded + p.step * kFactorTile);
  FactorTile product;
  product.add(
      kFactorTile, [&](int64_t q, int i) { return load(tile + (i * padded + q)); },
      [&](int64_t q, int j) { return load(p.inverses + (j * kFactorTile + q)); });
  product.into(tile, padded, kFactorTile, kFactorTile, true, [](double, double sum) { return sum; });
}

// Tiles that updateRest changes after a step: of columns q behind it, rows up to the step and from q on.
TSQ_BOTH constexpr int64_t updatedTiles(int64_t steps, int64_t step) {
  const int64_t rest = steps - 1 - step;
  return rest * (step + 1) + upperTiles(rest);
}

TSQ_KERNEL(kThreads) updateRest(Factor p) {
  const int64_t padded = paddedSize(p.k), rest = factorSteps(p.k) - 1 - p.step, above = rest * (p.step + 1);
  const int64_t block = blockIndex();
  const Place lower = upperTile(block < above ? 0 : block - above, rest);
  const int64_t q = p.step + 1 + (block < above ? block / (p.step + 1) : lower.i);
  const int64_t row = block < above ? block % (p.step + 1) : p.step + 1 + lower.j;
  const auto left = p.a + (row * kFactorTile * padded + p.step * kFactorTile);
  const auto right = p.a + (q * kFactorTile * padded + p.step * kFactorTile);
  FactorTile product;
  product.add(
      kFactorTile, [&](int64_t s, int i) { return load(left + (i * padded + s)); },
      [&](int64_t s, int j) { return load(right + (j * padded + s)); });
  product.into(p.a + (row * kFactorTile * padded + q * kFactorTile), padded, kFactorTile, kFactorTile, true,
               [](double a, double sum) { return a - sum; });
}

TSQ_KERNEL(kThreads) extractFactor(Factor p) {
  const int64_t padded = paddedSize(p.k), stride = int64_t{blockCount()} * kThreads;
  for (int64_t at = int64_t{blockIndex()} * kThreads + threadIndex(); at < p.k * p.k; at += stride) {
    const int64_t i = at / p.k, j = at % p.k;
    const float value = i > j ? 0.0f : static_cast<float>(load(p.a + ((p.k - 1 - j) * padded + p.k - 1 - i)));
    if (i == j && !(value > 0 && value <= FLT_MAX)) atomicAdd(p.failed + 1, 1);
    store(p.u + at, value);
  }
}

}  // namespace tsq::cuda::calibration
