// Logits, NLL, divergence and sampled tokens of chosen rows against plain formulas, across chunks.
#include "program/epilogue.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "check.h"
#include "tiny_model.h"

using namespace tsq;
using tiny::Config;
using tiny::Model;

namespace {

double logSumExp(const double* x, size_t count) {
  const double best = *std::max_element(x, x + count);
  double sum = 0;
  for (size_t i = 0; i < count; ++i) sum += std::exp(x[i] - best);
  return std::log(sum) + best;
}

size_t top(const double* x, size_t count) {
  return static_cast<size_t>(std::max_element(x, x + count) - x);
}

struct Scene {
  Config config;
  Model model;
  std::vector<int32_t> tokens, rows, targets;
  std::vector<double> logits;  // of all tokens
  std::unique_ptr<Program> program;
  StepRequest step;

  explicit Scene(const Config& c, int64_t length, std::vector<int32_t> chosen)
      : config(c),
        model(c),
        tokens(tiny::randomTokens(length, c.vocabulary, 100)),
        rows(std::move(chosen)),
        targets(tiny::randomTokens(static_cast<int64_t>(rows.size()), c.vocabulary, 101)),
        logits(model.forward(tokens)),
        program(model.program()) {
    std::vector<int32_t> pages(static_cast<size_t>((length + 15) / 16));
    std::iota(pages.begin(), pages.end(), 0);
    step = tiny::request(model, model.cache(static_cast<int64_t>(pages.size())), tokens, 0, pages);
    step.epilogue.rows = rows.data();
    step.epilogue.count = static_cast<int64_t>(rows.size());
    step.epilogue.targets = targets.data();
  }
  const double* expected(size_t i) const { return logits.data() + rows[i] * config.vocabulary; }
  void run() const {
    const Status status = program->step(step);
    CHECK_MSG(status.ok(), status.message());
  }
};

std::vector<int32_t> everySecondBackwards(int32_t length) {
  std::vector<int32_t> rows;
  for (int32_t row = length - 1; row >= 0; row -= 2) rows.push_back(row);
  rows.push_back(rows.front());  // a row may be asked for twice
  return rows;
}

}  // namespace

TEST(chunks_bound_memory) {
  CHECK(epilogueChunk(1) == 64 && epilogueChunk(32000) == 64 && epilogueChunk(262144) == 32);
  CHECK(epilogueChunk(int64_t{1} << 30) == 1);
}

TEST(logits_of_chosen_rows) {
  Config config;
  config.finalSoftcap = 0.7;
  Scene scene(config, 150, everySecondBackwards(150));  // 76 rows: more than a chunk
  std::vector<float> logits(scene.rows.size() * 53);
  scene.step.epilogue.mode = EpilogueMode::kLogits;
  scene.step.epilogue.logits = logits.data();
  scene.run();
  std::vector<double> expected;
  for (size_t i = 0; i < scene.rows.size(); ++i)
    expected.insert(expected.end(), scene.expected(i), scene.expected(i) + 53);
  CHECK(tiny::worst(logits, expected) < 2e-5);
}

TEST(negative_log_likelihood) {
  Scene scene(Config(), 150, everySecondBackwards(150));
  std::vector<double> values(scene.rows.size());
  scene.step.epilogue.mode = EpilogueMode::kNll;
  scene.step.epilogue.values = values.data();
  scene.run();
  for (size_t i = 0; i < values.size(); ++i) {
    const double expected = logSumExp(scene.expected(i), 53) - scene.expected(i)[scene.targets[i]];
    CHECK_MSG(std::fabs(values[i] - expected) < 2e-5, std::to_string(values[i]) + " " + std::to_string(expected));
  }
}

TEST(score_says_where_the_target_is_the_top_token) {
  Scene scene(Config(), 150, everySecondBackwards(150));
  for (size_t i = 0; i < scene.rows.size(); i += 3) scene.targets[i] = static_cast<int32_t>(top(scene.expected(i), 53));
  std::vector<double> values(scene.rows.size() * 2);
  scene.step.epilogue.mode = EpilogueMode::kScore;
  scene.step.epilogue.values = values.data();
  scene.run();
  size_t hits = 0;
  for (size_t i = 0; i < scene.rows.size(); ++i) {
    const double expected = logSumExp(scene.expected(i), 53) - scene.expected(i)[scene.targets[i]];
    CHECK(std::fabs(values[i * 2] - expected) < 2e-5);
    const bool hit = top(scene.expected(i), 53) == static_cast<size_t>(scene.targets[i]);
    CHECK(values[i * 2 + 1] == (hit ? 1 : 0));
    hits += hit;
  }
  CHECK(hits >= scene.rows.size() / 3 && hits < scene.rows.size());
}

TEST(divergence_from_a_reference) {
  Scene scene(Config(), 150, everySecondBackwards(150));
  const size_t count = scene.rows.size();
  constexpr int64_t kWidth = 20;
  const tiny::Matrix head = tiny::randomMatrix(53, kWidth, tiny::WeightKind::kF32, 5);
  const std::vector<float> hidden = tiny::randomFloats(static_cast<int64_t>(count) * kWidth, 6, 2);
  std::vector<double> values(count * 4);
  Epilogue& e = scene.step.epilogue;
  e.mode = EpilogueMode::kDivergence;
  e.values = values.data();
  e.referenceHidden = hidden.data();
  e.referenceWidth = kWidth;
  e.referenceHead = head.packed;
  e.referenceSoftcap = 2;
  scene.run();
  int agreements = 0;
  for (size_t i = 0; i < count; ++i) {
    const double* own = scene.expected(i);
    std::vector<double> reference(53);
    for (size_t t = 0; t < 53; ++t) {
      for (size_t k = 0; k < kWidth; ++k) reference[t] += hidden[i * kWidth + k] * head.values[t * kWidth + k];
      reference[t] = 2 * std::tanh(reference[t] / 2);
    }
    const double logOwn = logSumExp(own, 53), logReference = logSumExp(reference.data(), 53);
    double divergence = 0;
    for (size_t t = 0; t < 53; ++t) {
      divergence += std::exp(reference[t] - logReference) * ((reference[t] - logReference) - (own[t] - logOwn));
    }
    const size_t target = static_cast<size_t>(scene.targets[i]);
    CHECK_MSG(std::fabs(values[i * 4] - divergence) < 2e-5,
              std::to_string(values[i * 4]) + " " + std::to_string(divergence));
    CHECK(std::fabs(values[i * 4 + 1] - (logOwn - own[target])) < 2e-5);
    CHECK(std::fabs(values[i * 4 + 2] - (logReference - reference[target])) < 2e-5);
    const bool agrees = top(own, 53) == top(reference.data(), 53);
    CHECK(values[i * 4 + 3] == (agrees ? 1 : 0));
    agreements += agrees;
  }
  CHECK(agreements < static_cast<int>(count));
}

TEST(divergence_from_itself_is_zero) {
  Scene scene(Config(), 40, everySecondBackwards(40));
  const size_t count = scene.rows.size();
  std::vector<float> all(40 * 48), hidden;
  scene.step.observers.push_back({3, 0, Model::kFinal, Reduction::kCopy, nullptr, all.data()});
  scene.run();
  for (const int32_t row : scene.rows)
    hidden.insert(hidden.end(), all.begin() + row * 48, all.begin() + (row + 1) * 48);
  std::vector<double> values(count * 4, -1.0);
  Epilogue& e = scene.step.epilogue;
  e.mode = EpilogueMode::kDivergence;
  e.values = values.data();
  e.referenceHidden = hidden.data();
  e.referenceWidth = 48;
  e.referenceHead = scene.model.head().packed;
  scene.run();
  for (size_t i = 0; i < count; ++i) {
    CHECK(values[i * 4] == 0 && values[i * 4 + 1] == values[i * 4 + 2] && values[i * 4 + 3] == 1);
  }
}

TEST(sampled_tokens) {
  Scene scene(Config(), 150, everySecondBackwards(150));
  std::vector<int32_t> tokens(scene.rows.size(), -1), first(1);
  Epilogue& e = scene.step.epilogue;
  e.mode = EpilogueMode::kSample;
  e.tokens = tokens.data();
  scene.run();  // greedy
  for (size_t i = 0; i < tokens.size(); ++i) CHECK(static_cast<size_t>(tokens[i]) == top(scene.expected(i), 53));
  // Row i of the epilogue draws with position + i.
  e.sampling.temperature = 5;
  e.sampling.seed = 9;
  e.sampling.position = 1000;
  scene.run();
  const std::vector<int32_t> drawn = tokens;
  for (const size_t i : {0, 1, 63, 64, 75}) {  // of both chunks
    e.rows = scene.rows.data() + i;
    e.count = 1;
    e.sampling.position = 1000 + i;
    e.tokens = first.data();
    scene.run();
    CHECK(first[0] == drawn[i]);
  }
  // A history makes the likeliest token of the row unlikely.
  const int32_t best = static_cast<int32_t>(top(scene.expected(0), 53));
  e.rows = scene.rows.data();
  e.sampling = Sampling();
  e.sampling.repetitionPenalty = 1e6;
  e.sampling.history = &best;
  e.sampling.historyCount = 1;
  scene.run();
  CHECK(first[0] != best);
}

TEST(sampling_from_nan_names_the_row) {
  Scene scene(Config(), 3, {2, 1});
  std::vector<float> hidden(3 * 48, 1.0f);
  hidden[48] = std::numeric_limits<float>::quiet_NaN();  // row 1
  std::vector<int32_t> tokens(2);
  scene.step.runs = {scene.model.runs().back()};
  scene.step.hidden = hidden.data();
  scene.step.epilogue.mode = EpilogueMode::kSample;
  scene.step.epilogue.tokens = tokens.data();
  const Status status = scene.program->step(scene.step);
  CHECK(status.code() == Code::kNumeric);
  CHECK_MSG(status.message().find("epilogue.rows[1] (row 1)") == 0, status.message());
}

TEST(no_rows_and_no_mode_ask_for_nothing) {
  Scene scene(Config(), 3, {});
  scene.step.epilogue.mode = EpilogueMode::kLogits;
  scene.run();
  scene.step.epilogue.mode = EpilogueMode::kNone;
  scene.run();
}

TEST(epilogue_does_not_depend_on_threads) {
  Scene scene(Config(), 150, everySecondBackwards(150));
  std::vector<double> values(scene.rows.size()), one;
  scene.step.epilogue.mode = EpilogueMode::kNll;
  scene.step.epilogue.values = values.data();
  ThreadPool& pool = ThreadPool::instance();
  const int before = pool.threads();
  for (const int threads : {1, 2, 3}) {
    pool.setThreads(threads);
    scene.run();
    if (threads == 1) one = values;
    CHECK(values == one);
  }
  pool.setThreads(before);
}
