// The codes of a weight [n, k] as tensors and checkpoints hold them, and each of these as one byte a code.
#pragma once
#include <cstdint>

#include "runtime/status.h"

namespace tsq::layout {

enum class CodeLayout : uint8_t {
  kBytes = 0,    // [n, k], a byte a code
  kRows = 1,     // [n, words]: every row a bit stream (layout/bits.h), as compressed-tensors has them
  kColumns = 2,  // [words, n]: the same words transposed, as GPTQ has them
  kAwq = 3,      // [k, n / 8]: a word holds eight rows in AWQ's order; 4 bits, n a multiple of 8
  kSigned = 4,   // [n, k], a two's complement byte a code: the code less 2^(bits-1)
  // [ceil(n k / 2)]: two codes a byte, along the whole matrix; 4 bits.
  kNibbles = 5,      // the even element in the lower half
  kNibblesHigh = 6,  // the even element in the upper half, as bitsandbytes has them
};

struct StoredCodes {
  const uint8_t* data;  // of any alignment
  CodeLayout layout;
  int64_t n, k;
  int bits;  // 2 … 8
};

// kOption where a layout cannot hold such codes.
Status checkStoredCodes(const StoredCodes& stored);

// Of `data`.
int64_t storedBytes(const StoredCodes& stored);

// codes [rows, k]: those of the rows from `first` on. On the calling thread. A byte that stands for no code (kBytes,
// kSigned) becomes one that is not below 2^bits.
void unpackRows(const StoredCodes& stored, int64_t first, int64_t rows, uint8_t* codes);

// codes [n, k]. Threaded over rows. kFormat for a signed byte that stands for no code.
Status unpackCodes(const StoredCodes& stored, uint8_t* codes);

// Of codes of a byte each, one of which is none: names the first, found by a second, slow look.
Status invalidCode(const StoredCodes& stored);

}  // namespace tsq::layout
