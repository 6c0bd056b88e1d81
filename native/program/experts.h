// A mixture of experts: every row goes through the few experts that its router chose.
//
// Rows are gathered expert by expert, so that the products of an expert run over rows that lie together, and put back
// with their weights. Whoever needs to know which rows an expert has reads it from the routes: any slot of floats is a
// valid choice, and a suffix of a section can run again without the ops before it.
#pragma once
#include <cstdint>
#include <vector>

#include "program/program.h"

namespace tsq {

struct StepContext;

// The pairs (row, expert) that routes choose, by expert and, within one, by row. Pair p is row p of a grouped slot.
class ExpertGroups {
 public:
  // Of slot `routes`, with at most topK pairs for each row of the step together: kNumeric otherwise. Kept until the
  // slot is written.
  Status read(const StepContext& step, int32_t routes, int64_t topK);
  void written(int32_t slot) {
    if (slot == routes_) forget();
  }
  void forget() { routes_ = -1; }

  int64_t begin(int64_t expert) const { return begins_[static_cast<size_t>(expert)]; }
  int64_t count(int64_t expert) const { return begin(expert + 1) - begin(expert); }
  int64_t pairs() const { return begins_.back(); }
  // Of a pair.
  int64_t row(int64_t pair) const { return rows_[static_cast<size_t>(pair)]; }
  // The pairs of a row in the order of experts: pair(i), weight(i), i from first(row) to first(row + 1).
  int64_t first(int64_t row) const { return firsts_[static_cast<size_t>(row)]; }
  int64_t pair(int64_t i) const { return pairs_[static_cast<size_t>(i)]; }
  float weight(int64_t i) const { return weights_[static_cast<size_t>(i)]; }

 private:
  int32_t routes_ = -1;
  std::vector<int64_t> begins_, rows_, firsts_, pairs_;
  std::vector<float> weights_;
};

// Softmax over all experts, the topK likeliest (of equals the one of the lower index), the others 0. Renormalized, the
// shares of a row sum to 1. A row that is not finite gives NaN.
void route(const StepContext& step, const Op& op);
Status gatherRows(const StepContext& step, const Op& op);
// The products of ops that opsTogether() put together, of all experts that have rows.
Status runExperts(const StepContext& step, const SectionRun& run, const Op* ops, int32_t count);
Status combineRows(const StepContext& step, const Op& op);

// Reduces what belongs to one expert: Observer::routes.
Status observeExpert(const StepContext& step, const Observer& observer);

}  // namespace tsq
