#include "rounding/round_groups.h"

#include <algorithm>
#include <string>

namespace tsq::rounding {

Status roundGroups(const char* operation, const float* w, int64_t n, int64_t k, const GridSpec& grid,
                   const SearchSpec& search, const float* clip, const ChooseGroup& choose, RoundedWeight out,
                   AbortFlag abort) {
  if (!grid.symmetric && out.zeros == nullptr)
    return {Code::kOption, std::string(operation) + ": asymmetric codes need an array of zeros"};
  TSQ_RETURN_IF_ERROR(checkFinite(operation, w, n, k));
  const LaneGrid lanes = makeLaneGrid(grid);
  const int64_t groups = groupsOf(k, grid);
  LaneScales tensorScale;
  if (grid.perTensor) {
    TSQ_RETURN_IF_ERROR(chooseTensorScale(w, n, k, grid, search, search.importance, clip, &tensorScale, abort));
  }
  // A worker's group of weights [groupSize][32] and its codes.
  WorkerScratch scratch(static_cast<uint64_t>(grid.groupSize) * kLanes * (sizeof(float) + 1));
  ThreadPool::instance().run(chunksOf(n), [&](int64_t chunk, int worker) {
    if (abort.raised() || scratch.failed()) return;
    float* group = static_cast<float*>(scratch.get(worker));
    if (group == nullptr) return;
    uint8_t* codes = reinterpret_cast<uint8_t*>(group + grid.groupSize * kLanes);
    const int64_t first = chunk * kLanes, rows = rowsOfChunk(n, chunk);
    for (int64_t g = 0; g < groups && !abort.raised(); ++g) {
      const int64_t begin = g * grid.groupSize, columns = std::min(grid.groupSize, k - begin);
      loadLanes(w + first * k + begin, k, rows, columns, group);
      LaneScales scales = tensorScale;
      if (!grid.perTensor) {
        alignas(64) float limits[kLanes];
        choose(group, begin, columns, loadClip(clip, first, rows, groups, g, limits), &scales);
      }
      laneKernels().encode(group, columns, scales, lanes.maxCode, codes);
      storeCodes(codes, k, rows, columns, out.codes + first * k + begin);
      storeScales(scales, first, rows, groups, g, out);
    }
  });
  TSQ_RETURN_IF_ERROR(scratch.status(operation));
  if (abort.raised()) return {Code::kAborted, std::string(operation) + ": aborted"};
  return {};
}

}  // namespace tsq::rounding
