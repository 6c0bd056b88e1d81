// The scale of a group: from its range, or the one of least weighted error among shrunken ranges (the grid search of
// AutoGPTQ's quantizer and of MSE observers, weighted by E[x^2] where importance is given).
#include <cmath>

#include "rounding/lanes.h"

namespace tsq::rounding {

void clippedRange(const float* w, int64_t columns, const float* clip, float* low, float* high) {
  for (int lane = 0; lane < kLanes; ++lane) low[lane] = high[lane] = 0;
  laneKernels().range(w, columns, low, high);
  if (clip == nullptr) return;
  for (int lane = 0; lane < kLanes; ++lane) {
    const float limit = clip[lane] < 0 ? 0 : clip[lane];
    if (limit < high[lane]) high[lane] = limit;
    if (-limit > low[lane]) low[lane] = -limit;
  }
}

void chooseScales(const LaneGrid& grid, const SearchSpec& search, const float* w, const float* importance,
                  int64_t columns, const float* clip, LaneScales* out) {
  const LaneKernels& loops = laneKernels();
  alignas(64) float low[kLanes], high[kLanes];
  clippedRange(w, columns, clip, low, high);
  loops.fit(grid, low, high, 1.f, out);
  if (!search.enabled) return;
  const float norm = static_cast<float>(search.norm);
  const LaneScales widest = *out;
  LaneScales candidate;
  double best[kLanes] = {};
  loops.error(w, importance, columns, *out, grid.maxCode, norm, widest.scale, best);
  for (int i = 1; i < search.steps; ++i) {
    loops.fit(grid, low, high, candidateShrink(search, i), &candidate);
    double errors[kLanes] = {};
    loops.error(w, importance, columns, candidate, grid.maxCode, norm, widest.scale, errors);
    for (int lane = 0; lane < kLanes; ++lane) {
      if (errors[lane] < best[lane]) {  // a tie keeps the larger range
        best[lane] = errors[lane];
        out->scale[lane] = candidate.scale[lane];
        out->zero[lane] = candidate.zero[lane];
      }
    }
  }
}

}  // namespace tsq::rounding
