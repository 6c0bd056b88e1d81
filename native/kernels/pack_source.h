// What packCodes finds out about its source before and after it packs.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels/packed_weight.h"

namespace tsq {

// Sizes and widths.
Status checkSource(const CodesSource& source);

// Of a code book of up to 16 values: how many times these have to be doubled, and scales halved, for all of them to be
// whole numbers of 8 bits. -1: they cannot be.
int wholeExponent(const CodesSource& source);

// How codes are stored. kF32: as the values that they stand for, since no kernel takes them.
layout::WeightKind kindOf(const CodesSource& source);

// Columns in packed order: stable by group. Empty where the groups already lie in order. kFormat for a group index that
// does not give every group its size.
Status orderColumns(const CodesSource& source, const layout::Shape& shape, std::vector<int32_t>* order);

// The narrowest type that holds every scale exactly: files mostly keep f16 or bf16, given here as f32. Threaded.
layout::ScaleType narrowestScales(const float* scales, int64_t count);

}  // namespace tsq
