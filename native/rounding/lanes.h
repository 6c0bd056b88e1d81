// Element-wise loops over 32 rows at once. A group of weights is held as [columns][32 rows], so that every row is a
// lane of a vector: ranges, candidate errors and codes need no reduction across lanes and no tail.
#pragma once
#include <cstdint>

#include "rounding/grid_math.h"
#include "rounding/rounding.h"

namespace tsq::rounding {

constexpr int kLanes = 32;

LaneGrid makeLaneGrid(const GridSpec& grid);

// Scale and zero point of one group of each of 32 rows.
struct alignas(64) LaneScales {
  float scale[kLanes];
  float zero[kLanes];
};

// One instruction set's loops. All arrays of lanes are [columns][32] and 64-byte aligned.
struct LaneKernels {
  // low = min(low, w), high = max(high, w) over the columns.
  void (*range)(const float* w, int64_t columns, float* low, float* high);
  // Scale and zero of the range [low, high] times shrink; low <= 0 <= high. See docs/rounding.md for the formulas.
  void (*fit)(const LaneGrid& grid, const float* low, const float* high, float shrink, LaneScales* out);
  // sums[lane] += sum over columns of importance * |error|^norm in units of reference[lane]^norm (null: of 1),
  // importance null: 1.
  void (*error)(const float* w, const float* importance, int64_t columns, const LaneScales& scales, float maxCode,
                float norm, const float* reference, double* sums);
  // codes[columns][32] = nearest code.
  void (*encode)(const float* w, int64_t columns, const LaneScales& scales, float maxCode, uint8_t* codes);
  // One column of GPTQ: codes, and error = (dequantized - w) * inversePivot into two panels of 16 lanes, `panelStride`
  // floats apart.
  void (*encodeColumn)(const float* w, const LaneScales& scales, float maxCode, float inversePivot, uint8_t* codes,
                       float* error, int64_t panelStride);
  // w[c][lane] += factors[c] * error[lane] for c < columns.
  void (*addOuter)(float* w, const float* factors, int64_t columns, const float* error, int64_t panelStride);
  // error[lane] = w - dequantized nearest code, over columns, into two panels [columns][16], `panelStride` floats
  // apart.
  void (*residual)(const float* w, int64_t columns, const LaneScales& scales, float maxCode, float* error,
                   int64_t panelStride);
};

// The loops for the instruction set that kernels() chose.
const LaneKernels& laneKernels();

// One weight: what encode does to each lane.
TSQ_INLINE uint8_t nearestCode(float w, float scale, float zero, float maxCode) {
  return static_cast<uint8_t>(static_cast<int32_t>(nearestStep(w, scale, zero, maxCode) + zero));
}

// lanes[c][lane] = w[lane * ld + c] for c < columns, lane < rows; zero in the lanes beyond rows.
void loadLanes(const float* w, int64_t ld, int64_t rows, int64_t columns, float* lanes);
// codes[lane * ld + c] = lanes[c][lane] for lane < rows.
void storeCodes(const uint8_t* lanes, int64_t ld, int64_t rows, int64_t columns, uint8_t* codes);

// Scales of the group w [columns][32]: of its range, or of least error (search.enabled). importance [columns] or null
// stands in place of search.importance. clip: [32] largest |w| kept, or null.
void chooseScales(const LaneGrid& grid, const SearchSpec& search, const float* w, const float* importance,
                  int64_t columns, const float* clip, LaneScales* out);
// Range of the group with 0 inside, limited by clip.
void clippedRange(const float* w, int64_t columns, const float* clip, float* low, float* high);
// The shrink of candidate i.
inline float candidateShrink(const SearchSpec& search, int i) {
  return shrinkOf(search.maxShrink, search.steps, i);
}

}  // namespace tsq::rounding
