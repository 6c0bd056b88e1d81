// What calibration launches, and with how many blocks: the module enqueues it, tests run it in the emulation.
//
// Run: int(kernel, blocks, bytes of shared memory, parameters); anything but 0 ends the steps and is returned.
#pragma once
#include <algorithm>

#include "cuda/calibration/factor.cuh"
#include "cuda/calibration/gptq.cuh"
#include "cuda/calibration/hessian.cuh"
#include "cuda/calibration/objective.cuh"

namespace tsq::cuda::calibration {

// For kernels that go through their elements in strides.
inline int64_t blocksOf(int64_t elements, int64_t ofBlock = kThreads) {
  return std::max<int64_t>(1, std::min<int64_t>(tilesOf(elements, ofBlock), 4096));
}

enum class Rows { kF32, kF16, kBF16 };

template <typename Run>
int addRows(Run run, Rows type, const HessianRows& p) {
  const int64_t blocks = upperTiles(tilesOf(p.k, 128));
  if (type == Rows::kF32) return run(hessianF32, blocks, GramTile::kSharedBytes, p);
  if (type == Rows::kF16) return run(hessian16<Type::kF16>, blocks, GramBlock<Type::kF16>::kSharedBytes, p);
  return run(hessian16<Type::kBF16>, blocks, GramBlock<Type::kBF16>::kSharedBytes, p);
}

template <typename Run>
int completeHessian(Run run, const Mirror& p) {
  return run(mirror, upperTiles(tilesOf(p.k, 32)), kMirrorShared, p);
}

// Doubles of the factor's workspace: the matrix, an inverse and the smallest pivots.
inline int64_t factorDoubles(int64_t k) {
  return paddedSize(k) * paddedSize(k) + kFactorTile * kFactorTile + paddedSize(k);
}

// Steps [begin, end) of factorSteps(k): the first builds the matrix, the last gives U.
template <typename Run>
int factorInverse(Run run, Factor p, int64_t begin, int64_t end) {
  const int64_t steps = factorSteps(p.k);
  if (begin == 0) {
    if (const int bad = run(buildMatrix, blocksOf(paddedSize(p.k) * paddedSize(p.k)), 0, p); bad != 0) return bad;
  }
  for (p.step = begin; p.step < end; ++p.step) {
    if (const int bad = run(factorDiagonal, 1, kDiagonalShared, p); bad != 0) return bad;
    if (steps == 1) continue;
    if (const int bad = run(factorColumn, steps - 1, FactorTile::kSharedBytes, p); bad != 0) return bad;
    const int64_t tiles = updatedTiles(steps, p.step);
    if (tiles == 0) continue;
    if (const int bad = run(updateRest, tiles, FactorTile::kSharedBytes, p); bad != 0) return bad;
  }
  return end < steps ? 0 : run(extractFactor, blocksOf(p.k * p.k), 0, p);
}

template <typename Run>
int fit(Run run, const Fit& p) {
  return run(fitScales, blocksOf(p.n * p.count, kWarps), 0, p);
}

template <typename Run>
int encode(Run run, const Encode& p) {
  return run(encodeNearest, blocksOf(p.on.n * p.on.k), 0, p);
}

template <typename Run>
int gather(Run run, const Gptq& p) {
  return run(gatherColumns, blocksOf(p.n * p.k), 0, p);
}

template <typename Run>
int roundBlock(Run run, const Gptq& p) {
  if (const int bad = run(roundColumns, tilesOf(p.n, kRowsOfBlock), 0, p); bad != 0) return bad;
  if (p.end == p.k) return 0;
  return run(spreadErrors, tilesOf(p.n, 128) * tilesOf(p.k - p.end, 128), SpreadTile::kSharedBytes, p);
}

template <typename Run>
int objective(Run run, const Objective& p) {
  if (const int bad = run(quadratic, objectiveBlocks(p.n, p.k), kObjectiveShared, p); bad != 0) return bad;
  return run(sumPartials, 1, kSumShared, p);
}

template <typename Run>
int lost(Run run, const Residual& p) {
  return run(residual, tilesOf(p.on.n, kTurn) * tilesOf(p.on.k, kTurn), kTurnShared, p);
}

template <typename Run>
int lostScaled(Run run, const ScaledResidual& p) {
  return run(scaledResidual, blocksOf(p.fit.n * p.fit.groups, kWarps), 0, p);
}

}  // namespace tsq::cuda::calibration
