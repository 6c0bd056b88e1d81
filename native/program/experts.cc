#include "program/experts.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/kernels.h"
#include "program/message.h"
#include "program/observers.h"
#include "program/ops.h"
#include "program/parallel.h"

namespace tsq {

namespace {

constexpr int kProducts = 8;  // that share a pass over the pool

int64_t topKOf(const Op& op) {
  return static_cast<int64_t>(op.p[0]);
}

// Grouped slots have room for topK pairs a row; what is left holds no leftovers of an earlier step.
void clearTail(const StepContext& step, const ExpertGroups& groups, int32_t slot, int64_t width) {
  float* out = step.slot(slot);
  std::fill(out + groups.pairs() * width, out + step.rows() * step.width(slot), 0.0f);
}

void routeRow(const float* logits, float* shares, int64_t experts, int64_t topK, bool renormalize) {
  constexpr float kTaken = -1;
  std::fill(shares, shares + experts, 0.0f);
  float peak = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < experts; ++i) peak = std::max(peak, logits[i]);
  double chosen = 0;
  for (int64_t k = 0; k < topK; ++k) {
    int64_t best = -1;
    for (int64_t i = 0; i < experts; ++i) {
      if (shares[i] != kTaken && (best < 0 || logits[i] > logits[best])) best = i;
    }
    shares[best] = kTaken;
    chosen += std::exp(static_cast<double>(logits[best]) - static_cast<double>(peak));
  }
  double total = chosen;
  if (!renormalize) {
    total = 0;
    for (int64_t i = 0; i < experts; ++i) total += std::exp(static_cast<double>(logits[i]) - static_cast<double>(peak));
  }
  // A logit that is not finite may be one of those that were not chosen.
  bool finite = true;
  for (int64_t i = 0; i < experts; ++i) finite = finite && std::isfinite(logits[i]);
  for (int64_t i = 0; i < experts; ++i) {
    if (shares[i] != kTaken) continue;
    const double share = std::exp(static_cast<double>(logits[i]) - static_cast<double>(peak)) / total;
    shares[i] = finite ? static_cast<float>(share) : std::numeric_limits<float>::quiet_NaN();
  }
}

}  // namespace

Status ExpertGroups::read(const StepContext& step, int32_t routes, int64_t topK) {
  const int64_t experts = step.width(routes), rows = step.rows();
  const auto fits = [&] {
    if (pairs() <= rows * topK) return Status();
    return Status(Code::kNumeric, text("the routes in slot ", routes, " choose ", pairs(), " experts for ", rows,
                                       " rows, expected at most ", topK, " a row"));
  };
  if (routes == routes_) return fits();
  forget();
  const float* shares = step.slot(routes);
  begins_.assign(static_cast<size_t>(experts) + 1, 0);
  for (int64_t i = 0; i < rows * experts; ++i) {
    if (shares[i] != 0) ++begins_[static_cast<size_t>(i % experts) + 1];
  }
  for (size_t e = 1; e < begins_.size(); ++e) begins_[e] += begins_[e - 1];
  const int64_t count = pairs();
  TSQ_RETURN_IF_ERROR(fits());
  rows_.resize(static_cast<size_t>(count));
  pairs_.resize(static_cast<size_t>(count));
  weights_.resize(static_cast<size_t>(count));
  firsts_.resize(static_cast<size_t>(rows) + 1);
  // begins_[e] runs ahead to the end of e, which is the beginning of the next: shifted back afterwards.
  size_t next = 0;
  for (int64_t row = 0; row < rows; ++row) {
    firsts_[static_cast<size_t>(row)] = static_cast<int64_t>(next);
    for (int64_t e = 0; e < experts; ++e) {
      const float share = shares[row * experts + e];
      if (share == 0) continue;
      const int64_t pair = begins_[static_cast<size_t>(e)]++;
      rows_[static_cast<size_t>(pair)] = row;
      pairs_[next] = pair;
      weights_[next++] = share;
    }
  }
  firsts_.back() = count;
  std::copy_backward(begins_.begin(), begins_.end() - 1, begins_.end());
  begins_.front() = 0;
  routes_ = routes;
  return Status();
}

void route(const StepContext& step, const Op& op) {
  const int64_t experts = step.width(op.out), topK = topKOf(op);
  const float* logits = step.slot(op.in[0]);
  float* shares = step.slot(op.out);
  // Each expert is looked at once for every one that is chosen, and an exponential costs as much as many comparisons.
  parallelBlocks(step.rows(), unitsPerTask(experts * (topK + 8)), step.abort(), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      routeRow(logits + row * experts, shares + row * experts, experts, topK, op.p[1] != 0);
    }
  });
}

Status gatherRows(const StepContext& step, const Op& op) {
  ExpertGroups& groups = step.work.experts;
  TSQ_RETURN_IF_ERROR(groups.read(step, op.in[1], topKOf(op)));
  const int64_t width = step.width(op.in[0]);
  const float* x = step.slot(op.in[0]);
  float* out = step.slot(op.out);
  parallelBlocks(groups.pairs(), unitsPerTask(width), step.abort(), [&](int64_t begin, int64_t end) {
    for (int64_t pair = begin; pair < end; ++pair) {
      const float* row = x + groups.row(pair) * width;
      std::copy(row, row + width, out + pair * width);
    }
  });
  clearTail(step, groups, op.out, width);
  return Status();
}

Status runExperts(const StepContext& step, const SectionRun& run, const Op* ops, int32_t count) {
  ExpertGroups& groups = step.work.experts;
  const int64_t topK = topKOf(*ops), experts = step.width(ops->in[1]), k = step.width(ops->in[0]) / topK;
  TSQ_RETURN_IF_ERROR(groups.read(step, ops->in[1], topK));
  MatmulArgs products[kProducts];
  int waiting = 0;
  const auto multiply = [&] {
    const int ready = waiting;
    waiting = 0;
    return step.abort().raised() ? aborted() : matmulGroup(products, ready);
  };
  for (int64_t expert = 0; expert < experts; ++expert) {
    const int64_t end = groups.begin(expert) + groups.count(expert);
    for (int64_t pair = groups.begin(expert), block; pair < end; pair += block) {
      // Of all ops, so that those of the same rows share what is prepared of them.
      double outputs = 0;
      for (int32_t i = 0; i < count; ++i) outputs += static_cast<double>(step.width(ops[i].out) / topK);
      block = std::min(rowsBetweenAborts(k, outputs), end - pair);
      if (waiting > 0 && waiting + count > kProducts) TSQ_RETURN_IF_ERROR(multiply());
      for (int32_t i = 0; i < count; ++i) {
        if (waiting == kProducts) TSQ_RETURN_IF_ERROR(multiply());
        const Op& op = ops[i];
        const int64_t n = step.width(op.out) / topK;
        products[waiting++] = {&step.matrix(run, op.weight[0] + static_cast<int32_t>(expert)),
                               step.slot(op.in[0]) + pair * k,
                               Dtype::kF32,
                               k,
                               block,
                               step.slot(op.out) + pair * n,
                               Dtype::kF32,
                               n,
                               nullptr,
                               step.request.activations};
      }
    }
  }
  if (waiting > 0) TSQ_RETURN_IF_ERROR(multiply());
  for (int32_t i = 0; i < count; ++i) clearTail(step, groups, ops[i].out, step.width(ops[i].out) / topK);
  return Status();
}

Status combineRows(const StepContext& step, const Op& op) {
  ExpertGroups& groups = step.work.experts;
  TSQ_RETURN_IF_ERROR(groups.read(step, op.in[1], topKOf(op)));
  const int64_t width = step.width(op.out);
  const float* x = step.slot(op.in[0]);
  float* out = step.slot(op.out);
  const KernelTable& table = kernels();
  parallelBlocks(step.rows(), unitsPerTask(width * topKOf(op)), step.abort(), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* y = out + row * width;
      std::fill(y, y + width, 0.0f);
      for (int64_t i = groups.first(row); i < groups.first(row + 1); ++i) {
        table.axpy(groups.weight(i), x + groups.pair(i) * width, y, width);
      }
    }
  });
  return Status();
}

Status observeExpert(const StepContext& step, const Observer& observer) {
  ExpertGroups& groups = step.work.experts;
  const int64_t width = observer.accumulator->width;
  TSQ_RETURN_IF_ERROR(groups.read(step, observer.routes, step.width(observer.slot) / width));
  const int64_t rows = groups.count(observer.expert), first = groups.begin(observer.expert) * width;
  if (rows == 0) return Status();
  const float* reference = observer.reference == nullptr ? nullptr : observer.reference + first;
  return accumulate(observer.accumulator.get(), step.slot(observer.slot) + first, rows, reference);
}

}  // namespace tsq
