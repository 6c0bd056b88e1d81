// The kernels for many tokens on sm_90a.
#pragma once
#include <climits>

#include "cuda/w4a16/gemm_wide.cuh"
#include "cuda/w4a16/variants.cuh"

namespace tsq::cuda::w4a16 {

template <Type kType, Kind kKind, int kTiles, int kGroupUnits>
constexpr Variant wideVariant() {
  return {kType,
          8 * kTiles,
          kGroupUnits,
          kWideTilesN,
          1,
          kWideThreads,
          WideBlock<kKind, kTiles, kGroupUnits>::kSharedBytes,
          kWideWarps * Totals<2, kTiles>::kFloats,
          true,
          gemmWideKernel<kType, kKind, kTiles, kGroupUnits>};
}

template <Type kType, Kind kKind>
constexpr auto wideVariantsOf() {
  if constexpr (Format<kKind>::kScaled) {
    // Small groups change units within a tile, which takes registers: of 16, no slab of 128 tokens.
    return std::array{wideVariant<kType, kKind, 4, 4>(),  wideVariant<kType, kKind, 8, 4>(),
                      wideVariant<kType, kKind, 16, 4>(), wideVariant<kType, kKind, 8, 2>(),
                      wideVariant<kType, kKind, 16, 2>(), wideVariant<kType, kKind, 8, 1>()};
  } else {
    return std::array{wideVariant<kType, kKind, 4, 4>(), wideVariant<kType, kKind, 8, 4>(),
                      wideVariant<kType, kKind, 16, 4>()};
  }
}

// All kernels of a type and a kind of weight for a device: for few tokens (choose), and for many (chooseWide; none but
// on sm_90).
struct Kernels {
  Variants few, many;
};

// For m tokens: the smallest slab that holds them or the largest, or null where the other kernels do better or must do.
inline const Variant* chooseWide(Variants all, const Shape& shape, int m) {
  if (m <= 24 || all.empty()) return nullptr;
  const Variant* chosen = nullptr;
  for (const Variant& one : all) {
    const bool larger = chosen == nullptr || chosen->tokens < m;
    if (one.groupUnits == groupUnitsOf(shape) && larger) chosen = &one;
  }
  const int64_t columns = (shape.columns() + kWideTilesN - 1) / kWideTilesN;
  // Work is counted in 31 bits.
  return slabs(*chosen, m) * columns <= INT_MAX && shape.tiles() <= 1 << 20 ? chosen : nullptr;
}

}  // namespace tsq::cuda::w4a16
