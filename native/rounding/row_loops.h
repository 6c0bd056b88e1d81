// Element-wise loops of learned rounding over 16 rows at once, held as [columns][16]: every row is a lane.
#pragma once
#include <cstdint>

#include "rounding/grid_math.h"
#include "rounding/packed_upper.h"

namespace tsq::rounding {

constexpr int64_t kRows = kPanel;
// Columns whose codes are descended on before the rest of the row hears of it.
constexpr int64_t kDescentBlock = 64;

// Columns of one group: [columns][16] each, scale and zero [16].
struct GroupRows {
  const float* target;
  float* codes;
  float* difference;
  const float* gradient;  // H difference
  const float* scale;
  const float* zero;
  int64_t columns;
};

// Sums [16] of a group that signed gradients look at: gradient times the derivative of the dequantized weight by scale
// and by zero point.
struct SlopeSums {
  double* scale;
  double* zero;
};

struct RowLoops {
  // difference = target - scale * (code - zero).
  void (*subtract)(const GroupRows& rows);
  // sums[lane] += sum of a * b.
  void (*dot)(const float* a, const float* b, int64_t columns, double* sums);
  // sums[lane] += sum of (code - zero) * b.
  void (*dotSteps)(const GroupRows& rows, const float* b, double* sums);
  // change = -(code - zero) * by[lane]; difference += change.
  void (*moveScale)(const GroupRows& rows, const float* by, float* change);
  // Codes of at most kDescentBlock columns, each to where the objective is least while all others stay. block [64][64]:
  // H of these columns; gradient: of these columns, changed on the way; groups [columns]: which scale [16] and zero
  // [16]; change: what is added to difference. Whether any code changed.
  bool (*descend)(const float* block, int64_t columns, const float* scales, const float* zeros, const int32_t* groups,
                  float maxCode, float* codes, float* difference, float* gradient, float* change);
  // Codes of target / scale + offset, and difference.
  void (*encode)(const GroupRows& rows, const float* offsets, float maxCode);
  // Offsets such that encode gives these codes: 0 where rounding to nearest does.
  void (*offsetsOf)(const GroupRows& rows, float maxCode, float* offsets);
  // offset += rate * sign of the descent, within 1/2 of base, where `rate` is not 0; adds to the sums.
  void (*climb)(const GroupRows& rows, const float* base, float maxCode, float rate, float* offsets, SlopeSums sums);
};

// The loops for the instruction set that kernels() chose.
const RowLoops& rowLoops();

}  // namespace tsq::rounding
