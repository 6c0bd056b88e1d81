#include "program/sampling.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <functional>
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
  bool found = false;
  for (int64_t i = 0; i < count; ++i) found |= !(x[i] <= FLT_MAX);
  return found;
}

// The k-th largest element, k <= count. A buffer of up to 2k candidates is cut back to k whenever it is full, so that
// for small k all but the first elements cost one comparison.
float kthLargest(const float* x, int64_t count, size_t k, std::vector<float>* buffer) {
  const size_t capacity = std::max<size_t>(2 * k, 64);
  float threshold = -std::numeric_limits<float>::infinity();
  const auto cut = [&] {
    std::nth_element(buffer->begin(), buffer->begin() + static_cast<std::ptrdiff_t>(k - 1), buffer->end(),
                     std::greater<float>());
    buffer->resize(k);
    threshold = (*buffer)[k - 1];
  };
  buffer->clear();
  for (int64_t i = 0; i < count; ++i) {
    if (x[i] <= threshold) continue;
    buffer->push_back(x[i]);
    if (buffer->size() == capacity) cut();
  }
  if (buffer->size() >= k) cut();
  return threshold;
}

// Sets to 0 what is not among the most likely weights that together reach share * total. Weights are >= 0. They are
// counted in buckets of equal exponent and leading mantissa bits; only the bucket in which the sum reaches its goal is
// sorted.
void keepTopP(std::vector<float>* weights, double share, SamplingScratch* scratch) {
  constexpr size_t kBuckets = 2048;  // float bits above the 20 lowest, sign 0
  const auto bucketOf = [](float weight) { return static_cast<size_t>(floatToBits(weight) >> 20); };
  std::vector<double>& buckets = scratch->buckets;
  buckets.assign(kBuckets, 0.0);
  double total = 0;
  for (const float weight : *weights) {
    buckets[bucketOf(weight)] += weight;
    total += weight;
  }
  const double goal = share * total;
  double sum = 0;
  size_t edge = kBuckets - 1;
  while (edge > 0 && sum + buckets[edge] < goal) sum += buckets[edge--];

  std::vector<int32_t>& tied = scratch->tied;
  tied.clear();
  for (size_t i = 0; i < weights->size(); ++i) {
    const size_t bucket = bucketOf((*weights)[i]);
    if (bucket == edge) tied.push_back(static_cast<int32_t>(i));
    if (bucket < edge) (*weights)[i] = 0;
  }
  std::sort(tied.begin(), tied.end(), [&](int32_t a, int32_t b) {
    const float x = (*weights)[static_cast<size_t>(a)], y = (*weights)[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
  for (const int32_t i : tied) {
    float& weight = (*weights)[static_cast<size_t>(i)];
    if (sum >= goal) {
      weight = 0;
    } else {
      sum += weight;
    }
  }
}

void keepMinP(std::vector<float>* weights, double share) {
  const double least = share * *std::max_element(weights->begin(), weights->end());
  for (float& weight : *weights) {
    if (weight < least) weight = 0;
  }
}

size_t draw(const std::vector<float>& weights, double unit) {
  double total = 0;
  for (const float weight : weights) total += weight;
  const double goal = unit * total;
  double sum = 0;
  size_t last = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] == 0) continue;
    sum += weights[i];
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
  const float best = kernels().maximum(logits, count);
  if (best < -FLT_MAX) return Status(Code::kNumeric, "every logit is -infinity, so no token can be sampled");
  if (sampling.temperature == 0) return static_cast<int32_t>(firstMaximum(logits, count, best));

  std::vector<int32_t>& ids = scratch->ids;
  std::vector<float>& weights = scratch->weights;
  ids.clear();
  weights.clear();
  const bool cut = sampling.topK > 0 && sampling.topK < count;
  if (cut) {
    const float threshold = kthLargest(logits, count, static_cast<size_t>(sampling.topK), &scratch->best);
    for (int64_t i = 0; i < count; ++i) {
      if (logits[i] < threshold) continue;
      ids.push_back(static_cast<int32_t>(i));
      weights.push_back(logits[i]);
    }
  } else {
    weights.assign(logits, logits + count);
  }
  // The maximum is taken off before the division and the factor kept finite and above 0: no temperature leads to inf -
  // inf or 0 x inf.
  const float inverse = static_cast<float>(std::clamp<double>(1 / sampling.temperature, FLT_MIN, FLT_MAX));
  for (float& weight : weights) weight = (weight - best) * inverse;
  kernels().expSum(weights.data(), 0.0f, weights.data(), static_cast<int64_t>(weights.size()));
  if (sampling.topP < 1) keepTopP(&weights, sampling.topP, scratch);
  if (sampling.minP > 0) keepMinP(&weights, sampling.minP);
  const size_t drawn = draw(weights, randomUnit(sampling.seed, position));
  return cut ? ids[drawn] : static_cast<int32_t>(drawn);
}

}  // namespace tsq
