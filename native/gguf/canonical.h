// Blocks of GGUF types to and from canonical quantized tensors: a byte a code, f32 scales, offsets where a type has
// minima. Unlike packing (gguf/pack.h) this keeps the codes of code books as they are stored.
#pragma once
#include <vector>

#include "gguf/codec.h"

namespace tsq::gguf {

// Elements that share a scale in blocks of a type, and whether they share an offset; group 0: a type of floats, or
// without a codec.
struct BlockGrid {
  int64_t group = 0;
  bool hasOffsets = false;
};
BlockGrid blockGridOf(Type type);

// Codes [n, k] with the type's own zero point, 2^(bits - 1); scales and, where the type has any, offsets [n, k /
// group].
struct BlockCodes {
  uint8_t* codes;
  float* scales;
  float* offsets;
};
// `from` as for packing: row i of the result is row from[i] of the blocks. ERR_NUMERIC, by row, for an MXFP4 exponent
// of 255.
Status readCodes(const Matrix& matrix, const uint8_t* blocks, const std::vector<int32_t>& from, const BlockCodes& out);

// A canonical tensor: value = scale * (code - zero), scale * code + offset, or scale * codebook[code] where the type
// has one.
struct CanonicalCodes {
  const uint8_t* codes;
  const float* scales;   // [n, ceil(k / groupSize)]
  const uint8_t* zeros;  // the same, or null
  const float* offsets;  // the same, or null
  int bits;
  int64_t groupSize;
};
// The blocks that hold exactly these values: row i of the blocks is row from[i] of the codes. `blocks` may be null:
// only checked then. ERR_UNSUPPORTED, naming row and column, for what the type does not hold.
Status writeCodes(const Matrix& matrix, const CanonicalCodes& source, const std::vector<int32_t>& from,
                  uint8_t* blocks);

// ERR_SHAPE or ERR_FORMAT for an order that is none of `n` rows; empty: as they are.
Status checkOrder(const std::vector<int32_t>& from, int64_t n);

}  // namespace tsq::gguf
