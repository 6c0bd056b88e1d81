#include "cuda/emulation/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Saves the registers that a callee preserves on the stack it leaves, and takes those of the other stack from there.
// swapcontext would do, but it asks the kernel for the signal mask, which costs more than all else in a switch.
extern "C" void tsqSwitchStack(void** save, void* load);
#if defined(__x86_64__)
constexpr int kSavedWords = 6;
asm(R"(
.text
.globl tsqSwitchStack
.hidden tsqSwitchStack
.type tsqSwitchStack,@function
tsqSwitchStack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size tsqSwitchStack, .-tsqSwitchStack
)");
#elif defined(__aarch64__)
constexpr int kSavedWords = 20;
constexpr int kReturnWord = 11;  // x30
asm(R"(
.text
.globl tsqSwitchStack
.hidden tsqSwitchStack
.type tsqSwitchStack,%function
tsqSwitchStack:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size tsqSwitchStack, .-tsqSwitchStack
)");
#else
#error "The CUDA emulation switches stacks on x86-64 and arm64 only."
#endif

namespace tsq::emulation {

void prepare(Fiber& fiber, void (*entry)()) {
  auto** top = reinterpret_cast<void**>(fiber.stack + fiber.stackBytes);
#if defined(__x86_64__)
  *--top = nullptr;  // where a caller's return address would be: keeps the ABI's alignment at the entry
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kSavedWords; ++i) *--top = nullptr;
#else
  top -= kSavedWords;
  for (int i = 0; i < kSavedWords; ++i) top[i] = nullptr;
  top[kReturnWord] = reinterpret_cast<void*>(entry);
#endif
  fiber.stackPointer = top;
}

void switchFiber(Fiber& from, Fiber& to, [[maybe_unused]] bool last) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(last ? nullptr : &from.fakeStack, to.stack, to.stackBytes);
#endif
  tsqSwitchStack(&from.stackPointer, to.stackPointer);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.fakeStack, nullptr, nullptr);
#endif
}

void entered([[maybe_unused]] Fiber& from) {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  from.stack = static_cast<char*>(const_cast<void*>(bottom));
  from.stackBytes = bytes;
#endif
}

namespace {
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStack = 256 * 1024;
#else
constexpr size_t kStack = 64 * 1024;
#endif
size_t page() {
  static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}
}  // namespace

Stacks::Stacks(int count) : bytes_(static_cast<size_t>(count) * (kStack + page())) {
  void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<char*>(memory);
  for (int i = 0; i < count; ++i) {
    if (mprotect(memory_ + static_cast<size_t>(i) * (kStack + page()), page(), PROT_NONE) != 0) throw std::bad_alloc();
  }
}

Stacks::~Stacks() {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(memory_, bytes_);  // the addresses may come back with other frames on them
#endif
  munmap(memory_, bytes_);
}

void Stacks::give(Fiber& fiber, int index) const {
  fiber.stack = memory_ + static_cast<size_t>(index) * (kStack + page()) + page();
  fiber.stackBytes = kStack;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(fiber.stack, kStack);  // frames of a thread that was abandoned here
#endif
}

}  // namespace tsq::emulation
