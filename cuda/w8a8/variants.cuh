// The compiled kernels and the choice among them.
#pragma once
#include "cuda/w4a16/variants.cuh"
#include "cuda/w8a8/gemm.cuh"

namespace tsq::cuda::w8a8 {

struct Variant {
  int tokens;          // of a slab
  int tilesN, tilesK;  // of a step
  int threads;
  size_t sharedBytes;
  int partialFloats;  // times 16 bytes of a partial result of a block
  void (*kernel)(Gemm);
};
using Variants = std::array<Variant, 3>;

template <Type kType, int kTiles>
constexpr Variant variant() {
  using Block = GemmBlock<kType, kTiles>;
  return {8 * kTiles, 1, kWarpsK, kThreads, Block::kSharedBytes, Block::kPartialVectors, gemmKernel<kType, kTiles>};
}
template <Type kType>
constexpr Variants variantsOf() {
  return {variant<kType, 1>(), variant<kType, 2>(), variant<kType, 3>()};
}

// A kernel for m tokens, and the blocks of a slab.
struct Choice {
  const Variant* variant;
  int blocks;
};

// The smallest slab that holds the tokens, or several slabs that waste the least.
inline Choice few(const Variants& all, int m, int blocks) {
  const auto padded = [&](int tokens) { return (int64_t{m} + tokens - 1) / tokens * tokens; };
  return {m <= 8 ? &all[0] : padded(16) < padded(24) ? &all[1] : &all[2], blocks};
}

// Of the workspace, as in w4a16/variants.cuh.
inline int64_t counterCount(const Variant& variant, const w4a16::Shape& pairs, int m) {
  return w4a16::slabs(variant, m) * w4a16::workOf(variant, pairs, 1).columns;
}
inline int64_t partialCount(const Variant& variant, const w4a16::Shape& pairs, int m, int blocks) {
  return w4a16::slabs(variant, m) * w4a16::workOf(variant, pairs, blocks).blocks * w4a16::kPartialSlots *
         variant.partialFloats;
}

}  // namespace tsq::cuda::w8a8
