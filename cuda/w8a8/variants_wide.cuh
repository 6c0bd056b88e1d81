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

// For m tokens, or null where the other kernels do better. `blocks` are all there are to be: slabs share them. Where a
// slab has more columns than its share, each column has one block, and no sums travel; where it has fewer, no block has
// less than some steps of a column, more of them for larger slabs, whose sums take as much longer to travel.
inline Choice many(const Variants& all, const w4a16::Shape& shape, int m, int blocks) {
  if (m <= 24) return {nullptr, 0};
  const Variant& variant = m <= 32 ? all[0] : m <= 64 ? all[1] : all[2];
  const w4a16::Work work = w4a16::workOf(variant, shape, 1);
  const int64_t worthwhile = int64_t{work.columns} * work.steps / (variant.tokens / 16);
  const int64_t share = std::min<int64_t>(blocks / w4a16::slabs(variant, m), worthwhile);
  return {&variant, static_cast<int>(std::max<int64_t>(work.columns, share))};
}

}  // namespace tsq::cuda::w8a8
