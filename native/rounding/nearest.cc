// Nearest codes on scales from the range or from the scale search; dequantization. Formulas: docs/rounding.md.
#include "kernels/packed_weight.h"
#include "rounding/round_groups.h"

namespace tsq {

using namespace rounding;  // NOLINT: the pieces that this file puts together

Status roundNearest(const float* w, int64_t n, int64_t k, const GridSpec& grid, const SearchSpec& search,
                    const float* clip, RoundedWeight out, AbortFlag abort) {
  TSQ_RETURN_IF_ERROR(checkGrid("nearest rounding", n, k, grid, &search));
  const LaneGrid lanes = makeLaneGrid(grid);
  const auto choose = [&](const float* group, int64_t begin, int64_t columns, const float* limits, LaneScales* scales) {
    const float* importance = search.importance == nullptr ? nullptr : search.importance + begin;
    chooseScales(lanes, search, group, importance, columns, limits, scales);
  };
  return roundGroups("nearest rounding", w, n, k, grid, search, clip, choose, out, abort);
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
