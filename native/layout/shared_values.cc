#include "layout/shared_values.h"

#include <algorithm>
#include <atomic>
#include <string>

#include "runtime/thread_pool.h"

namespace tsq::layout {
namespace {

constexpr int64_t kTask = int64_t{1} << 16;  // values of a task, about

int64_t storedIndex(const Sharing& s, int64_t groups, int64_t row, int64_t group) {
  if (s.runLength > 0) return (row * s.k + group * s.groupSize) / s.runLength;
  return row / s.blockRows * groups + group;
}

// fn(row) over all rows.
template <typename F>
void forRows(const Sharing& s, F&& fn) {
  const int64_t perTask = std::max<int64_t>(1, kTask / groupsOf(s));
  ThreadPool::instance().run((s.n + perTask - 1) / perTask, [&](int64_t task, int) {
    const int64_t end = std::min(s.n, (task + 1) * perTask);
    for (int64_t row = task * perTask; row < end; ++row) fn(row);
  });
}

// Whether (row, group) is the first of those that share its value.
bool leads(const Sharing& s, int64_t row, int64_t group) {
  if (s.runLength > 0) return (row * s.k + group * s.groupSize) % s.runLength == 0;
  return row % s.blockRows == 0;
}

}  // namespace

Status checkSharing(const Sharing& s) {
  if (s.n < 1 || s.k < 1 || s.groupSize < 1 || s.groupSize > s.k || s.runLength < 0 || s.blockRows < 1)
    return Status(Code::kOption, "values are shared by groups of " + std::to_string(s.groupSize) + " columns, " +
                                     std::to_string(s.blockRows) + " rows and runs of " + std::to_string(s.runLength) +
                                     " in a weight [" + std::to_string(s.n) + ", " + std::to_string(s.k) +
                                     "], expected positive sizes and at most k columns");
  if (s.runLength > 0 && (s.k % s.groupSize != 0 || s.runLength % s.groupSize != 0))
    return Status(Code::kOption, "groups have " + std::to_string(s.groupSize) + " columns, expected a divisor of k = " +
                                     std::to_string(s.k) + " and of runs of " + std::to_string(s.runLength));
  return {};
}

template <typename T>
void expandShared(const T* stored, const Sharing& s, T* out) {
  const int64_t groups = groupsOf(s);
  forRows(s, [&](int64_t row) {
    for (int64_t group = 0; group < groups; ++group)
      out[row * groups + group] = stored[storedIndex(s, groups, row, group)];
  });
}

template <typename T>
bool collapseShared(const T* values, const Sharing& s, T* stored) {
  const int64_t groups = groupsOf(s);
  forRows(s, [&](int64_t row) {
    for (int64_t group = 0; group < groups; ++group) {
      if (leads(s, row, group)) stored[storedIndex(s, groups, row, group)] = values[row * groups + group];
    }
  });
  std::atomic<bool> same{true};
  forRows(s, [&](int64_t row) {
    for (int64_t group = 0; group < groups; ++group) {
      if (stored[storedIndex(s, groups, row, group)] != values[row * groups + group])
        same.store(false, std::memory_order_relaxed);
    }
  });
  return same.load();
}

template void expandShared(const uint8_t* stored, const Sharing& sharing, uint8_t* out);
template void expandShared(const uint32_t* stored, const Sharing& sharing, uint32_t* out);
template bool collapseShared(const uint8_t* values, const Sharing& sharing, uint8_t* stored);
template bool collapseShared(const uint32_t* values, const Sharing& sharing, uint32_t* stored);

}  // namespace tsq::layout
