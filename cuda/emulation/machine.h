// Runs a kernel on the host: every thread of a block is a fiber, control changes hands only where a thread waits, and
// the order in which warps run is chosen by the options. All on one thread of the operating system.
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cuda/emulation/clock.h"
#include "cuda/emulation/fiber.h"
#include "cuda/emulation/hopper.h"
#include "cuda/emulation/memory.h"

namespace tsq::emulation {

constexpr int kWarp = 32;

enum class Order { kForward, kReverse, kRandom };
// When the bytes of an asynchronous copy move: at its issue or at the wait for it. Both are legal, so both are tried.
enum class Copies { kEager, kLazy };

struct Launch {
  int blocks = 1;
  int threads = kWarp;  // a multiple of it
  size_t sharedBytes = 0;
  Order order = Order::kForward;
  Copies copies = Copies::kLazy;
  uint64_t seed = 1;       // of kRandom
  int residentBlocks = 4;  // the others start as these end, as on a device that is full
};

struct Outcome {
  std::string error;  // empty where the kernel ended as it should
  uint64_t switches = 0, barriers = 0, products = 0, copies = 0;
  bool ok() const { return error.empty(); }
};

struct Block;

// A cp.async of 16 bytes; the last 16 - sourceBytes become zero.
struct Copy {
  Memory* to;
  Memory* from;
  size_t toOffset, fromOffset, sourceBytes;
  Place at;
};

enum class State : uint8_t { kReady, kWaiting, kPolling, kEnded };

struct Thread {
  Fiber fiber;
  State state = State::kReady;
  Clock clock;
  Block* block = nullptr;
  int index = 0;
  const char* waitsFor = "";
  Place at;
  std::vector<Copy> openCopies;              // issued, not yet committed
  std::deque<std::vector<Copy>> copyGroups;  // committed, not yet waited for
  AsyncProducts products;
  std::vector<uint32_t> proxyFences;  // times of this thread's fences between proxies
};

// Lanes of a warp on their way into one collective operation.
struct Gathering {
  const char* operation;
  uint32_t mask, arrived;
  Place at;
  void* operands[kWarp];
};

struct Barrier {
  Place at;
  std::vector<Thread*> arrived;
};

struct Block {
  Block(int index, const Launch& launch);
  int index;
  int running;
  std::vector<Thread> threads;
  std::vector<std::vector<Gathering>> gatherings;  // by warp
  Barrier barriers[16];
  std::map<uint32_t, CountedBarrier> counted;  // by offset in shared memory
  std::unique_ptr<char[], void (*)(void*)> bytes;
  Memory shared;
};

// The launch under way; kernels and what they call see it through machine() and self().
class Machine {
 public:
  Machine(const Launch& launch, std::function<void()> body);
  Outcome run();

  const Launch& launch() const { return launch_; }
  Thread& current() const { return *current_; }
  Outcome& outcome() { return outcome_; }
  void enter();  // the first call of a fiber: runs the kernel
  void suspend(State state, const char* waitsFor, const Place& at);
  [[noreturn]] void abandon();  // leaves the current thread for good; the launch has failed
  Seen& published(const void* address) { return published_[address]; }

 private:
  void startBlocks();
  bool runRound();
  void resume(Thread& thread);
  void reportStuck();

  Launch launch_;
  std::function<void()> body_;
  Outcome outcome_;
  Stacks stacks_;
  std::mt19937_64 random_;
  std::vector<std::unique_ptr<Block>> resident_;  // by slot; null where free
  std::vector<int> waiting_;                      // blocks yet to start, the next one last
  Fiber scheduler_;
  Thread* current_ = nullptr;
  std::map<const void*, Seen> published_;  // by releases to an address
};

Machine& machine();
inline Thread& self() {
  return machine().current();
}
inline Actor actor(const Place& at) {
  return {&self().clock, at};
}
// Ends the launch with this error, told with the place, block and thread. A kernel that fails leaves its stacks as
// they are: nothing that owns memory may be alive in the caller.
[[noreturn]] __attribute__((format(printf, 2, 3))) void fail(const Place& at, const char* format, ...);

Outcome run(const Launch& launch, std::function<void()> body);

template <typename... Parameters, typename... Arguments>
Outcome launch(const Launch& launch, void (*kernel)(Parameters...), Arguments... arguments) {
  return run(launch, [=] { kernel(arguments...); });
}

// Buffers that kernels may touch, found by address.
void registerBuffer(Memory* memory);
void unregisterBuffer(Memory* memory);
Memory& findBuffer(const void* address, size_t* offset, const Place& at);

}  // namespace tsq::emulation
