// The sweep of GPTQ (Frantar et al., arXiv 2210.17323, algorithm 1) over the columns of 32 rows: what a column loses by
// rounding is spread over the columns still to come, through the factor U of the inverse Hessian, H^-1 = U^T U.
// Within a block of columns every error is applied at once; to the columns behind the block as one product at its end.
#pragma once
#include <algorithm>
#include <cstdint>

#include "rounding/lanes.h"
#include "rounding/packed_upper.h"
#include "rounding/tile.h"
#include "rounding/visit_order.h"
#include "runtime/thread_pool.h"

namespace tsq::rounding {

// Columns of the longest block of an order.
inline int64_t longestBlockOf(const VisitOrder& visit) {
  int64_t longest = 0;
  for (const VisitOrder::Block& block : visit.blocks) longest = std::max(longest, block.end - block.begin);
  return longest;
}

// Floats of the errors of a sweep: two panels [longest][16].
inline int64_t sweepErrors(int64_t longest) {
  return longest * kLanes;
}

// weights: [padded k][32] by visit position, changed as errors arrive; errors: sweepErrors(longest) floats; both
// 64-byte aligned. fit(group) is called when the weights of a group are up to date, before its first column; round(j,
// weights of position j, 1 / U[j][j], error, panelStride) writes error = (rounded - weight) / U[j][j] of the 32 rows,
// as two panels of 16 that lie panelStride floats apart. False when aborted.
template <typename Fit, typename Round>
bool sweepColumns(const VisitOrder& visit, const PackedUpper<float>& u, int64_t longest, float* weights, float* errors,
                  AbortFlag abort, Fit&& fit, Round&& round) {
  const LaneKernels& loops = laneKernels();
  const TileKernel<float> tile = tileKernel<float>();
  const int64_t stride = longest * kPanel;
  size_t nextGroup = 0;
  for (const VisitOrder::Block& block : visit.blocks) {
    if (abort.raised()) return false;
    for (int64_t j = block.begin; j < block.end; ++j) {
      if (nextGroup < visit.groups.size() && visit.groups[nextGroup].begin == j) fit(visit.groups[nextGroup++]);
      float* error = errors + (j - block.begin) * kPanel;
      round(j, weights + j * kLanes, 1.f / u.at(j, j), error, stride);
      for (int64_t p = (j + 1) / kPanel; p * kPanel < block.end; ++p) {
        const int64_t from = std::max(j + 1, p * kPanel), to = std::min(block.end, (p + 1) * kPanel);
        loops.addOuter(weights + from * kLanes, u.panel(p) + j * kPanel + from % kPanel, to - from, error, stride);
      }
    }
    // The panel in which the block ends holds visited columns too: nothing reads those again.
    for (int64_t p = block.end / kPanel; p < u.panels(); ++p) {
      for (int64_t half = 0; half < kLanes / kPanel; ++half) {
        chainedTile(tile, u.panel(p) + block.begin * kPanel, errors + half * stride, block.end - block.begin,
                    weights + p * kPanel * kLanes + half * kPanel, kLanes);
      }
    }
  }
  return true;
}

}  // namespace tsq::rounding
