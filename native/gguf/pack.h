// Blocks of GGUF types to packed weights, without a copy of the weight as floats.
#pragma once
#include "gguf/codec.h"
#include "kernels/packed_weight.h"

namespace tsq::gguf {

// Rows [n] in another order: packed row i is row from[i] of the blocks. Empty: as they are.
// Float types keep their type; block types become codes with scales and offsets (gguf/codes.h), exactly.
// ERR_UNSUPPORTED for types without a codec, ERR_SHAPE where rows are not whole blocks, ERR_FORMAT for blocks that hold
// no code of the type.
Result<PackedWeight> pack(const Matrix& matrix, const uint8_t* blocks, const std::vector<int32_t>& from);

}  // namespace tsq::gguf
