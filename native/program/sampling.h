// Drawing one token from logits.
#pragma once
#include <cstdint>
#include <vector>

#include "program/program.h"
#include "program/selection.h"

namespace tsq {

// Reused from call to call.
struct SamplingScratch {
  std::vector<float> penalized, peaks, weights;
  std::vector<int32_t> ids;
  std::vector<double> sums;
  std::vector<int64_t> ties;
  SelectionScratch selection;
};

// The token chosen from logits [count], which are overwritten. `history` holds ids below count; `sampling` has been
// checked.
//
// In the order of transformers' processors and warpers: repetition penalty (once per id: l > 0 ? l / penalty : l *
// penalty; Keskar et al., CTRL, arXiv 1909.05858, 4.1), temperature, top-k (ties of the k-th stay), top-p (the smallest
// set of most likely tokens that reaches p; Holtzman et al., arXiv 1904.09751), min-p (share of the likeliest; arXiv
// 2407.01082). Among what remains, the first token in order of id at which the cumulative weight exceeds u x total, u =
// randomUnit(seed, position). temperature 0: the first of the largest logits. kNumeric where a logit is NaN or +inf, or
// all are -inf.
Result<int32_t> sampleToken(float* logits, int64_t count, const Sampling& sampling, const std::vector<int32_t>& history,
                            uint64_t position, SamplingScratch* scratch);

// Index of the first of the largest elements; -1 where count is 0 or nothing compares (NaN).
int64_t firstMaximum(const float* x, int64_t count, float maximum);

}  // namespace tsq
