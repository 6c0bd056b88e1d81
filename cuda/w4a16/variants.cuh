// The compiled kernels and the choice among them.
#pragma once
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
  void (*kernel)(Gemm);
};

template <Type kType, int kBits, int kTiles, int kGroupUnits>
constexpr Variant variant() {
  using Block = GemmBlock<kType, kBits, kTiles, kGroupUnits>;
  using All = Warps<kBits>;
  return {kType,
          8 * kTiles,
          kGroupUnits,
          All::kN,
          All::kK,
          All::kThreads,
          Block::kSharedBytes,
          All::kN * Totals<4, kTiles>::kFloats,
          gemmKernel<kType, kBits, kTiles, kGroupUnits>};
}

template <Type kType, int kBits>
constexpr auto variantsOf() {
  if constexpr (kBits < 16) {
    return std::array{
        variant<kType, kBits, 1, 1>(), variant<kType, kBits, 1, 2>(), variant<kType, kBits, 1, 4>(),  //
        variant<kType, kBits, 2, 1>(), variant<kType, kBits, 2, 2>(), variant<kType, kBits, 2, 4>(),  //
        variant<kType, kBits, 3, 1>(), variant<kType, kBits, 3, 2>(), variant<kType, kBits, 3, 4>(),
    };
  } else {
    return std::array{variant<kType, kBits, 1, 4>(), variant<kType, kBits, 2, 4>(), variant<kType, kBits, 3, 4>()};
  }
}
using Variants = std::span<const Variant>;

// For m tokens: the smallest slab that holds them, or several slabs that waste the least.
inline const Variant& choose(Variants all, const Shape& shape, int m) {
  const auto padded = [&](int tokens) { return (int64_t{m} + tokens - 1) / tokens * tokens; };
  const int tokens = m <= 8 ? 8 : padded(16) < padded(24) ? 16 : 24;
  const int groupUnits = shape.groupK() == 16 ? 1 : shape.groupK() == 32 ? 2 : 4;
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
// Of the workspace: counters, which must be zero before the first launch, and partial sums.
template <typename Any>
int64_t counterCount(const Any& variant, const Shape& shape, int m) {
  return slabs(variant, m) * workOf(variant, shape, 1).columns;
}
template <typename Any>
int64_t partialCount(const Any& variant, const Shape& shape, int m, int blocks) {
  return slabs(variant, m) * workOf(variant, shape, blocks).blocks * kPartialSlots * variant.partialFloats;
}

}  // namespace tsq::cuda::w4a16
