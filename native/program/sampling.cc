#include "program/sampling.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>

#include "kernels/kernels.h"
#include "program/message.h"
#include "program/random.h"

namespace tsq {

namespace {

void penalize(float* logits, float penalty, const std::vector<int32_t>& history, std::vector<float>* penalized) {
  // All are computed before any is stored, so that an id that occurs twice is penalized once.
  penalized->clear();
  for (const int32_t id : history) penalized->push_back(logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty);
  for (size_t i = 0; i < history.size(); ++i) logits[history[i]] = (*penalized)[i];
}

bool anyNanOrInfinity(const float* x, int64_t count) {
  int found = 0;
  for (int64_t i = 0; i < count; ++i) found |= x[i] <= FLT_MAX ? 0 : 1;
  return found != 0;
}

// Which weights the warpers leave: those above `edge`, the first `ties` equal to it, and none below `least`.
struct Kept {
  double least = 0;
  float edge = 0;
  int64_t ties = 0;

  bool none(float peak) const { return peak < edge || peak < least || peak == 0; }
  // Of one weight after another, in order of id; takes ties off.
  float of(float weight) {
    if (weight < least) return 0;
    if (weight > edge) return weight;
    return weight == edge && ties-- > 0 ? weight : 0;
  }
};

// The smallest set of most likely weights that reaches share * total.
Kept topP(const std::vector<float>& weights, double share, double total, const std::vector<float>& peaks,
          SelectionScratch* scratch) {
  const int64_t count = static_cast<int64_t>(weights.size());
  const double goal = share * total;
  // All weights below (1 - share) of the mean together are less than what is left out. Half of it: room for rounding.
  const double floor = share < 0.999 ? 0.5 * (1 - share) * total / static_cast<double>(count) : 0;
  const Cut cut = cutBySum(weights.data(), count, goal, std::max(static_cast<float>(floor), FLT_MIN), peaks, scratch);
  const double ties = cut.value > 0 ? std::ceil((goal - cut.above) / cut.value) : 0;
  return {0, cut.value, static_cast<int64_t>(std::clamp(ties, 1.0, static_cast<double>(count)))};
}

// Index of the first weight at which the sum of those kept exceeds unit * their total.
size_t draw(const std::vector<float>& weights, const Kept& kept, double unit, const std::vector<float>& peaks,
            SamplingScratch* scratch) {
  const auto blockEnd = [&](size_t begin) { return std::min(begin + kSelectionBlock, weights.size()); };
  // By block first, each in four chains of additions.
  std::vector<double>& sums = scratch->sums;
  std::vector<int64_t>& ties = scratch->ties;  // left before the block
  sums.clear();
  ties.clear();
  Kept left = kept;
  double total = 0;
  for (size_t b = 0; b < peaks.size(); ++b) {
    double chains[4] = {};
    ties.push_back(left.ties);
    if (!left.none(peaks[b])) {
      const size_t begin = b * kSelectionBlock, end = blockEnd(begin);
      size_t i = begin;
      for (; i + 4 <= end; i += 4) {
        for (size_t j = 0; j < 4; ++j) chains[j] += static_cast<double>(left.of(weights[i + j]));
      }
      for (; i < end; ++i) chains[0] += static_cast<double>(left.of(weights[i]));
    }
    sums.push_back((chains[0] + chains[1]) + (chains[2] + chains[3]));
    total += sums.back();
  }
  // The block in which the sum exceeds the goal: the last one with anything in it, if rounding keeps it below.
  const double goal = unit * total;
  double sum = 0;
  size_t block = 0;
  for (size_t b = 0; b < peaks.size(); ++b) {
    if (sums[b] == 0) continue;
    block = b;
    if (sum + sums[b] > goal) break;
    sum += sums[b];
  }
  if (sum + sums[block] <= goal) sum -= sums[block];
  const size_t begin = block * kSelectionBlock, end = blockEnd(begin);
  left.ties = ties[block];
  size_t last = begin;
  for (size_t i = begin; i < end; ++i) {
    const float weight = left.of(weights[i]);
    if (weight == 0) continue;
    sum += weight;
    last = i;
    if (sum > goal) break;
  }
  return last;
}

}  // namespace

int64_t firstMaximum(const float* x, int64_t count, float maximum) {
  const float* found = std::find(x, x + count, maximum);
  return found == x + count ? -1 : found - x;
}

Result<int32_t> sampleToken(float* logits, int64_t count, const Sampling& sampling, const std::vector<int32_t>& history,
                            uint64_t position, SamplingScratch* scratch) {
  if (sampling.repetitionPenalty != 1) {
    penalize(logits, static_cast<float>(sampling.repetitionPenalty), history, &scratch->penalized);
  }
  if (anyNanOrInfinity(logits, count)) {
    return Status(Code::kNumeric,
                  "a logit is NaN or +infinity, so no token can be sampled: the model's weights or inputs overflow");
  }
  std::vector<float>& peaks = scratch->peaks;
  blockPeaks(logits, count, &peaks);
  const float best = kernels().maximum(peaks.data(), static_cast<int64_t>(peaks.size()));
  if (best < -FLT_MAX) return Status(Code::kNumeric, "every logit is -infinity, so no token can be sampled");
  if (sampling.temperature == 0) {
    const int64_t begin = firstMaximum(peaks.data(), static_cast<int64_t>(peaks.size()), best) * kSelectionBlock;
    return static_cast<int32_t>(begin + firstMaximum(logits + begin, count - begin, best));
  }

  std::vector<int32_t>& ids = scratch->ids;
  std::vector<float>& weights = scratch->weights;
  const bool cut = sampling.topK > 0 && sampling.topK < count;
  if (cut) {
    ids.clear();
    weights.clear();
    const float threshold = kthLargest(logits, count, sampling.topK, peaks, &scratch->selection);
    for (size_t b = 0; b < peaks.size(); ++b) {
      if (peaks[b] < threshold) continue;
      const int64_t begin = static_cast<int64_t>(b) * kSelectionBlock;
      for (int64_t i = begin, end = std::min(begin + kSelectionBlock, count); i < end; ++i) {
        if (logits[i] < threshold) continue;
        ids.push_back(static_cast<int32_t>(i));
        weights.push_back(logits[i]);
      }
    }
  } else {
    weights.assign(logits, logits + count);
  }
  // The maximum is taken off before the division and the factor kept finite and above 0: no temperature leads to inf -
  // inf or 0 x inf.
  const float inverse = static_cast<float>(std::clamp<double>(1 / sampling.temperature, FLT_MIN, FLT_MAX));
  const int64_t left = static_cast<int64_t>(weights.size());
  for (float& weight : weights) weight = (weight - best) * inverse;
  const double total = kernels().expSum(weights.data(), 0.0f, weights.data(), left);
  blockPeaks(weights.data(), left, &peaks);
  Kept kept;
  if (sampling.topP < 1) kept = topP(weights, sampling.topP, total, peaks, &scratch->selection);
  if (sampling.minP > 0) {
    kept.least = sampling.minP * kernels().maximum(peaks.data(), static_cast<int64_t>(peaks.size()));
  }
  const size_t drawn = draw(weights, kept, randomUnit(sampling.seed, position), peaks, scratch);
  return cut ? ids[drawn] : static_cast<int32_t>(drawn);
}

}  // namespace tsq
