// Block sizes that the kernels, their scratch and the threaded callers agree on. Constants only: instruction-set files
// include it.
#pragma once
#include <cstdint>

#include "layout/packed.h"

namespace tsq::blocking {

// Sums over k run in blocks of this many packed columns; block sums are then added up (accuracy, and a weight block
// that stays in L1).
constexpr int64_t kDepth = 256;
// Calls of the dot kernels with at most this many rows decode and multiply in one pass.
constexpr int64_t kFusedRows = 4;
// Rows that share one decoded block: kRows x kDepth activations stay in L2. A multiple of every micro-kernel height (4,
// 6, 12).
constexpr int64_t kRows = 240;
// Floats between two rows of a copied block of activations: not a power of two, so that rows fall into different cache
// sets.
constexpr int64_t kRowStride = kDepth + 16;
// Panels decoded together by the widest micro-kernel.
constexpr int64_t kMaxPanels = 2;

// Panels whose totals stay in L2 beside the activations while all columns pass by.
constexpr int64_t kTotalPanels = 32;

constexpr int64_t kWeightFloats = kMaxPanels * kDepth * layout::kPanel;
constexpr int64_t kActivationFloats = kRows * kRowStride;
constexpr int64_t kTotalFloats = kRows * kTotalPanels * layout::kPanel;

// m rows are cut evenly into blocks that depend on m alone, so that every thread count computes the same. No block has
// more than kRows rows, and none so few that a part of a large call would take the path of a small one.
TSQ_INLINE constexpr int64_t rowBlocks(int64_t m) {
  return layout::divideUp(m, kRows);
}
TSQ_INLINE constexpr int64_t rowStart(int64_t m, int64_t block) {
  return m * block / rowBlocks(m);
}

}  // namespace tsq::blocking
