// Rounding weights to the values of a code book.
#pragma once
#include <cstdint>

#include "runtime/status.h"
#include "runtime/thread_pool.h"

namespace tsq {

// How numbers become codes: the one behind as many limits as the number is above. Numbers are compared in the total
// order of IEEE 754, in which -0 is below +0, so that limits say which way ties go and which zero a small negative
// number becomes.
struct CodebookSteps {
  const uint8_t* codes;  // by ascending value
  const float* limits;   // count - 1, ascending
  int64_t count;         // 1 … 256
  bool reciprocal;       // numbers are w * (1 / scale), both rounded, rather than w / scale
};

// codes[n, k] of w / scales[n, ceil(k / groupSize)]; 0 / 0 is 0. Threaded over rows. kNumeric for a weight that is not
// finite, kOption for limits that are NaN or not ascending.
Status roundCodebook(const float* w, int64_t n, int64_t k, int64_t groupSize, const float* scales,
                     const CodebookSteps& steps, uint8_t* codes, AbortFlag abort);

}  // namespace tsq
