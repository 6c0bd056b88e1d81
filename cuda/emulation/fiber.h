// Cooperative threads: each has its own stack and runs until it hands control to another.
#pragma once
#include <cstddef>

namespace tsq::emulation {

// What one side of a switch keeps. A default Fiber is the thread of the operating system that it is first left on.
struct Fiber {
  void* stackPointer = nullptr;
  char* stack = nullptr;  // lowest usable address; null for the operating system's thread
  size_t stackBytes = 0;
  void* fakeStack = nullptr;  // AddressSanitizer's
};

// Makes `fiber` call entry(), which never returns, on its stack when it is first switched to.
void prepare(Fiber& fiber, void (*entry)());
// Leaves `from`; returns when something switches back to it. `last`: it never will.
void switchFiber(Fiber& from, Fiber& to, bool last = false);
// The first thing that an entry does; `from` is the fiber that it was switched from.
void entered(Fiber& from);

// Stacks of equal size, each above an inaccessible page that stops a stack that overflows.
class Stacks {
 public:
  explicit Stacks(int count);
  ~Stacks();
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  void give(Fiber& fiber, int index) const;

 private:
  char* memory_;
  size_t bytes_;
};

}  // namespace tsq::emulation
