// Reductions of rows of a slot: calibration statistics.
#pragma once
#include <cstdint>

#include "program/program.h"

namespace tsq {

// That an accumulator's parts agree with each other: kShape or kOption otherwise. Parts that are still empty are made
// by the first call of accumulate().
Status checkAccumulator(const Accumulator& accumulator);

// Columns of the rows that an accumulator compares with.
inline int64_t referenceWidth(const Accumulator& a) {
  return a.kind == Reduction::kCross && a.capacity > 0 ? a.capacity : a.width;
}

// Adds rows x [rows, width] to a checked accumulator of any kind but kCopy. reference: [rows, referenceWidth] for
// kSquaredError, kProducts and kCross; kCross takes the difference from x, or where it has a reference width of its own
// from `compared`, null for none. values of kMean are the mean itself; of kAbsMax the largest |x|; samples of
// kReservoir beyond `rows` are 0; of kNonZero how many rows have something other than 0 in each column; of kProducts
// the sums of x times the reference. Threaded; the result depends only on the sequence of calls. kMemory where the
// accumulator's memory cannot be had.
Status accumulate(Accumulator* accumulator, const float* x, int64_t rows, const float* reference,
                  const float* compared = nullptr);

}  // namespace tsq
