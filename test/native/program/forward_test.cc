// The executor against float64 arithmetic, and against itself: pieces, batches, suffixes, threads.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "check.h"
#include "kernels/kernels.h"
#include "tiny_model.h"

using namespace tsq;
using tiny::Config;
using tiny::Model;

namespace {

constexpr double kTolerance = 2e-5;  // of logits of order 1: f32 arithmetic through two blocks

std::vector<Config> configs() {
  Config plain, half, four, gemma, wide;
  half.kind = tiny::WeightKind::kF16;
  half.rotaryDim = 8;  // partial
  half.window = 7;
  four.kind = tiny::WeightKind::kU4;
  four.gelu = true;
  four.kvHeads = 4;
  four.attentionFactor = 1.3;
  gemma.window = 17;
  gemma.softcap = 3;
  gemma.finalSoftcap = 1.5;
  gemma.embedScale = 6.75;
  gemma.normOffset = 1;
  gemma.kvHeads = 1;
  wide.hidden = 64;
  wide.headDim = 32;
  wide.rotaryDim = 16;
  wide.heads = 6;
  wide.kvHeads = 2;
  wide.vocabulary = 200;
  wide.kind = tiny::WeightKind::kU4;
  return {plain, half, four, gemma, wide};
}

std::vector<int32_t> shuffledPages(int64_t count) {
  std::vector<int32_t> pages;
  for (int64_t i = 0; i < count; ++i) pages.push_back(static_cast<int32_t>((i * 5 + 3) % count));
  return pages;
}

}  // namespace

TEST(forward_matches_float64_on_every_instruction_set) {
  int tables = 0;
  const KernelTable* const* supported = supportedKernels(&tables);
  for (int t = 0; t < tables; ++t) {
    CHECK(selectKernels(supported[t]->name).ok());
    for (const Config& config : configs()) {
      const Model model(config);
      for (const int64_t length : {1, 5, 16, 17, 70}) {
        const std::vector<int32_t> tokens = tiny::randomTokens(length, config.vocabulary, 7);
        const double error =
            tiny::worst(tiny::logitsInPieces(model, tokens, {length}, shuffledPages(7), 7), model.forward(tokens));
        CHECK_MSG(error < kTolerance,
                  std::string(supported[t]->name) + " " + std::to_string(length) + " tokens: " + std::to_string(error));
      }
    }
  }
  CHECK(selectKernels(nullptr).ok());
}

TEST(long_sequence_matches_float64) {
  Config config;
  config.layers = 1;
  for (const int64_t window : {0, 300}) {
    config.window = window;
    const Model model(config);
    const std::vector<int32_t> tokens = tiny::randomTokens(600, config.vocabulary, 8);
    const double error =
        tiny::worst(tiny::logitsInPieces(model, tokens, {550, 49, 1}, shuffledPages(38), 38), model.forward(tokens));
    CHECK_MSG(error < kTolerance, std::to_string(error));
  }
}

TEST(pieces_equal_one_step) {
  for (const Config& config : configs()) {
    const Model model(config);
    const std::vector<int32_t> tokens = tiny::randomTokens(40, config.vocabulary, 9);
    const std::vector<float> whole = tiny::logitsInPieces(model, tokens, {40}, shuffledPages(7), 7);
    const std::vector<float> pieces = tiny::logitsInPieces(model, tokens, {3, 13, 1, 20, 3}, shuffledPages(7), 7);
    const std::vector<float> single =
        tiny::logitsInPieces(model, tokens, std::vector<int64_t>(40, 1), shuffledPages(7), 7);
    CHECK_MSG(tiny::worst(pieces, whole) < 1e-5, std::to_string(tiny::worst(pieces, whole)));
    CHECK_MSG(tiny::worst(single, whole) < 1e-5, std::to_string(tiny::worst(single, whole)));
  }
}

TEST(sequences_of_one_step_do_not_see_each_other) {
  for (const Config& config : configs()) {
    const Model model(config);
    const int64_t lengths[] = {19, 1, 33};
    const std::vector<int32_t> pages[] = {
        {0, 4, 7}, {5}, {6, 1, 3, 2}};  // one page too many for the last two steps is allowed
    std::vector<std::vector<int32_t>> tokens;
    std::vector<std::vector<float>> alone;
    for (int s = 0; s < 3; ++s) {
      tokens.push_back(tiny::randomTokens(lengths[s] + 2, config.vocabulary, 20 + static_cast<uint64_t>(s)));
      alone.push_back(tiny::logitsInPieces(model, tokens.back(), {lengths[s], 1, 1}, pages[s], 8));
    }
    const std::unique_ptr<Program> program = model.program();
    const std::shared_ptr<KvCache> cache = model.cache(8);
    std::vector<std::vector<float>> together(3);
    int64_t context[3] = {0, 0, 0};
    for (int part = 0; part < 3; ++part) {  // mixed lengths first, then one token each
      std::vector<int32_t> flat, table, rows;
      std::vector<float> logits;
      std::vector<Sequence> sequences;
      for (int s = 0; s < 3; ++s) {
        const int64_t count = part == 0 ? lengths[s] : 1;
        sequences.push_back({static_cast<int64_t>(flat.size()), count, context[s], static_cast<int64_t>(table.size()),
                             static_cast<int64_t>(pages[s].size())});
        flat.insert(flat.end(), tokens[s].begin() + context[s], tokens[s].begin() + context[s] + count);
        table.insert(table.end(), pages[s].begin(), pages[s].end());
        context[s] += count;
      }
      StepRequest step = tiny::request(model, cache, flat, 0, table);
      step.sequences = sequences;
      tiny::wantLogits(&step, config.vocabulary, &rows, &logits);
      const Status status = program->step(step);
      CHECK_MSG(status.ok(), status.message());
      for (int s = 0; s < 3; ++s) {
        const auto begin = logits.begin() + sequences[s].rowBegin * config.vocabulary;
        together[s].insert(together[s].end(), begin, begin + sequences[s].rows * config.vocabulary);
      }
    }
    for (int s = 0; s < 3; ++s) {
      CHECK_MSG(tiny::worst(together[s], alone[s]) < 1e-5, std::to_string(tiny::worst(together[s], alone[s])));
    }
  }
}

TEST(sequences_share_full_pages_of_a_common_beginning) {
  const Model model{Config()};
  std::vector<int32_t> first = tiny::randomTokens(20, 53, 30), second = first;
  second[18] = (second[18] + 1) % 53;
  const std::unique_ptr<Program> program = model.program();
  const std::shared_ptr<KvCache> cache = model.cache(3);
  std::vector<int32_t> rows;
  std::vector<float> logits;
  CHECK(program->step(tiny::request(model, cache, {first.begin(), first.begin() + 16}, 0, {0})).ok());
  std::vector<int32_t> tails(first.begin() + 16, first.end());
  tails.insert(tails.end(), second.begin() + 16, second.end());
  StepRequest step = tiny::request(model, cache, tails, 0, {0, 1, 0, 2});
  step.sequences = {{0, 4, 16, 0, 2}, {4, 4, 16, 2, 2}};
  tiny::wantLogits(&step, 53, &rows, &logits);
  CHECK(program->step(step).ok());
  const std::vector<double> a = model.forward(first), b = model.forward(second);
  std::vector<double> expected(a.begin() + 16 * 53, a.end());
  expected.insert(expected.end(), b.begin() + 16 * 53, b.end());
  CHECK(tiny::worst(logits, expected) < kTolerance);
}

TEST(embedded_rows_are_kept_and_hidden_states_replace_them) {
  const Model model{Config()};
  const std::vector<int32_t> tokens = tiny::randomTokens(11, 53, 31);
  std::vector<std::vector<double>> blocks;
  const std::vector<double> expected = model.forward(tokens, &blocks);
  const std::unique_ptr<Program> program = model.program();
  const std::shared_ptr<KvCache> cache = model.cache(1);
  StepRequest step = tiny::request(model, cache, tokens, 0, {0});
  std::vector<int32_t> rows;
  std::vector<float> logits;
  // Layer by layer, every step beginning with what the one before left in the slots.
  const std::vector<SectionRun> runs = model.runs();
  for (size_t r = 0; r < runs.size(); ++r) {
    step.runs = {runs[r]};
    if (r + 1 == runs.size()) tiny::wantLogits(&step, 53, &rows, &logits);
    CHECK(program->step(step).ok());
  }
  CHECK(tiny::worst(logits, expected) < kTolerance);
  // From the first block's output, given as hidden states, without tokens and into a program that has run nothing.
  const std::vector<float> hidden(blocks[0].begin(), blocks[0].end());
  step.runs = {runs[2], runs[3]};
  step.tokens = nullptr;
  step.hidden = hidden.data();
  step.hiddenSlot = Model::kHidden;
  CHECK(model.program()->step(step).ok());
  CHECK(tiny::worst(logits, expected) < kTolerance);
}

TEST(suffix_runs_again_with_other_weights) {
  Config config;
  config.layers = 1;
  const Model model(config);
  config.seed = 2;
  const Model other(config);
  const std::vector<int32_t> tokens = tiny::randomTokens(13, 53, 32);
  const std::unique_ptr<Program> program = model.program();
  StepRequest step = tiny::request(model, model.cache(1), tokens, 0, {0});
  std::vector<int32_t> rows;
  std::vector<float> logits, again, swapped;
  tiny::wantLogits(&step, 53, &rows, &logits);
  CHECK(program->step(step).ok());
  const std::vector<SectionRun> runs = model.runs();
  // The MLP of the block once more: slots before it are untouched, so the result is the same to the bit.
  const SectionRun suffix = {1, Model::kAttentionOp + 3, Model::kBlockOps, 1, 0};
  StepRequest rerun = step;
  rerun.runs = {suffix, runs[2]};
  tiny::wantLogits(&rerun, 53, &rows, &again);
  CHECK(program->step(rerun).ok());
  CHECK(again == logits);
  // With the other model's down projection, against the whole block run with it.
  rerun.weights[1 + 14] = other.weights()[1 + 14];
  tiny::wantLogits(&rerun, 53, &rows, &swapped);
  CHECK(program->step(rerun).ok());
  StepRequest whole = tiny::request(model, model.cache(1), tokens, 0, {0});
  whole.weights = rerun.weights;
  std::vector<float> expected;
  tiny::wantLogits(&whole, 53, &rows, &expected);
  CHECK(model.program()->step(whole).ok());
  CHECK(swapped == expected);
  CHECK(swapped != logits);
}

TEST(result_does_not_depend_on_threads) {
  ThreadPool& pool = ThreadPool::instance();
  const int before = pool.threads();
  for (const Config& config : configs()) {
    const Model model(config);
    const std::vector<int32_t> tokens = tiny::randomTokens(90, config.vocabulary, 33);
    pool.setThreads(1);
    const std::vector<float> one = tiny::logitsInPieces(model, tokens, {80, 9, 1}, shuffledPages(7), 7);
    for (const int threads : {2, 3}) {
      pool.setThreads(threads);
      const std::vector<float> many = tiny::logitsInPieces(model, tokens, {80, 9, 1}, shuffledPages(7), 7);
      CHECK(std::memcmp(one.data(), many.data(), one.size() * 4) == 0);
    }
  }
  pool.setThreads(before);
}

TEST(a_page_forgets_its_former_owner) {
  const Model model{Config()};
  const std::vector<int32_t> tokens = tiny::randomTokens(6, 53, 34);
  const std::shared_ptr<KvCache> cache = model.cache(1);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (int64_t layer = 0; layer < 2; ++layer) {
    for (int64_t head = 0; head < 2; ++head) {
      std::fill_n(reinterpret_cast<float*>(cache->block(layer, 0, head)), cache->page().bytes / 4, nan);
    }
  }
  StepRequest step = tiny::request(model, cache, tokens, 0, {0});
  std::vector<int32_t> rows;
  std::vector<float> logits;
  tiny::wantLogits(&step, 53, &rows, &logits);
  CHECK(model.program()->step(step).ok());
  CHECK(tiny::worst(logits, model.forward(tokens)) < kTolerance);
  bool clean = true;
  const auto* keys = reinterpret_cast<const float*>(cache->block(1, 0, 1));
  const float* values = keys + cache->page().values.codes / 4;
  for (int64_t i = 0; i < 12 * 16; ++i) clean = clean && (i % 16 < 6 || keys[i] == 0);
  for (int64_t i = 6 * 16; i < 16 * 16; ++i) clean = clean && values[i] == 0;
  CHECK(clean);
}

TEST(slots_are_sized_by_powers_of_two) {
  const Model model{Config()};
  const std::unique_ptr<Program> program = model.program();
  const std::shared_ptr<KvCache> cache = model.cache(4);
  CHECK(program->bytes() == 0);
  const auto bytesAfter = [&](int64_t rows) {
    const std::vector<int32_t> tokens = tiny::randomTokens(rows, 53, 35);
    CHECK(program->step(tiny::request(model, cache, tokens, 0, {0, 1, 2, 3})).ok());
    return program->bytes();
  };
  const uint64_t five = bytesAfter(5);
  CHECK(five > 0);
  CHECK(bytesAfter(8) == five);
  CHECK(bytesAfter(9) > five);
  CHECK(bytesAfter(1) > five);  // a smaller step keeps the memory
}

TEST(kv_cache_layout) {
  const Result<std::shared_ptr<KvCache>> cache = KvCache::create(2, 3, 20, 5);
  CHECK(cache.ok());
  const KvCache& c = *cache.value();
  CHECK(c.page().width == 32 && c.bytes() == 2u * 3 * 5 * 16 * (20 + 32) * 4);
  std::vector<const uint8_t*> starts;
  for (int64_t layer = 0; layer < 2; ++layer) {
    for (int64_t page = 0; page < 5; ++page) {
      for (int64_t head = 0; head < 3; ++head) {
        CHECK(reinterpret_cast<uintptr_t>(c.block(layer, page, head)) % 64 == 0);
        starts.push_back(c.block(layer, page, head));
      }
    }
  }
  std::sort(starts.begin(), starts.end());
  for (size_t i = 1; i < starts.size(); ++i) CHECK(starts[i] - starts[i - 1] == 16 * (20 + 32) * 4);
  CHECK(KvCache::create(0, 1, 1, 1).status().code() == Code::kOption);
  CHECK(KvCache::create(1, 1, -4, 1).status().code() == Code::kOption);
  CHECK(KvCache::create(1 << 30, 1 << 30, 1 << 30, 1 << 30).status().code() == Code::kMemory);
}
