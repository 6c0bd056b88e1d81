// Nearest codes on scales from the range or from the scale search; dequantization. Formulas: docs/rounding.md.
#include <algorithm>
#include <string>

#include "kernels/packed_weight.h"
#include "rounding/group_grid.h"

namespace tsq {

using namespace rounding;  // NOLINT: the pieces that this file puts together

Status roundNearest(const float* w, int64_t n, int64_t k, const GridSpec& grid, const SearchSpec& search,
                    const float* clip, RoundedWeight out, AbortFlag abort) {
  TSQ_RETURN_IF_ERROR(checkGrid("nearest rounding", n, k, grid, &search));
  if (!grid.symmetric && out.zeros == nullptr)
    return {Code::kOption, "nearest rounding: asymmetric codes need an array of zeros"};
  TSQ_RETURN_IF_ERROR(checkFinite("nearest rounding", w, n, k));
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
      LaneScales scales;
      if (grid.perTensor) {
        scales = tensorScale;
      } else {
        alignas(64) float limits[kLanes];
        chooseScales(lanes, search, group, search.importance == nullptr ? nullptr : search.importance + begin, columns,
                     loadClip(clip, first, rows, groups, g, limits), &scales);
      }
      laneKernels().encode(group, columns, scales, lanes.maxCode, codes);
      storeCodes(codes, k, rows, columns, out.codes + first * k + begin);
      storeScales(scales, first, rows, groups, g, out);
    }
  });
  TSQ_RETURN_IF_ERROR(scratch.status("nearest rounding"));
  if (abort.raised()) return {Code::kAborted, "nearest rounding: aborted"};
  return {};
}

void dequantizeCodes(const uint8_t* codes, const float* scales, const uint8_t* zeros, int64_t n, int64_t k, int bits,
                     int64_t groupSize, const int32_t* groupIndex, float* w) {
  CodesSource source{};
  source.codes = codes;
  source.n = n;
  source.k = k;
  source.bits = bits;
  source.groupSize = groupSize;
  source.scales = scales;
  source.zeros = zeros;
  source.groupIndex = groupIndex;
  (void)dequantize(source, w);  // nothing is refused of bytes without a code book
}

}  // namespace tsq
