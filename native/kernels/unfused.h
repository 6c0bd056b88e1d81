// The product that fused kernels are compared with: weights are decoded to f32 in memory first.
#pragma once
#include "kernels/packed_weight.h"

namespace tsq {

// Overwrites the f32 pack `dense` with the values of `codes` (2, 4 or 8 bits, whole groups of 8 or more columns,
// in their own order and without input scales). kShape or kUnsupported where the two do not go together. Threaded.
// Nothing may use `dense` meanwhile.
Status decodePacked(const PackedWeight& codes, const PackedWeight& dense);

}  // namespace tsq
