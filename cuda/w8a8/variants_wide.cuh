// The kernels for many tokens on sm_90a.
#pragma once
#include <algorithm>

#include "cuda/w8a8/gemm_wide.cuh"
#include "cuda/w8a8/variants.cuh"

namespace tsq::cuda::w8a8 {

template <Type kType, int kTiles, int kSlices>
constexpr Variant wideVariant() {
  using Block = WideBlock<kType, kTiles, kSlices>;
  return {8 * kTiles,
          Block::kTilesN,
          1,
          kWideThreads,
          Block::kSharedBytes,
          Block::kPartialVectors,
          gemmWideKernel<kType, kTiles, kSlices>};
}
// Sums of e4m3 take twice the registers.
template <Type kType>
constexpr Variants wideVariantsOf() {
  return {wideVariant<kType, 4, 2>(), wideVariant<kType, 8, 2>(), wideVariant < kType, 16,
          kType == Type::kS8 ? 2 : 1 > ()};
}

// For m tokens, or null where the other kernels do better. `blocks` are all there are to be: slabs share them, unless
// they have more columns than that, of which then each has one block and no sums travel.
inline Choice many(const Variants& all, const w4a16::Shape& shape, int m, int blocks) {
  if (m <= 24) return {nullptr, 0};
  const Variant& variant = m <= 32 ? all[0] : m <= 64 ? all[1] : all[2];
  const int columns = w4a16::workOf(variant, shape, 1).columns;
  return {&variant, std::max(columns, static_cast<int>(blocks / w4a16::slabs(variant, m)))};
}

}  // namespace tsq::cuda::w8a8
