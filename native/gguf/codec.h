// Rows of a matrix to and from blocks of a GGUF type, over the thread pool.
#pragma once
#include <cstdint>

#include "gguf/types.h"
#include "runtime/status.h"
#include "runtime/thread_pool.h"

namespace tsq::gguf {

struct Matrix {
  Type type;
  int64_t rows, k;
};

// Bytes of a row of k elements. ERR_UNSUPPORTED for types without a codec, ERR_SHAPE where rows are not whole blocks.
Result<int64_t> rowBytes(Type type, int64_t k);

// Blocks as codes: what packing takes. value = scale * (code - 2^(bits - 1)), or scale * code + offset.
struct Grid {
  int bits;
  int64_t group;  // elements that share a scale, and an offset where there are any
  bool hasOffsets;
  void (*row)(const uint8_t* blocks, int64_t k, uint8_t* codes, float* scales, float* offsets);
  // Of 16: a code is the position of code - 2^(bits - 1) there. Null: any code may be.
  const int8_t* book;
};
// Null for types of floats. The type has a codec.
const Grid* gridOf(Type type);

// The values as ggml computes them, bit for bit. `blocks` may lie at any address. One row of a type with a codec, or
// all.
void decodeRow(const Matrix& matrix, const uint8_t* blocks, float* out);
Status decode(const Matrix& matrix, const uint8_t* blocks, float* out);

// The blocks that ggml's reference encoder makes. `importance`: a weight [k] for the squared error of each column, from
// an importance matrix; or null. ERR_NUMERIC, naming row and column, for values that are no finite numbers or too large
// for the block's scale; ERR_UNSUPPORTED for types that are only decoded.
Status encode(const Matrix& matrix, const float* x, const float* importance, uint8_t* blocks, AbortFlag abort);

}  // namespace tsq::gguf
