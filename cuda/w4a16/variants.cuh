// The compiled kernels and the choice among them.
#pragma once
#include <algorithm>
#include <array>
#include <span>

#include "cuda/w4a16/gemm.cuh"

namespace tsq::cuda::w4a16 {

struct Variant {
  Type type;
  int tokens;          // of a slab
  int groupUnits;      // of 16 k with one scale
  int tilesN, tilesK;  // of a step
  int threads;
  size_t sharedBytes;
  int partialFloats;  // Floats of a partial result of a block
  bool joint;         // blocks share the columns of all slabs
  void (*kernel)(Gemm);
};

// What a block may have of shared memory, in KiB: on every device since sm_80, and on sm_90.
constexpr int kSharedEverywhere = 99, kSharedHopper = 227;

template <Type kType, Kind kKind, int kKiB, int kTiles, int kGroupUnits>
constexpr Variant variant() {
  using Block = GemmBlock<kType, kKind, kTiles, kGroupUnits, kKiB>;
  using All = Warps<kKind>;
  return {kType,
          8 * kTiles,
          kGroupUnits,
          All::kN,
          All::kK,
          All::kThreads,
          Block::kSharedBytes,
          All::kN * Totals<4, kTiles>::kFloats,
          false,
          gemmKernel<kType, kKind, kTiles, kGroupUnits, kKiB>};
}

template <Type kType, Kind kKind, int kKiB>
constexpr auto variantsOf() {
  if constexpr (Format<kKind>::kScaled) {
    return std::array{
        variant<kType, kKind, kKiB, 1, 1>(), variant<kType, kKind, kKiB, 1, 2>(), variant<kType, kKind, kKiB, 1, 4>(),
        variant<kType, kKind, kKiB, 2, 1>(), variant<kType, kKind, kKiB, 2, 2>(), variant<kType, kKind, kKiB, 2, 4>(),
        variant<kType, kKind, kKiB, 3, 1>(), variant<kType, kKind, kKiB, 3, 2>(), variant<kType, kKind, kKiB, 3, 4>(),
    };
  } else {
    return std::array{variant<kType, kKind, kKiB, 1, 4>(), variant<kType, kKind, kKiB, 2, 4>(),
                      variant<kType, kKind, kKiB, 3, 4>()};
  }
}
using Variants = std::span<const Variant>;

inline int groupUnitsOf(const Shape& shape) {
  return shape.groupK() == 16 ? 1 : shape.groupK() == 32 ? 2 : kUnits;
}

// For m tokens: the smallest slab that holds them, or several slabs that waste the least. A token's result has the same
// bits in all of them: they differ in how many tokens stand side by side, not in the order of sums.
inline const Variant& choose(Variants all, const Shape& shape, int m) {
  const auto padded = [&](int tokens) { return (int64_t{m} + tokens - 1) / tokens * tokens; };
  const int tokens = m <= 8 ? 8 : padded(16) < padded(24) ? 16 : 24;
  const int groupUnits = groupUnitsOf(shape);
  const Variant* chosen = &all[0];
  for (const Variant& one : all) {
    if (one.tokens == tokens && one.groupUnits == groupUnits) chosen = &one;
  }
  return *chosen;
}

// These also serve the variants of other products.
template <typename Any>
Work workOf(const Any& variant, const Shape& shape, int blocks) {
  return workOf(shape, blocks, variant.tilesN, variant.tilesK);
}
template <typename Any>
int64_t slabs(const Any& variant, int m) {
  return (int64_t{m} + variant.tokens - 1) / variant.tokens;
}
// A launch on so many multiprocessors: the work of a slab, or of all of them.
struct Plan {
  Work work;
  int64_t times;  // slabs that have such work
  int blocks;     // for the parameters

  int64_t grid() const { return times * work.blocks; }
};
inline Plan planOf(const Variant& variant, const Shape& shape, int m, int blocks) {
  const auto count = slabs(variant, m);
  if (variant.joint) {
    const int few = std::min(blocks, 1024);  // so that shared steps are counted in 31 bits
    return {jointWork(shape, static_cast<int>(count), few, variant.tilesN), 1, few};
  }
  const Work all = workOf(shape, 1, variant.tilesN, variant.tilesK);
  const int most = std::max(1, all.columns * all.steps / 2);  // no block for less than two steps
  const Work work = workOf(shape, std::min(blocks, most), variant.tilesN, variant.tilesK);
  return {work, count, work.blocks};
}
// Of the workspace: counters, which must be zero before the first launch, and partial sums.
inline int64_t counterCount(const Variant& variant, const Shape& shape, int m, int blocks) {
  const Plan plan = planOf(variant, shape, m, blocks);
  return plan.times * plan.work.columns;
}
inline int64_t partialCount(const Variant& variant, const Shape& shape, int m, int blocks) {
  return planOf(variant, shape, m, blocks).grid() * kPartialSlots * variant.partialFloats;
}

}  // namespace tsq::cuda::w4a16
