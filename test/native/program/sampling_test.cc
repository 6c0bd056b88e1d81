// Sampling against the plain formulas of transformers' processors and warpers.
#include "program/sampling.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "check.h"
#include "kernels/kernels.h"
#include "program/random.h"
#include "tiny_model.h"

using namespace tsq;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Probabilities after every warper, each written as its own pass over a softmax in double.
std::vector<double> distribution(std::vector<double> scores, const Sampling& s, const std::vector<int32_t>& history) {
  const size_t count = scores.size();
  const auto softmax = [&] {
    std::vector<double> p(count);
    const double best = *std::max_element(scores.begin(), scores.end());
    double total = 0;
    for (size_t i = 0; i < count; ++i) total += p[i] = std::exp(scores[i] - best);
    for (double& value : p) value /= total;
    return p;
  };
  std::vector<double> penalized = scores;
  for (const int32_t id : history) {
    const size_t i = static_cast<size_t>(id);
    penalized[i] = scores[i] > 0 ? scores[i] / s.repetitionPenalty : scores[i] * s.repetitionPenalty;
  }
  scores = penalized;
  for (double& score : scores) score /= s.temperature;
  if (s.topK > 0 && static_cast<size_t>(s.topK) < count) {
    std::vector<double> sorted = scores;
    std::sort(sorted.begin(), sorted.end(), std::greater<double>());
    for (double& score : scores) {
      if (score < sorted[static_cast<size_t>(s.topK) - 1]) score = -HUGE_VAL;
    }
  }
  if (s.topP < 1) {
    const std::vector<double> p = softmax();
    std::vector<size_t> order(count);
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] > p[b]; });
    double sum = 0;
    for (const size_t i : order) {
      if (sum >= s.topP) scores[i] = -HUGE_VAL;
      sum += p[i];
    }
  }
  if (s.minP > 0) {
    const std::vector<double> p = softmax();
    const double best = *std::max_element(p.begin(), p.end());
    for (size_t i = 0; i < count; ++i) {
      if (p[i] < s.minP * best) scores[i] = -HUGE_VAL;
    }
  }
  return softmax();
}

int32_t drawFrom(const std::vector<double>& p, double unit) {
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    sum += p[i];
    if (sum > unit) return static_cast<int32_t>(i);
  }
  return -1;
}

Result<int32_t> sample(std::vector<float> logits, const Sampling& s, const std::vector<int32_t>& history = {},
                       uint64_t position = 0) {
  SamplingScratch scratch;
  return sampleToken(logits.data(), static_cast<int64_t>(logits.size()), s, history, position, &scratch);
}

Sampling sampling(double temperature, int32_t topK = 0, double topP = 1, double minP = 0, double penalty = 1) {
  Sampling s;
  s.temperature = temperature;
  s.topK = topK;
  s.topP = topP;
  s.minP = minP;
  s.repetitionPenalty = penalty;
  s.seed = 1234;
  return s;
}

}  // namespace

TEST(samples_follow_the_plain_formulas) {
  const std::vector<int32_t> history = {3, 250, 3, 7, 8, 9, 60};
  const Sampling cases[] = {sampling(1),
                            sampling(0.7),
                            sampling(1.8, 5),
                            sampling(1, 1),
                            sampling(1, 40, 0.9),
                            sampling(1, 0, 0.5),
                            sampling(2.5, 0, 0.95),
                            sampling(1, 0, 1e-9),
                            sampling(1, 0, 1, 1),
                            sampling(1, 0, 1, 0.1),
                            sampling(1.5, 50, 0.8, .2),
                            sampling(1, 0, 1, 0, 1.3),
                            sampling(0.9, 30, 0.9, 0.05, 0.8),
                            sampling(1, 1000, 0.999),
                            sampling(1, 300, 1, 0.001, 2)};
  int agree = 0, total = 0;
  for (const Sampling& s : cases) {
    const std::vector<float> logits = tiny::randomFloats(300, 70 + static_cast<uint64_t>(s.topK), 8);
    const std::vector<double> p = distribution({logits.begin(), logits.end()}, s, history);
    for (uint64_t position = 0; position < 400; ++position) {
      const Result<int32_t> token = sample(logits, s, history, position);
      CHECK(token.ok());
      CHECK(p[static_cast<size_t>(token.value())] > 0);  // never a token that a warper removed
      agree += token.value() == drawFrom(p, randomUnit(s.seed, position));
      ++total;
    }
  }
  // f32 against f64 weights: a draw may fall on the other side of a boundary about once in 10^5 cases.
  CHECK_MSG(agree >= total - 2, std::to_string(agree) + " of " + std::to_string(total));
}

TEST(frequencies_match_probabilities) {
  const std::vector<float> logits = {0.5f, -1, 2, 0, 1.5f, -3, 1, 0.25f};
  const Sampling s = sampling(1.2, 6, 0.97);
  const std::vector<double> p = distribution({logits.begin(), logits.end()}, s, {});
  constexpr int kDraws = 40000;
  std::vector<int> hits(logits.size(), 0);
  for (uint64_t position = 0; position < kDraws; ++position)
    ++hits[static_cast<size_t>(sample(logits, s, {}, position).value())];
  for (size_t i = 0; i < p.size(); ++i) {
    const double deviation = std::sqrt(kDraws * p[i] * (1 - p[i]));
    CHECK_MSG(std::fabs(hits[i] - kDraws * p[i]) <= 5 * deviation, std::to_string(i) + ": " + std::to_string(hits[i]));
  }
}

TEST(sample_depends_on_seed_and_position_only) {
  const std::vector<float> logits(1000, 0.0f);
  Sampling s = sampling(1);
  std::map<int32_t, int> seen;
  for (uint64_t position = 0; position < 50; ++position) {
    const int32_t token = sample(logits, s, {}, position).value();
    CHECK(token == sample(logits, s, {}, position).value());
    ++seen[token];
  }
  CHECK(seen.size() > 40);  // of 50 among 1000
  s.seed = 1235;
  int same = 0;
  for (uint64_t position = 0; position < 50; ++position)
    same += seen.count(sample(logits, s, {}, position).value()) > 0;
  CHECK(same < 12);
}

TEST(greedy_takes_the_first_of_the_largest) {
  CHECK(sample({1, 3, 2, 3}, sampling(0)).value() == 1);
  CHECK(sample({-kInfinity, -5, -kInfinity}, sampling(0)).value() == 1);
  CHECK(sample({4, 3, -1}, sampling(0, 0, 1, 0, 2), {0, 0}).value() == 1);  // 4 / 2 once, not twice: 2
  CHECK(sample({3.5f, 3, -1}, sampling(0, 0, 1, 0, 1.1), {0}).value() == 0);
  CHECK(sample({-1, -1.5f}, sampling(0, 0, 1, 0, 2), {0}).value() == 1);  // -1 x 2
}

TEST(top_k_keeps_ties_and_top_p_the_first_of_them) {
  std::map<int32_t, int> k, p;
  for (uint64_t position = 0; position < 200; ++position) {
    ++k[sample({1, 2, 1, 0}, sampling(1, 2), {}, position).value()];
    ++p[sample({0, 0, 0, 0}, sampling(1, 0, 0.5), {}, position).value()];
  }
  CHECK(k.size() == 3 && k.count(3) == 0);
  CHECK(p.size() == 2 && p.count(0) == 1 && p.count(1) == 1);
}

TEST(extreme_temperatures_and_logits_are_survived) {
  const std::vector<float> logits = {1, -kInfinity, 1.5f, -kInfinity, 1.5f};
  int tables = 0;
  const KernelTable* const* supported = supportedKernels(&tables);
  for (int t = 0; t < tables; ++t) {
    CHECK(selectKernels(supported[t]->name).ok());
    for (uint64_t position = 0; position < 100; ++position) {
      const int32_t cold = sample(logits, sampling(1e-300), {}, position).value();
      CHECK(cold == 2 || cold == 4);
      for (const double hot : {1.0, 1e30, 1e308}) {
        const int32_t token = sample(logits, sampling(hot, 0, 0.999999, 1e-9), {}, position).value();
        CHECK(token == 0 || token == 2 || token == 4);
      }
    }
    CHECK(sample({3e38f, -3e38f, 1}, sampling(1)).value() == 0);
    CHECK(sample({5}, sampling(1, 3, 0.5, 0.5, 2), {0}).value() == 0);
    for (const float bad : {kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
      CHECK(sample({1, bad, 2}, sampling(0)).status().code() == Code::kNumeric);
      CHECK(sample({1, bad, 2}, sampling(1, 2, 0.9)).status().code() == Code::kNumeric);
    }
    CHECK(sample({-kInfinity, -kInfinity}, sampling(1)).status().code() == Code::kNumeric);
    CHECK(sample({1e30f, 1}, sampling(1, 0, 1, 0, 1e-30), {0}).status().code() == Code::kNumeric);
  }
  CHECK(selectKernels(nullptr).ok());
}

TEST(sampling_a_large_vocabulary_is_quick) {
  const std::vector<float> logits = tiny::randomFloats(128256, 90, 10);
  SamplingScratch scratch;
  for (const Sampling& s :
       {sampling(0), sampling(1, 50), sampling(1, 0, 0.95), sampling(1, 0, 1, 0.05), sampling(1, 5000, 0.9)}) {
    double best = HUGE_VAL;
    for (int i = 0; i < 5; ++i) {
      std::vector<float> copy = logits;
      const auto begin = std::chrono::steady_clock::now();
      CHECK(sampleToken(copy.data(), 128256, s, {}, 0, &scratch).ok());
      best =
          std::min(best, std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
    }
    std::printf("  top-k %d, top-p %g, min-p %g: %.3f ms\n", s.topK, s.topP, s.minP, best);
    CHECK(best < 200);  // sanitizer builds included; more than linear work would take seconds
  }
}
