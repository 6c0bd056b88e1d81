// Loops over the thread pool in tasks of fixed size, so that no result depends on the number of threads.
#pragma once
#include <algorithm>
#include <cstdint>

#include "runtime/thread_pool.h"

namespace tsq {

// Elements that one task of an elementwise operation handles: a few microseconds, more than waking the pool costs. One
// row of a model's widest slot is one task, so that decoding one token wakes it for products and attention only.
constexpr int64_t kTaskElements = 32768;

// Calls fn(begin, end) over [0, count) in blocks of `block`; one block runs in place. Blocks that start after the abort
// flag was raised are skipped: the caller checks the flag afterwards.
template <typename F>
void parallelBlocks(int64_t count, int64_t block, AbortFlag abort, F&& fn) {
  const int64_t tasks = (count + block - 1) / block;
  if (tasks <= 1) {
    if (count > 0) fn(int64_t{0}, count);
    return;
  }
  auto task = [&](int64_t index, int) {
    if (!abort.raised()) fn(index * block, std::min(count, (index + 1) * block));
  };
  ThreadPool::instance().run(tasks, task);
}

// As many units of `unit` elements as make a task, at least one.
inline int64_t unitsPerTask(int64_t unit) {
  return std::max<int64_t>(1, kTaskElements / std::max<int64_t>(1, unit));
}

}  // namespace tsq
