// Working memory of the current thread: grows, is reused by every call, is freed with the thread.
#pragma once
#include <cstdint>

namespace tsq {

// One thread may hold one buffer of each purpose at a time: a task runs on the thread that also prepared the call.
enum class ScratchUse { kActivations, kKernel, kOutput, kRow, kOffsets, kSurvey };

// At least `floats` floats, 64-byte aligned, contents undefined, valid until this thread's next call with the same use.
// Null when the system has no memory.
float* threadScratch(ScratchUse use, int64_t floats);

}  // namespace tsq
