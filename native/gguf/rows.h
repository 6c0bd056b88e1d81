// Work on the rows of a matrix over the thread pool. Include in files of this folder only.
#pragma once
#include <algorithm>
#include <cstdint>

#include "gguf/codec.h"
#include "runtime/thread_pool.h"

namespace tsq::gguf {

// fn(row) for every row, in tasks of about so many elements.
template <typename F>
void eachRow(const Matrix& matrix, int64_t taskElements, F&& fn) {
  const int64_t perTask = std::max<int64_t>(1, taskElements / std::max<int64_t>(1, matrix.k));
  auto task = [&](int64_t index, int) {
    const int64_t end = std::min(matrix.rows, (index + 1) * perTask);
    for (int64_t row = index * perTask; row < end; ++row) fn(row);
  };
  ThreadPool::instance().run((matrix.rows + perTask - 1) / perTask, task);
}

}  // namespace tsq::gguf
