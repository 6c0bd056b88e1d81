// Memory of a program's slots.
#pragma once
#include <atomic>
#include <cstdint>
#include <vector>

#include "runtime/memory.h"
#include "runtime/status.h"

namespace tsq {

// One block for all slots, each f32 [rows, width] with row stride = width. The bucket of a number of rows is the power
// of two not below it; a slot's address depends on the bucket only, as long as no larger bucket made the block grow.
class SlotArena {
 public:
  explicit SlotArena(std::vector<int64_t> widths) : widths_(std::move(widths)) {}

  // Lays the slots out for `rows`. Contents stay while the bucket stays. kMemory when the system refuses.
  Status prepare(int64_t rows);
  float* slot(int32_t index) const { return memory_.as<float>() + offsets_[static_cast<size_t>(index)]; }
  int64_t width(int32_t index) const { return widths_[static_cast<size_t>(index)]; }
  uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }

 private:
  std::vector<int64_t> widths_, offsets_;
  int64_t bucket_ = 0;
  AlignedBuffer memory_;
  std::atomic<uint64_t> bytes_{0};  // read by other threads while a step runs
};

}  // namespace tsq
