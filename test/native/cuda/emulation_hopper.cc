// wgmma, counted barriers and bulk copies in the emulation: right as they should be, and caught where they are not.
#include <cmath>
#include <string>

#include "check.h"
#include "cuda/emulation/buffer.h"

namespace {

using namespace tsq::cuda;  // NOLINT: the vocabulary of kernels
using tsq::emulation::Buffer;
using tsq::emulation::Copies;
using tsq::emulation::Launch;
using tsq::emulation::launch;
using tsq::emulation::Order;
using tsq::emulation::Outcome;

enum Mistake {
  kNone,
  kNoProxyFence,
  kNoProductFence,
  kNoProductWait,
  kNoCommit,
  kReadsSums,
  kChangesA,
  kOverwritesB,
  kIdleWarp,
  kNoPhaseWait,
  kWrongBytes,
  kTooManyArrivals,
  kNoInit,
  kNoOrderAfterInit,
};

constexpr int kThreads = 128, kColumns = 32, kK = 64;  // of 16 bits, or pairs of 8

bool says(const Outcome& outcome, const std::string& words) {
  return outcome.error.find(words) != std::string::npos;
}

template <Type kType>
using SumOf = std::conditional_t<kType == Type::kS8, int32_t, float>;

// y[64][32] = a[64][64] b[32][64]^T, b in shared memory in permuted rows of 128 bytes; of 8 bits twice as many k.
template <Mistake kMistake, Type kType>
TSQ_KERNEL(kThreads)
products(Global<const uint32_t> a, Global<const Words> b, Global<SumOf<kType>> y) {
  const int thread = threadIndex(), lane = thread % 32, warp = thread / 32;
  const auto rows = sharedMemory<Words>(1024);
  for (int i = thread; i < kColumns * 8; i += kThreads) copyAsync(rows + (i / 8 * 8 + (i % 8 ^ i / 8 % 8)), b + i);
  commitCopies();
  waitCopies<0>();
  if (kMistake != kNoProxyFence) proxyFence();
  syncThreads();
  SumOf<kType> d[kColumns / 2] = {};
  uint32_t fragments[4][4];
  if (kMistake == kIdleWarp && warp == 2) return;
  for (int step = 0; step < 4; ++step) {
    for (int i = 0; i < 4; ++i) {
      const int row = warp * 16 + lane / 4 + i % 2 * 8, k = step * 16 + lane % 4 * 2 + i / 2 * 8;
      fragments[step][i] = load(a + (row * kK + k) / 2);
    }
    if (kMistake != kNoProductFence || step != 2) fenceProducts();
    if constexpr (kType == Type::kF16) {
      multiplyAsync<kType, kColumns>(d, fragments[step], descriptor(rows + step * 2));
    } else {
      if (step == 0) d[7] = 99;  // the first product begins at zero
      multiplyAsync<kType, kColumns>(d, fragments[step], descriptor(rows + step * 2), step > 0);
    }
    if (kMistake != kNoCommit || step != 3) commitProducts();
    if (step == 1) waitProducts<1>();
    if (kMistake == kChangesA && step == 2) fragments[2][1] = 0;
  }
  SumOf<kType> early = 0;
  if (kMistake == kReadsSums) early = d[5];
  if (kMistake == kOverwritesB && thread == 0) store(rows + 3, Words{});
  if (kMistake != kNoProductWait) waitProducts<0>();
  if (kMistake == kReadsSums) d[5] = early;
  for (int i = 0; i < kColumns / 2; ++i) {
    const int row = warp * 16 + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    store(y + (row * kColumns + column), d[i]);
  }
}

struct Result {
  Outcome outcome;
  bool right = true;
};

template <Mistake kMistake, Type kType = Type::kF16>
Result runProducts(Order order = Order::kForward) {
  constexpr size_t kPerWord = kType == Type::kF16 ? 2 : 4, kDepth = kK / 2 * kPerWord;
  std::mt19937 random(3);
  std::vector<uint32_t> a(64 * kK / 2), b(kColumns * kK / 2);
  for (auto* words : {&a, &b}) {
    for (uint32_t& word : *words) {
      // Of f16 and of e4m3, neither infinities nor NaN.
      word = static_cast<uint32_t>(random()) & (kType == Type::kS8    ? ~0u
                                                : kType == Type::kF16 ? 0xbbffbbffu
                                                                      : 0xb7b7b7b7u);
    }
  }
  const auto at = [](const std::vector<uint32_t>& words, size_t index) {
    return double{tsq::emulation::element(kType, words[index / kPerWord], static_cast<int>(index % kPerWord))};
  };
  Buffer<uint32_t> da("a", a), db("b", b);
  Buffer<SumOf<kType>> y("y", 64 * kColumns);
  Launch how;
  how.threads = kThreads;
  how.sharedBytes = 1024 + kColumns * kK * 2;
  how.order = order;
  Result result{launch(how, products<kMistake, kType>, da.template global<const uint32_t>(),
                       db.template global<const Words>(), y.global())};
  for (size_t i = 0; i < y.size() && result.outcome.ok(); ++i) {
    double want = 0, size = 0;
    for (size_t k = 0; k < kDepth; ++k) {
      const double term = at(a, i / kColumns * kDepth + k) * at(b, i % kColumns * kDepth + k);
      want += term;
      size += std::abs(term);
    }
    if (!(std::abs(static_cast<double>(y[i]) - want) <= (kType == Type::kS8 ? 0 : 1e-5 * size))) result.right = false;
  }
  return result;
}

template <Mistake kMistake>
void productsFail(const std::string& words) {
  for (const Order order : {Order::kForward, Order::kReverse, Order::kRandom}) {
    for (const Result& result : {runProducts<kMistake, Type::kF16>(order), runProducts<kMistake, Type::kE4M3>(order),
                                 runProducts<kMistake, Type::kS8>(order)}) {
      CHECK_MSG(says(result.outcome, words), result.outcome.error);
    }
  }
}

// Two stages of 256 bytes that a producer warp fills with bulk copies and a consumer warp adds up.
constexpr int kChunks = 6;

template <Mistake kMistake>
TSQ_KERNEL(64)
pipeline(Global<const Words> x, Global<uint32_t> y) {
  const int thread = threadIndex(), lane = thread % 32;
  const auto full = sharedMemory<Arrivals>(0), empty = sharedMemory<Arrivals>(16);
  const auto stages = sharedMemory<Words>(1024);
  if (thread == 0) {
    for (int i = 0; i < 2; ++i) {
      if (kMistake != kNoInit) initBarrier(full + i, 1);
      initBarrier(empty + i, kMistake == kTooManyArrivals ? 31 : 32);
    }
  }
  if (kMistake != kNoOrderAfterInit) syncThreads();
  uint32_t sum = 0;
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    const int stage = chunk % 2;
    const uint32_t parity = static_cast<uint32_t>(chunk / 2 % 2);
    if (thread == 32) {
      if (chunk >= 2) waitPhase(empty + stage, parity ^ 1);
      arriveExpecting(full + stage, kMistake == kWrongBytes ? 512 : 256);
      copyBulk(stages + stage * 16, x + chunk * 16, 256, full + stage);
    } else if (thread < 32) {
      if (kMistake != kNoPhaseWait) waitPhase(full + stage, parity);
      for (uint32_t word : load(stages + (stage * 16 + lane % 16)).v) sum += word;
      arrive(empty + stage);
    }
  }
  if (thread < 32) store(y + lane, sum);
}

template <Mistake kMistake>
Result runPipeline(Order order, Copies copies) {
  std::vector<uint32_t> values(kChunks * 64), want(16);
  for (size_t i = 0; i < values.size(); ++i) want[i / 4 % 16] += values[i] = static_cast<uint32_t>(i * 7919);
  Buffer<uint32_t> x("x", values), y("y", 32);
  Launch how;
  how.threads = 64;
  how.sharedBytes = 1024 + 512;
  how.order = order;
  how.copies = copies;
  Result result{launch(how, pipeline<kMistake>, x.global<const Words>(), y.global())};
  for (size_t i = 0; i < 32 && result.outcome.ok(); ++i) result.right = result.right && y[i] == want[i % 16];
  return result;
}

template <Mistake kMistake>
void pipelineFails(const std::string& words, const std::string& or1 = "\n", const std::string& or2 = "\n") {
  for (const Copies copies : {Copies::kLazy, Copies::kEager}) {
    for (const Order order : {Order::kForward, Order::kReverse, Order::kRandom}) {
      const Outcome outcome = runPipeline<kMistake>(order, copies).outcome;
      CHECK_MSG(says(outcome, words) || says(outcome, or1) || says(outcome, or2), outcome.error);
    }
  }
}

}  // namespace

TEST(wgmma_multiplies_at_its_wait) {
  for (const Order order : {Order::kForward, Order::kReverse, Order::kRandom}) {
    for (const Result& result : {runProducts<kNone, Type::kF16>(order), runProducts<kNone, Type::kE4M3>(order),
                                 runProducts<kNone, Type::kS8>(order)}) {
      CHECK_MSG(result.outcome.ok(), result.outcome.error);
      CHECK(result.right);
    }
  }
}
TEST(wgmma_sees_only_writes_behind_a_proxy_fence) {
  productsFail<kNoProxyFence>("which no proxy fence shows to wgmma");
}
TEST(wgmma_wants_registers_fenced) {
  productsFail<kNoProductFence>("reads registers that no wgmma.fence has ordered");
}
TEST(wgmma_must_be_committed_and_waited_for) {
  productsFail<kNoProductWait>("a thread ends before it waited for this product");
  productsFail<kNoCommit>("a thread ends before it committed this product");
}
TEST(wgmma_results_read_early_are_nan) {
  for (const Result& result : {runProducts<kReadsSums>(), runProducts<kReadsSums, Type::kS8>()}) {
    CHECK(result.outcome.ok() && !result.right);
  }
}
TEST(wgmma_registers_changed_in_flight_change_the_result) {
  for (const Result& result : {runProducts<kChangesA>(), runProducts<kChangesA, Type::kE4M3>()}) {
    CHECK(result.outcome.ok() && !result.right);
  }
}
TEST(wgmma_operand_overwritten_in_flight_is_a_race) {
  productsFail<kOverwritesB>("race: ");
}
TEST(wgmma_needs_the_whole_warpgroup) {
  productsFail<kIdleWarp>("of the warpgroup issued");
}

TEST(a_pipeline_of_bulk_copies_runs) {
  for (const Copies copies : {Copies::kLazy, Copies::kEager}) {
    for (const Order order : {Order::kForward, Order::kReverse, Order::kRandom}) {
      const Result result = runPipeline<kNone>(order, copies);
      CHECK_MSG(result.outcome.ok(), result.outcome.error);
      CHECK(result.right);
    }
  }
}
TEST(finds_a_stage_that_is_read_before_its_phase) {
  pipelineFails<kNoPhaseWait>("race: ", "is under way", "never written");
}
TEST(finds_bytes_that_never_come) {
  pipelineFails<kWrongBytes>("deadlock: no thread can go on");
}
TEST(finds_too_many_arrivals) {
  // The surplus falls into a phase that nobody waits for, or wakes the producer too early.
  pipelineFails<kTooManyArrivals>("race: ", "more arrivals", "is under way");
}
TEST(finds_barriers_that_are_not_ready) {
  pipelineFails<kNoInit>("no barrier was initialised", "which was never written");
  pipelineFails<kNoOrderAfterInit>("race: ", "no barrier was initialised", "which was never written");
}
