// The clip search of AWQ (arXiv 2306.00978; AutoAWQ's auto_clip) on second moments: for every row and group the largest
// |w| to keep, so that the output error d_g^T H_gg d_g of nearest codes on the clipped range is least.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "rounding/group_grid.h"
#include "rounding/objective.h"

namespace tsq {

using namespace rounding;  // NOLINT: the pieces that this file puts together

namespace {

// A worker's memory: a group [columns][32] and its error as two panels [padded columns][16].
struct ClipScratch {
  float* weights;
  float* errors;
  static uint64_t bytes(int64_t columns) {
    return static_cast<uint64_t>(columns + roundUpToPanel(columns)) * kLanes * sizeof(float);
  }
  ClipScratch(void* memory, int64_t columns)
      : weights(static_cast<float*>(memory)), errors(weights + columns * kLanes) {}
};

float candidate(float peak, double maxShrink, int step, int steps) {
  return static_cast<float>(peak * (1.0 - maxShrink * step / steps));
}

// errors[lane] = d^T H_gg d of nearest codes, for the range limited to clip.
void clipErrors(const LaneGrid& grid, const PackedUpper<float>& h, const float* weights, int64_t columns,
                const LaneScales& scales, float* d, double* errors) {
  const int64_t stride = h.padded() * kPanel;
  laneKernels().residual(weights, columns, scales, grid.maxCode, d, stride);
  const float* const sets[2] = {d, d + stride};
  std::fill(errors, errors + kLanes, 0.0);
  quadraticForms(h, 2, sets, errors);
}

void peaks(const float* weights, int64_t columns, float* peak) {
  alignas(64) float low[kLanes], high[kLanes];
  clippedRange(weights, columns, nullptr, low, high);
  for (int lane = 0; lane < kLanes; ++lane) peak[lane] = std::max(-low[lane], high[lane]);
}

// Scales of the range of `weights` limited to limit.
void clippedScales(const LaneGrid& grid, const float* weights, int64_t columns, const float* limit,
                   LaneScales* scales) {
  alignas(64) float low[kLanes], high[kLanes];
  clippedRange(weights, columns, limit, low, high);
  laneKernels().fit(grid, low, high, 1.f, scales);
}

struct ClipJob {
  const float* w;
  int64_t n, k;
  const GridSpec& grid;
  LaneGrid lanes;
  int64_t groups;
  int steps;
  double maxShrink;
  std::vector<PackedUpper<float>> blocks;  // H_gg by group
};

// One scale for the whole weight: one limit, chosen by the error summed over all rows.
Status searchTensor(const ClipJob& job, float* clip, AbortFlag abort) {
  const int64_t chunks = chunksOf(job.n);
  std::vector<double> errors(static_cast<size_t>(chunks * job.steps), 0.0);
  std::vector<LaneScales> scales(static_cast<size_t>(job.steps));
  float peak = 0;
  for (int64_t i = 0; i < job.n * job.k; ++i) peak = std::max(peak, std::abs(job.w[i]));
  for (int step = 0; step < job.steps; ++step) {
    const std::vector<float> limits(static_cast<size_t>(job.n), candidate(peak, job.maxShrink, step, job.steps));
    TSQ_RETURN_IF_ERROR(chooseTensorScale(job.w, job.n, job.k, job.grid, SearchSpec{}, nullptr, limits.data(),
                                          &scales[static_cast<size_t>(step)], abort));
  }
  WorkerScratch scratch(ClipScratch::bytes(job.k));
  ThreadPool::instance().run(chunks, [&](int64_t chunk, int worker) {
    void* memory = scratch.get(worker);
    if (memory == nullptr) return;
    const ClipScratch own(memory, job.k);
    const int64_t first = chunk * kLanes, rows = rowsOfChunk(job.n, chunk);
    loadLanes(job.w + first * job.k, job.k, rows, job.k, own.weights);
    std::memset(own.errors, 0, static_cast<size_t>(roundUpToPanel(job.k)) * kLanes * sizeof(float));
    for (int step = 0; step < job.steps && !abort.raised(); ++step) {
      double sums[kLanes];
      clipErrors(job.lanes, job.blocks[0], own.weights, job.k, scales[static_cast<size_t>(step)], own.errors, sums);
      for (int64_t lane = 0; lane < rows; ++lane) errors[static_cast<size_t>(chunk * job.steps + step)] += sums[lane];
    }
  });
  TSQ_RETURN_IF_ERROR(scratch.status("clip search"));
  double best = std::numeric_limits<double>::infinity();
  float limit = peak;
  for (int step = 0; step < job.steps; ++step) {
    double total = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) total += errors[static_cast<size_t>(chunk * job.steps + step)];
    if (total < best) {
      best = total;
      limit = candidate(peak, job.maxShrink, step, job.steps);
    }
  }
  std::fill(clip, clip + job.n, limit);
  return {};
}

Status searchGroups(const ClipJob& job, float* clip, AbortFlag abort) {
  const int64_t size = job.grid.groupSize;
  WorkerScratch scratch(ClipScratch::bytes(size));
  ThreadPool::instance().run(chunksOf(job.n), [&](int64_t chunk, int worker) {
    void* memory = scratch.get(worker);
    if (memory == nullptr) return;
    const ClipScratch own(memory, size);
    const int64_t first = chunk * kLanes, rows = rowsOfChunk(job.n, chunk);
    for (int64_t g = 0; g < job.groups && !abort.raised(); ++g) {
      const int64_t begin = g * size, columns = std::min(size, job.k - begin);
      loadLanes(job.w + first * job.k + begin, job.k, rows, columns, own.weights);
      std::memset(own.errors, 0, static_cast<size_t>(roundUpToPanel(columns)) * kLanes * sizeof(float));
      alignas(64) float peak[kLanes], limit[kLanes], chosen[kLanes];
      peaks(own.weights, columns, peak);
      std::copy(peak, peak + kLanes, chosen);
      double best[kLanes];
      std::fill(best, best + kLanes, std::numeric_limits<double>::infinity());
      for (int step = 0; step < job.steps && !abort.raised(); ++step) {
        for (int lane = 0; lane < kLanes; ++lane) limit[lane] = candidate(peak[lane], job.maxShrink, step, job.steps);
        LaneScales scales;
        clippedScales(job.lanes, own.weights, columns, limit, &scales);
        double errors[kLanes];
        clipErrors(job.lanes, job.blocks[static_cast<size_t>(g)], own.weights, columns, scales, own.errors, errors);
        for (int lane = 0; lane < kLanes; ++lane) {
          if (errors[lane] < best[lane]) {  // a tie keeps the larger range
            best[lane] = errors[lane];
            chosen[lane] = limit[lane];
          }
        }
      }
      for (int64_t lane = 0; lane < rows; ++lane) clip[(first + lane) * job.groups + g] = chosen[lane];
    }
  });
  return scratch.status("clip search");
}

}  // namespace

Status searchClip(const float* w, int64_t n, int64_t k, const Hessian& hessian, const GridSpec& grid, int steps,
                  double maxShrink, float* clip, AbortFlag abort) {
  SearchSpec search;
  search.enabled = true;
  search.steps = steps;
  search.maxShrink = maxShrink;
  TSQ_RETURN_IF_ERROR(checkGrid("clip search", n, k, grid, &search));
  if (hessian.k() != k) {
    return {Code::kShape, "clip search: the Hessian is of " + std::to_string(hessian.k()) +
                              " input features, the weight has k = " + std::to_string(k)};
  }
  TSQ_RETURN_IF_ERROR(checkFinite("clip search", w, n, k));
  ClipJob job{w, n, k, grid, makeLaneGrid(grid), groupsOf(k, grid), steps, maxShrink, {}};
  for (int64_t g = 0; g < job.groups; ++g) {
    const int64_t begin = g * grid.groupSize;
    Result<PackedUpper<float>> block =
        packQuadratic(hessian.data(), k, begin, std::min(grid.groupSize, k - begin), job.groups == 1);
    if (!block.ok()) return block.status();
    job.blocks.push_back(std::move(block.value()));
  }
  TSQ_RETURN_IF_ERROR(grid.perTensor ? searchTensor(job, clip, abort) : searchGroups(job, clip, abort));
  if (abort.raised()) return {Code::kAborted, "clip search: aborted"};
  return {};
}

}  // namespace tsq
