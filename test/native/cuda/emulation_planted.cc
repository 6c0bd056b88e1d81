// Kernels with one mistake each, beside the correct one: the emulation finds the mistake and nothing else.
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
  kNoBarrier,
  kNoWait,
  kOverwrittenStage,
  kSharedBounds,
  kGlobalBounds,
  kDivergentBarrier,
  kUnwrittenShared,
  kUnwrittenGlobal,
  kEarlyEnd,
  kMisaligned,
  kDivergentShuffle,
  kWrongMask,
  kLaneLeftOut,
};

constexpr int kThreads = 64;
constexpr int kChunks = 8;

// Sums 64 chunks of four words, a chunk a thread and step, through two stages of shared memory; thread t adds the
// chunk that thread 63 - t copied.
template <Mistake kMistake>
TSQ_KERNEL(kThreads)
ring(Global<const Words> x, Global<uint32_t> y) {
  const int thread = threadIndex();
  const auto stages = sharedMemory<Words>(0);
  const auto fetch = [&](int chunk) {
    const int stage = kMistake == kOverwrittenStage ? 0 : chunk % 2;
    if (chunk < kChunks) {
      const int past = kMistake == kSharedBounds && chunk == 1 ? 1 : 0;
      copyAsync(stages + (stage * kThreads + thread + past), x + (chunk * kThreads + thread));
    }
    commitCopies();
  };
  fetch(0);
  uint32_t sum = 0;
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    if (kMistake != kNoWait) waitCopies<0>();
    if (kMistake != kNoBarrier) syncThreads();
    fetch(chunk + 1);
    const int stage = kMistake == kOverwrittenStage ? 0 : chunk % 2;
    const Words words = load(stages + (stage * kThreads + kThreads - 1 - thread));
    for (uint32_t word : words.v) sum += word;
  }
  if (kMistake != kNoWait) waitCopies<0>();
  store(y + (kMistake == kGlobalBounds ? thread + 1 : thread), sum);
}

template <Mistake kMistake>
Outcome runRing(const Launch& how, bool* right = nullptr) {
  std::vector<uint32_t> values(4 * kThreads * kChunks), want(kThreads);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<uint32_t>(i * i % 1009);
    want[kThreads - 1 - i / 4 % kThreads] += values[i];
  }
  Buffer<uint32_t> x("x", values), y("y", kThreads);
  Launch launched = how;
  launched.threads = kThreads;
  launched.sharedBytes = 2 * kThreads * sizeof(Words);
  const Outcome outcome = launch(launched, ring<kMistake>, x.template global<const Words>(), y.global());
  if (right != nullptr) {
    *right = outcome.ok();
    for (size_t i = 0; i < kThreads && *right; ++i) *right = y[i] == want[i];
  }
  return outcome;
}

std::vector<Launch> schedules() {
  std::vector<Launch> all;
  for (const Copies copies : {Copies::kLazy, Copies::kEager}) {
    for (const Order order : {Order::kForward, Order::kReverse, Order::kRandom}) {
      Launch how;
      how.order = order;
      how.copies = copies;
      how.seed = all.size() + 1;
      all.push_back(how);
    }
  }
  return all;
}

bool says(const Outcome& outcome, const std::string& words) {
  return outcome.error.find(words) != std::string::npos;
}

template <Mistake kMistake>
void ringFails(const std::string& words) {
  for (const Launch& how : schedules()) {
    const Outcome outcome = runRing<kMistake>(how);
    CHECK_MSG(says(outcome, words), outcome.error);
    CHECK_MSG(says(outcome, "emulation_planted.cc:"), outcome.error);
  }
}

}  // namespace

TEST(a_correct_ring_of_copies_runs_under_every_schedule) {
  for (const Launch& how : schedules()) {
    bool right = false;
    const Outcome outcome = runRing<kNone>(how, &right);
    CHECK_MSG(outcome.ok(), outcome.error);
    CHECK(right);
  }
}

TEST(finds_a_missing_barrier) {
  for (const Launch& how : schedules()) {
    const Outcome outcome = runRing<kNoBarrier>(how);
    // By the schedule, the reader comes after the copy, before it or during it.
    CHECK_MSG(says(outcome, "race: ") || says(outcome, "is under way") || says(outcome, "never written"),
              outcome.error);
  }
}
TEST(finds_a_read_before_the_wait) {
  ringFails<kNoWait>("an asynchronous copy is under way");
}
TEST(finds_a_stage_that_is_overwritten_while_it_is_read) {
  for (const Launch& how : schedules()) {
    const Outcome outcome = runRing<kOverwrittenStage>(how);
    CHECK_MSG(says(outcome, "race: ") || says(outcome, "is under way"), outcome.error);
  }
}
TEST(finds_shared_memory_out_of_bounds) {
  ringFails<kSharedBounds>("out of bounds: 16 bytes at byte 2048 of shared memory, which has 2048");
}
TEST(finds_global_memory_out_of_bounds) {
  ringFails<kGlobalBounds>("out of bounds: 4 bytes at byte 256 of y, which has 256");
}
TEST(finds_a_copy_that_nobody_waits_for) {
  // The ring's last group is empty, so one more copy is what is left.
  const auto kernel = +[](Global<const Words> x) {
    copyAsync(sharedMemory<Words>(0) + threadIndex(), x + threadIndex());
    commitCopies();
  };
  Buffer<uint32_t> x("x", std::vector<uint32_t>(128));
  Launch how;
  how.sharedBytes = 512;
  CHECK(says(launch(how, kernel, x.global<const Words>()), "a thread ends before it waited for this copy"));
}

namespace {

template <Mistake kMistake>
TSQ_KERNEL(kThreads)
small(Global<uint32_t> y) {
  const int thread = threadIndex();
  const auto words = sharedMemory<uint32_t>(0);
  if (kMistake == kDivergentBarrier && thread >= 32) {
    syncThreads();
  } else if (kMistake == kEarlyEnd && thread == 40) {
    return;
  } else {
    syncThreads();
  }
  uint32_t value = static_cast<uint32_t>(thread);
  if (kMistake == kUnwrittenShared) value += load(words + thread);
  if (kMistake == kUnwrittenGlobal) value += load(y + thread);
  if (kMistake == kMisaligned) store(Shared<uint32_t>{2}, value);
  if (kMistake == kDivergentShuffle && thread % 2 == 0) {
    value = shuffleXor(value, 2);
  } else if (kMistake == kWrongMask && thread % 32 < 16) {
    value = shuffleXor(value, 1, 0xffff0000u);
  } else if (kMistake == kLaneLeftOut && thread == 5) {
    syncThreads();
  } else {
    value = shuffleXor(value, 1);
  }
  store(y + thread, value);
}

template <Mistake kMistake>
Outcome runSmall(Order order, Buffer<uint32_t>& y) {
  Launch how;
  how.threads = kThreads;
  how.sharedBytes = kThreads * 4;
  how.order = order;
  return launch(how, small<kMistake>, y.global());
}

template <Mistake kMistake>
void smallFails(const std::string& words) {
  for (const Order order : {Order::kForward, Order::kReverse, Order::kRandom}) {
    Buffer<uint32_t> y("y", kThreads);
    const Outcome outcome = runSmall<kMistake>(order, y);
    CHECK_MSG(says(outcome, words), outcome.error);
  }
}

}  // namespace

TEST(a_correct_small_kernel_runs) {
  Buffer<uint32_t> y("y", kThreads);
  CHECK(runSmall<kNone>(Order::kForward, y).ok());
  for (uint32_t i = 0; i < kThreads; ++i) CHECK(y[i] == (i ^ 1));
}
TEST(finds_a_divergent_barrier) {
  smallFails<kDivergentBarrier>("divergence: comes to barrier 0 while others wait in it at");
}
TEST(tells_who_waits_in_a_deadlock) {
  smallFails<kEarlyEnd>("threads 40 to 40 ended\n  block 0 threads 41 to 63 wait for a barrier at");
}
TEST(finds_unwritten_shared_memory) {
  smallFails<kUnwrittenShared>("of shared memory, which was never written");
}
TEST(finds_unwritten_global_memory) {
  smallFails<kUnwrittenGlobal>("of y, which was never written");
}
TEST(finds_misaligned_access) {
  smallFails<kMisaligned>("misaligned: 4 bytes at byte 2 of shared memory");
}
TEST(finds_divergent_lanes) {
  smallFails<kDivergentShuffle>("divergence: lane");
  smallFails<kWrongMask>("divergence: lane");
  smallFails<kLaneLeftOut>("deadlock: no thread can go on");
}

namespace {

// Every block adds its part of x; the last to arrive adds up the parts.
template <bool kOrdered>
TSQ_KERNEL(32)
lastArriver(Global<int> counter, Global<int> parts, Global<int> y) {
  const int thread = threadIndex(), block = blockIndex();
  const auto last = sharedMemory<int>(0);
  store(parts + (block * 32 + thread), block + thread);
  syncThreads();
  if (thread == 0) store(last, kOrdered ? atomicAddSync(counter, 1) : atomicAdd(counter, 1));
  syncThreads();
  if (load(last) != blockCount() - 1) return;
  int sum = 0;
  for (int i = 0; i < blockCount(); ++i) sum += load(parts + (i * 32 + thread));
  store(y + thread, sum);
}

template <bool kOrdered>
Outcome runLastArriver(Launch how) {
  how.blocks = 6;
  how.sharedBytes = 4;
  Buffer<int> counter("counter", std::vector<int>(1)), parts("parts", 6 * 32), y("y", 32);
  Outcome outcome = launch(how, lastArriver<kOrdered>, counter.global(), parts.global(), y.global());
  for (int i = 0; i < 32 && outcome.ok(); ++i) CHECK(y[static_cast<size_t>(i)] == 15 + 6 * i);
  return outcome;
}

// Block 1 waits for block 0; that both run at once is more than a launch promises.
TSQ_KERNEL(32) waitForBlock(Global<int> flag, int waiter) {
  if (blockIndex() == waiter) {
    while (loadAcquire(flag) == 0) {
    }
  } else if (threadIndex() == 0) {
    storeRelease(flag, 1);
  }
}

}  // namespace

TEST(orders_blocks_by_atomics_that_release_and_acquire) {
  for (const Launch& how : schedules()) {
    const Outcome outcome = runLastArriver<true>(how);
    CHECK_MSG(outcome.ok(), outcome.error);
  }
}
TEST(finds_blocks_that_relaxed_atomics_do_not_order) {
  for (const Launch& how : schedules()) {
    const Outcome outcome = runLastArriver<false>(how);
    CHECK_MSG(says(outcome, "race: read of byte"), outcome.error);
  }
}
TEST(finds_a_kernel_that_needs_blocks_to_run_together) {
  Launch how;
  how.blocks = 2;
  for (const int resident : {1, 2}) {
    Buffer<int> flag("flag", std::vector<int>(1));
    how.residentBlocks = resident;
    const Outcome outcome = launch(how, waitForBlock, flag.global(), 0);
    CHECK_MSG(outcome.ok() == (resident == 2), outcome.error);
    if (resident == 1) CHECK_MSG(says(outcome, "1 blocks have not started"), outcome.error);
  }
}
TEST(refuses_a_launch_without_whole_warps) {
  Launch how;
  how.threads = 40;
  CHECK(!launch(how, waitForBlock, Global<int>{}, 0).ok());
}
TEST(finds_memory_that_belongs_to_no_buffer) {
  Launch how;
  how.blocks = 1;
  CHECK(says(launch(how, waitForBlock, Global<int>{}, 1), "belongs to no buffer"));
}
