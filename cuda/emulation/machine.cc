#include "cuda/emulation/machine.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>

namespace tsq::emulation {
namespace {

constexpr size_t kSharedAlign = 1024;
constexpr int kIdleRounds = 100;  // with nobody but pollers running, after which nothing will change

Machine* running = nullptr;

std::map<uintptr_t, Memory*>& buffers() {
  // Never destroyed: kernels may run in another thread while the process ends.
  static auto* all = new std::map<uintptr_t, Memory*>;
  return *all;
}

char* allocateShared(size_t bytes) {
  const size_t rounded = (bytes / kSharedAlign + 1) * kSharedAlign;
  void* memory = std::aligned_alloc(kSharedAlign, rounded);
  if (memory == nullptr) throw std::bad_alloc();
  std::memset(memory, 0xff, rounded);  // NaN as f16, bf16 and f32
  return static_cast<char*>(memory);
}

std::string describe(const Place& at) {
  return std::string(at.file_name()) + ":" + std::to_string(at.line());
}

void enterFiber() {
  running->enter();
}

}  // namespace

Machine& machine() {
  return *running;
}

void fail(const Place& at, const char* format, ...) {
  char text[1024];
  const Thread& thread = self();
  const int length = std::snprintf(text, sizeof(text), "%s:%u: block %d thread %d: ", at.file_name(),
                                   static_cast<unsigned>(at.line()), thread.block->index, thread.index);
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text + length, sizeof(text) - static_cast<size_t>(length), format, arguments);
  va_end(arguments);
  machine().outcome().error = text;
  machine().abandon();
}

Block::Block(int index, const Launch& launch)
    : index(index),
      running(launch.threads),
      threads(static_cast<size_t>(launch.threads)),
      gatherings(static_cast<size_t>(launch.threads / kWarp)),
      bytes(allocateShared(launch.sharedBytes), std::free),
      shared("shared memory", bytes.get(), launch.sharedBytes, false) {
  for (int i = 0; i < launch.threads; ++i) {
    Thread& thread = threads[static_cast<size_t>(i)];
    thread.block = this;
    thread.index = i;
    thread.clock.block = static_cast<uint32_t>(index);
    thread.clock.thread = static_cast<uint32_t>(i);
  }
}

Machine::Machine(const Launch& launch, std::function<void()> body)
    : launch_(launch),
      body_(std::move(body)),
      stacks_(std::min(launch.blocks, launch.residentBlocks) * launch.threads),
      random_(launch.seed),
      resident_(static_cast<size_t>(std::min(launch.blocks, launch.residentBlocks))),
      waiting_(static_cast<size_t>(launch.blocks)) {
  std::iota(waiting_.rbegin(), waiting_.rend(), 0);
  if (launch.order == Order::kReverse) std::reverse(waiting_.begin(), waiting_.end());
  if (launch.order == Order::kRandom) std::shuffle(waiting_.begin(), waiting_.end(), random_);
}

void Machine::startBlocks() {
  for (size_t slot = 0; slot < resident_.size(); ++slot) {
    auto& block = resident_[slot];
    if (block != nullptr && block->running == 0) block = nullptr;
    if (block != nullptr || waiting_.empty()) continue;
    block = std::make_unique<Block>(waiting_.back(), launch_);
    waiting_.pop_back();
    for (Thread& thread : block->threads) {
      stacks_.give(thread.fiber, static_cast<int>(slot) * launch_.threads + thread.index);
      prepare(thread.fiber, enterFiber);
    }
  }
}

void Machine::enter() {
  entered(scheduler_);
  body_();
  Thread& thread = *current_;
  if (!thread.openCopies.empty()) fail(thread.openCopies.front().at, "a thread ends before it waited for this copy");
  for (const auto& group : thread.copyGroups) {
    if (!group.empty()) fail(group.front().at, "a thread ends before it waited for this copy");
  }
  checkAtEnd(thread);
  thread.state = State::kEnded;
  --thread.block->running;
  abandon();
}

void Machine::abandon() {
  switchFiber(current_->fiber, scheduler_, true);
  std::abort();
}

void Machine::suspend(State state, const char* waitsFor, const Place& at) {
  current_->state = state;
  current_->waitsFor = waitsFor;
  current_->at = at;
  switchFiber(current_->fiber, scheduler_);
}

void Machine::resume(Thread& thread) {
  current_ = &thread;
  ++outcome_.switches;
  switchFiber(scheduler_, thread.fiber);
}

// Gives every ready thread one turn. False where all that ran were pollers that found nothing new.
bool Machine::runRound() {
  struct Turn {
    Block* block;
    int warp;
  };
  std::vector<Turn> turns;
  for (const auto& block : resident_) {
    for (int warp = 0; block != nullptr && warp < launch_.threads / kWarp; ++warp) turns.push_back({block.get(), warp});
  }
  if (launch_.order == Order::kReverse) std::reverse(turns.begin(), turns.end());
  if (launch_.order == Order::kRandom) std::shuffle(turns.begin(), turns.end(), random_);
  bool progress = false;
  for (const Turn& turn : turns) {
    const auto twist = launch_.order == Order::kReverse  ? kWarp - 1
                       : launch_.order == Order::kRandom ? static_cast<int>(random_() % kWarp)
                                                         : 0;
    for (int i = 0; i < kWarp; ++i) {
      Thread& thread = turn.block->threads[static_cast<size_t>(turn.warp * kWarp + (i ^ twist))];
      if (thread.state != State::kReady && thread.state != State::kPolling) continue;
      const bool polled = thread.state == State::kPolling;
      thread.state = State::kReady;
      resume(thread);
      if (!outcome_.ok()) return true;
      progress = progress || !polled || thread.state != State::kPolling;
    }
  }
  return progress;
}

// Threads of a block that wait for the same thing at the same place are told as one.
void Machine::reportStuck() {
  std::string text = "deadlock: no thread can go on";
  for (const auto& block : resident_) {
    if (block == nullptr) continue;
    for (int i = 0, begin = 0; i < launch_.threads; ++i) {
      const Thread& first = block->threads[static_cast<size_t>(begin)];
      const Thread* next = i + 1 < launch_.threads ? &block->threads[static_cast<size_t>(i) + 1] : nullptr;
      if (next != nullptr && next->state == first.state && next->at.line() == first.at.line() &&
          next->waitsFor == first.waitsFor) {
        continue;
      }
      text += "\n  block " + std::to_string(block->index) + " threads " + std::to_string(begin) + " to " +
              std::to_string(i) +
              (first.state == State::kEnded ? " ended"
                                            : std::string(" wait for ") + first.waitsFor + " at " + describe(first.at));
      begin = i + 1;
    }
  }
  if (!waiting_.empty()) text += "\n  " + std::to_string(waiting_.size()) + " blocks have not started";
  outcome_.error = text;
}

Outcome Machine::run() {
  Machine* outer = running;
  running = this;
  for (int idle = 0; outcome_.ok();) {
    startBlocks();
    if (std::all_of(resident_.begin(), resident_.end(), [](const auto& block) { return block == nullptr; })) break;
    idle = runRound() ? 0 : idle + 1;
    if (idle > kIdleRounds) reportStuck();
  }
  running = outer;
  for (auto& [address, memory] : buffers()) memory->forgetAccesses();
  return outcome_;
}

Outcome run(const Launch& launch, std::function<void()> body) {
  if (launch.blocks <= 0 || launch.threads <= 0 || launch.threads % kWarp != 0) {
    Outcome refused;
    refused.error = "a launch needs blocks, and whole warps in them";
    return refused;
  }
  return Machine(launch, std::move(body)).run();
}

void registerBuffer(Memory* memory) {
  buffers()[reinterpret_cast<uintptr_t>(memory->bytes())] = memory;
}

void unregisterBuffer(Memory* memory) {
  buffers().erase(reinterpret_cast<uintptr_t>(memory->bytes()));
}

Memory& findBuffer(const void* address, size_t* offset, const Place& at) {
  // The last buffer that begins at or before the address; whether the address is inside is for Memory to say.
  auto next = buffers().upper_bound(reinterpret_cast<uintptr_t>(address));
  if (next == buffers().begin()) fail(at, "global memory at %p belongs to no buffer", address);
  Memory& memory = *std::prev(next)->second;
  *offset = static_cast<size_t>(static_cast<const char*>(address) - memory.bytes());
  return memory;
}

}  // namespace tsq::emulation
