// Block sizes that the kernels, their scratch and the threaded callers agree on. Constants only: instruction-set files
// include it.
#pragma once
#include <cstdint>

#include "layout/packed.h"

namespace tsq::blocking {

// Sums over k run in blocks of this many packed columns; block sums are then added up (accuracy, and an L1-sized weight
// block).
constexpr int64_t kDepth = 256;
// Calls with at most this many rows decode and multiply in one pass; more rows decode a block once for all of them.
constexpr int64_t kFusedRows = 4;
// Rows that share one decoded block: kRows x kDepth activations stay in L2. A multiple of every micro-kernel height (4,
// 6, 12).
constexpr int64_t kRows = 240;
// Floats between two rows of the copied activation block: not a power of two, so that rows fall into different cache
// sets.
constexpr int64_t kRowStride = kDepth + 16;
// Panels decoded together by the widest micro-kernel.
constexpr int64_t kMaxPanels = 2;

constexpr int64_t kWeightFloats = kMaxPanels * kDepth * layout::kPanel;
constexpr int64_t kActivationFloats = kRows * kRowStride;

// Rows of one block when m rows are cut evenly: depends on m alone, so that every thread count computes the same. Never
// fewer than kFusedRows + 1 rows in any block when m has more.
TSQ_INLINE constexpr int64_t rowBlock(int64_t m) {
  if (m <= kRows) return m;
  const int64_t blocks = layout::divideUp(m, kRows);
  return layout::roundUp(layout::divideUp(m, blocks), 12);
}

}  // namespace tsq::blocking
