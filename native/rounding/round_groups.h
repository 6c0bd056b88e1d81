// The loop of roundings that look at one group of one row at a time: nearest codes and HQQ.
#pragma once
#include <cstdint>
#include <functional>

#include "rounding/group_grid.h"

namespace tsq::rounding {

// Chooses the scales of 32 rows' group: w [columns][32], columns begin … begin + columns of the weight; limits [32] of
// the clip search, or null.
using ChooseGroup =
    std::function<void(const float* w, int64_t begin, int64_t columns, const float* limits, LaneScales* scales)>;

// Nearest codes on what `choose` makes of every group, or, perTensor, on the one scale that `search` finds. clip: [n,
// groups] or null. kOption where zeros have no place, kNumeric for weights that are not finite, kMemory, kAborted; the
// grid has been checked.
Status roundGroups(const char* operation, const float* w, int64_t n, int64_t k, const GridSpec& grid,
                   const SearchSpec& search, const float* clip, const ChooseGroup& choose, RoundedWeight out,
                   AbortFlag abort);

}  // namespace tsq::rounding
