// What a decoding step costs besides arithmetic: nothing is allocated once the first steps have run. And linears of one
// input, which run together, against the same linears one by one.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

#include "check.h"
#include "tiny_model.h"

using namespace tsq;
using tiny::Config;
using tiny::Model;

namespace {

std::atomic<int64_t> allocations{0};

}  // namespace

// Replaced for the whole executable: plain malloc, counted.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  allocations.fetch_add(1, std::memory_order_relaxed);
  return std::malloc(bytes == 0 ? 1 : bytes);
}
void* operator new(std::size_t bytes) {
  if (void* memory = operator new(bytes, std::nothrow)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}

TEST(decoding_allocates_nothing) {
  Config config;
  config.hidden = 256;
  config.intermediate = 1024;  // products of a size that goes to the pool
  config.heads = 8;
  config.kvHeads = 4;
  config.headDim = 32;
  config.rotaryDim = 32;
  config.vocabulary = 3000;
  config.kind = tiny::WeightKind::kU4;
  const Model model(config);
  ThreadPool& pool = ThreadPool::instance();
  const int before = pool.threads();
  for (const Activations activations : {Activations::kExact, Activations::kInt8}) {
    for (const double temperature : {0.0, 0.9}) {
      pool.setThreads(2);
      const std::unique_ptr<Program> program = model.program();
      constexpr int64_t kPages = 8;
      const std::vector<int32_t> token = {17}, pages = {3, 1, 4, 0, 5, 7, 2, 6}, row = {0};
      std::vector<int32_t> sampled(1);
      StepRequest step = tiny::request(model, model.cache(kPages), token, 0, pages);
      step.activations = activations;
      step.epilogue.mode = EpilogueMode::kSample;
      step.epilogue.rows = row.data();
      step.epilogue.count = 1;
      step.epilogue.tokens = sampled.data();
      step.epilogue.sampling.temperature = temperature;
      step.epilogue.sampling.topK = 50;
      step.epilogue.sampling.topP = 0.9;
      int64_t first = 0, rest = 0;
      for (int64_t context = 0; context < kPages * KvCache::kPage; ++context) {
        step.sequences[0].context = context;
        step.epilogue.sampling.position = static_cast<uint64_t>(context);
        const int64_t count = allocations.load();
        const Status status = program->step(step);
        CHECK_MSG(status.ok(), status.message());
        (context < 4 ? first : rest) += allocations.load() - count;
      }
      CHECK(first > 0);  // it counts
      CHECK_MSG(rest == 0, std::to_string(rest) + " allocations after the first steps");
    }
  }
  pool.setThreads(before);
}

TEST(linears_of_one_input_give_the_same_together) {
  for (const tiny::WeightKind kind : {tiny::WeightKind::kF32, tiny::WeightKind::kU4}) {
    for (const Activations activations : {Activations::kExact, Activations::kInt8}) {
      Config config;
      config.kind = kind;
      const Model model(config);
      for (const int64_t length : {1, 3, 40}) {
        const std::vector<int32_t> tokens = tiny::randomTokens(length, config.vocabulary, 91);
        std::vector<int32_t> rows;
        std::vector<float> together, apart;
        StepRequest step = tiny::request(model, model.cache(3), tokens, 0, {0, 1, 2});
        step.activations = activations;
        tiny::wantLogits(&step, config.vocabulary, &rows, &together);
        CHECK(model.program()->step(step).ok());
        // An observer after every operation keeps each on its own.
        tiny::wantLogits(&step, config.vocabulary, &rows, &apart);
        std::vector<std::vector<float>> copies;
        for (int32_t op = 0; op < Model::kBlockOps; ++op) {
          copies.emplace_back(static_cast<size_t>(length * config.hidden));
        }
        for (int32_t op = 0; op < Model::kBlockOps; ++op) {
          for (const int32_t run : {1, 2}) {
            step.observers.push_back(
                {run, op, Model::kHidden, Reduction::kCopy, nullptr, copies[static_cast<size_t>(op)].data()});
          }
        }
        const Status status = model.program()->step(step);
        CHECK_MSG(status.ok(), status.message());
        CHECK(together == apart);
      }
    }
  }
}

TEST(activations_of_8_bits_change_quantized_linears_only) {
  for (const tiny::WeightKind kind : {tiny::WeightKind::kF32, tiny::WeightKind::kU4}) {
    Config config;
    config.kind = kind;
    const Model model(config);
    for (const int64_t length : {1, 20}) {
      const std::vector<int32_t> tokens = tiny::randomTokens(length, config.vocabulary, 92);
      std::vector<int32_t> rows;
      std::vector<float> exact, rounded;
      StepRequest step = tiny::request(model, model.cache(2), tokens, 0, {0, 1});
      tiny::wantLogits(&step, config.vocabulary, &rows, &exact);
      CHECK(model.program()->step(step).ok());
      step.activations = Activations::kInt8;
      tiny::wantLogits(&step, config.vocabulary, &rows, &rounded);
      CHECK(model.program()->step(step).ok());
      const double difference = tiny::worst(rounded, exact);
      if (kind == tiny::WeightKind::kF32) {
        CHECK(difference == 0);
      } else {
        CHECK_MSG(difference > 1e-6 && difference < 0.2, std::to_string(difference));
      }
    }
  }
}
