// The sweep of GPTQ (Frantar et al., arXiv 2210.17323, algorithm 1) over the columns of 32 rows: what a column loses by
// rounding is spread over the columns still to come, through the factor U of the inverse Hessian, H^-1 = U^T U.
// Within a block of columns every error is applied at once; to the columns behind the block as one product at its end.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/kernels.h"
#include "rounding/lanes.h"
#include "rounding/packed_upper.h"
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

// A sweep's products: columns [p * 16, +16) of the weights += U^T errors of columns [begin, end), whose errors begin at
// `errors`.
inline void spreadErrors(const PackedUpper<float>& u, int64_t p, int64_t begin, int64_t end, const float* errors,
                         int64_t stride, float* weights) {
  static_assert(kLanes == 2 * kPanel, "a chunk's rows are a pair of tiles");
  float* to = weights + p * kPanel * kLanes;
  kernels().gramPair(u.panel(p) + begin * kPanel, errors, errors + stride, end - begin, to, to + kPanel, kLanes);
}

// 32 rows of a sweep; both 64-byte aligned.
struct SweepChunk {
  float* weights;  // [padded k][32] by visit position, changed as errors arrive
  float* errors;   // sweepErrors(longest) floats
};

// Sweeps over all chunks side by side, which share each pass over U. fit(chunk, group) is called when the weights of a
// group are up to date, before its first column; round(chunk, j, weights of position j, 1 / U[j][j], error,
// panelStride) writes error = (rounded - weight) / U[j][j] of the 32 rows, as two panels of 16 that lie panelStride
// floats apart. No chunk's result depends on the others. False when aborted.
template <typename Fit, typename Round>
bool sweepColumns(const VisitOrder& visit, const PackedUpper<float>& u, int64_t longest,
                  const std::vector<SweepChunk>& chunks, AbortFlag abort, Fit&& fit, Round&& round) {
  const LaneKernels& loops = laneKernels();
  const int64_t stride = longest * kPanel;
  size_t firstGroup = 0, nextGroup = 0;  // not yet fitted, before the block and within it
  const auto nextFit = [&] {
    return nextGroup < visit.groups.size() ? visit.groups[nextGroup].begin : static_cast<int64_t>(visit.groupOf.size());
  };
  for (const VisitOrder::Block& block : visit.blocks) {
    if (abort.raised()) return false;
    for (size_t c = 0; c < chunks.size(); ++c) {
      float* weights = chunks[c].weights;
      nextGroup = firstGroup;
      // Column after column as far as a panel of U or the next fit; what is left of the block hears of those together.
      for (int64_t begin = block.begin, end; begin < block.end; begin = end) {
        if (nextFit() == begin) fit(c, visit.groups[nextGroup++]);
        end = std::min({block.end, (begin / kPanel + 1) * kPanel, nextFit()});
        float* errors = chunks[c].errors + (begin - block.begin) * kPanel;
        for (int64_t j = begin; j < end; ++j) {
          float* error = errors + (j - begin) * kPanel;
          round(c, j, weights + j * kLanes, 1.f / u.at(j, j), error, stride);
          loops.addOuter(weights + (j + 1) * kLanes, u.panel(j / kPanel) + j * kPanel + (j + 1) % kPanel, end - j - 1,
                         error, stride);
        }
        // Nothing reads the visited columns of a panel again, but columns behind the block must not hear of it yet.
        int64_t p = end / kPanel;
        for (; (p + 1) * kPanel <= block.end; ++p) spreadErrors(u, p, begin, end, errors, stride, weights);
        const int64_t from = std::max(end, p * kPanel);
        for (int64_t j = begin; j < end && from < block.end; ++j) {
          loops.addOuter(weights + from * kLanes, u.panel(p) + j * kPanel + from % kPanel, block.end - from,
                         errors + (j - begin) * kPanel, stride);
        }
      }
    }
    firstGroup = nextGroup;
    for (int64_t p = block.end / kPanel; p < u.panels(); ++p) {
      if (p + 1 < u.panels()) prefetchRows(u.panel(p + 1) + block.begin * kPanel, block.end - block.begin);
      for (const SweepChunk& chunk : chunks) {
        spreadErrors(u, p, block.begin, block.end, chunk.errors, stride, chunk.weights);
      }
    }
  }
  return true;
}

}  // namespace tsq::rounding
