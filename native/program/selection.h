// Thresholds among many floats in linear time: where the largest of them reach a count or a sum.
#pragma once
#include <cstdint>
#include <vector>

namespace tsq {

// Floats are looked at in blocks, whose largest elements say which blocks matter.
constexpr int64_t kSelectionBlock = 64;
// peaks[b] = the largest of x[64 b … 64 b + 64), by the kernels. No element may be NaN.
void blockPeaks(const float* x, int64_t count, std::vector<float>* peaks);

struct SelectionScratch {
  std::vector<double> bins;
  std::vector<float> values;
};

struct Cut {
  float value;   // together with all larger elements, those of this value reach the goal
  double above;  // what the larger ones reach
};
// The k-th largest of x [count], 1 <= k <= count, by the peaks of its blocks.
float kthLargest(const float* x, int64_t count, int64_t k, const std::vector<float>& peaks, SelectionScratch* scratch);
// Where the sum of the largest of x [count], all >= 0, reaches `goal`; elements below `floor` must not matter for that.
Cut cutBySum(const float* x, int64_t count, double goal, float floor, const std::vector<float>& peaks,
             SelectionScratch* scratch);

}  // namespace tsq
