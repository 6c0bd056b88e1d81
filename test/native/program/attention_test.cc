// Attention over long contexts: few queries are cut along their positions, and the ranges put together again.
#include <cstring>
#include <numeric>

#include "check.h"
#include "kernels/kernels.h"
#include "tiny_model.h"

using namespace tsq;
using tiny::Config;
using tiny::Model;

namespace {

class Threads {
 public:
  explicit Threads(int threads) : before_(ThreadPool::instance().threads()) {
    ThreadPool::instance().setThreads(threads);
  }
  ~Threads() { ThreadPool::instance().setThreads(before_); }

 private:
  int before_;
};

Config longConfig() {
  Config config;
  config.layers = 1;
  config.heads = 7;
  config.kvHeads = 1;
  config.headDim = 16;
  config.rotaryDim = 16;
  return config;
}

std::vector<int32_t> reversedPages(int64_t count) {
  std::vector<int32_t> pages(static_cast<size_t>(count));
  std::iota(pages.rbegin(), pages.rend(), 0);
  return pages;
}

std::vector<float> lastRows(const std::vector<float>& all, int64_t rows, int64_t vocabulary) {
  return {all.end() - rows * vocabulary, all.end()};
}

}  // namespace

TEST(ranges_of_a_long_context_match_float64_and_any_thread_count) {
  constexpr int64_t kTokens = 1300, kPages = 82;
  // Pieces at the end: several rows in one tile, then single ones. 1025 begins a page, a chunk and a range.
  const std::vector<int64_t> pieces = {1022, 3, 1, 271, 3};
  for (const int64_t window : {0, 900}) {
    Config config = longConfig();
    config.window = window;
    const Model model(config);
    const std::vector<int32_t> tokens = tiny::randomTokens(kTokens, config.vocabulary, 81);
    std::vector<std::vector<float>> found;
    for (const int threads : {1, 2, 5}) {
      const Threads scope(threads);
      found.push_back(tiny::logitsInPieces(model, tokens, pieces, reversedPages(kPages), kPages));
      CHECK(std::memcmp(found.back().data(), found.front().data(), found.front().size() * sizeof(float)) == 0);
    }
    const double error = tiny::worst(found.front(), model.forward(tokens));
    CHECK_MSG(error < 2e-5, std::to_string(error));
  }
}

TEST(a_sequence_is_cut_the_same_alone_and_in_a_batch) {
  const Config config = longConfig();
  const Model model(config);
  constexpr int64_t kLength = 1100, kPages = 70;
  const std::vector<int32_t> tokens = tiny::randomTokens(kLength + 1, config.vocabulary, 82);
  const std::vector<float> alone =
      lastRows(tiny::logitsInPieces(model, tokens, {kLength, 1}, reversedPages(kPages), kPages), 1, config.vocabulary);

  const std::unique_ptr<Program> program = model.program();
  const std::shared_ptr<KvCache> cache = model.cache(2 * kPages);
  std::vector<int32_t> rows;
  std::vector<float> logits;
  StepRequest prefill = tiny::request(model, cache, {tokens.begin(), tokens.end() - 1}, 0, reversedPages(kPages));
  const std::vector<int32_t> context(tokens.begin(), tokens.end() - 1);
  prefill.tokens = context.data();
  CHECK(program->step(prefill).ok());
  // Beside it: a short sequence, whose pages follow.
  const std::vector<int32_t> both = {tokens[5], tokens[6], tokens[7], tokens.back()};
  std::vector<int32_t> table = reversedPages(kPages);
  table.push_back(kPages);
  StepRequest step = tiny::request(model, cache, both, 0, table);
  step.sequences = {{0, 3, 0, kPages, 1}, {3, 1, kLength, 0, kPages}};
  tiny::wantLogits(&step, config.vocabulary, &rows, &logits);
  const Threads scope(3);
  const Status status = program->step(step);
  CHECK_MSG(status.ok(), status.message());
  // Products of four rows add in another order than those of one: close, while attention itself is the same.
  CHECK(tiny::worst(lastRows(logits, 1, config.vocabulary), alone) < 1e-5);
}
