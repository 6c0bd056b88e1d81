// LLM.int8() (arXiv 2208.07339, section 3.2): columns of the activations with large magnitudes, and the columns of the
// weight that belong to them, which are multiplied in f32 beside the product of int8.
#pragma once
#include <cstdint>

#include "kernels/kernels.h"
#include "kernels/packed_weight.h"

namespace tsq {

// [k] by column of the activations: 1 where some row of x, times the input scale, has `threshold` or more. A NaN
// counts. Threaded.
void markOutliers(const KernelTable& table, const MatmulArgs& args, float threshold, uint8_t* marks);

// Of an f32 pack (layout/packed.h) of `count` columns of a weight of n outputs.
layout::Shape columnsShape(int64_t n, int64_t count);
// Where columns, counted as the activations', lie in packed order.
void packedPlaces(const PackedWeight& weight, const int32_t* columns, int64_t count, int32_t* places);
// Panel `panel` of that pack, from a weight of kind kU8: what it is multiplied with, input scales left out.
void gatherColumns(const PackedWeight& weight, const int32_t* places, int64_t count, int64_t panel, float* out);

}  // namespace tsq
