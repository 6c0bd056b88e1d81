// The kernels for many tokens on sm_90a.
#pragma once
#include "cuda/w4a16/gemm_wide.cuh"
#include "cuda/w4a16/variants.cuh"

namespace tsq::cuda::w4a16 {

using WideVariants = std::array<Variant, 2>;

template <Type kType, int kTiles>
constexpr Variant wideVariant() {
  using Block = WideBlock<kType, kTiles>;
  return {kType,
          8 * kTiles,
          kUnits,
          kWideTilesN,
          1,
          kWideThreads,
          Block::kSharedBytes,
          kWideWarps * Totals<2, kTiles>::kFloats,
          gemmWideKernel<kType, kTiles>};
}

template <Type kType>
constexpr WideVariants wideVariantsOf() {
  return {wideVariant<kType, 4>(), wideVariant<kType, 8>()};
}

// For m tokens, or null where the other kernels do better or must do: few tokens, small groups, other widths.
inline const Variant* chooseWide(const WideVariants& all, const Shape& shape, int m) {
  if (m <= 24 || shape.groupK() < kTileK || shape.kind() != Kind::kInt4) return nullptr;
  return m <= 32 ? &all[0] : &all[1];
}

}  // namespace tsq::cuda::w4a16
