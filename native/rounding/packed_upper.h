// An upper triangular matrix in panels of 16 columns, the operand layout of KernelTable::gramTile.
#pragma once
#include <cstdint>
#include <utility>

#include "runtime/memory.h"
#include "runtime/status.h"

namespace tsq::rounding {

constexpr int64_t kPanel = 16;
// Products are summed over at most this many terms before they are added to a running sum.
constexpr int64_t kChain = 256;

// Asks for rows of a panel that will be read soon: a stretch ends too early for the processor to see it coming.
inline void prefetchRows(const float* rows, int64_t count) {
  for (int64_t row = 0; row < count; ++row) __builtin_prefetch(rows + row * kPanel, 0, 2);
}

inline int64_t roundUpToPanel(int64_t k) {
  return (k + kPanel - 1) / kPanel * kPanel;
}

// Panel p holds columns [16 p, 16 p + 16) and their rows [0, 16 p + 16): element (row, column) lies at
// panel(column / 16)[row * 16 + column % 16]. Below the diagonal and beyond k the content is the user's to define;
// create() leaves zeros. Any range of rows of a panel is contiguous, so a tile of U^T U needs no packing.
template <typename T>
class PackedUpper {
 public:
  // kMemory when the system refuses.
  static Result<PackedUpper> create(int64_t k) {
    PackedUpper made;
    made.k_ = k;
    Result<AlignedBuffer> buffer = AlignedBuffer::allocate(bytes(k));
    if (!buffer.ok()) return buffer.status();
    made.buffer_ = std::move(buffer.value());
    made.data_ = made.buffer_.template as<T>();
    return made;
  }
  static uint64_t bytes(int64_t k) { return static_cast<uint64_t>(offset(roundUpToPanel(k) / kPanel)) * sizeof(T); }
  // Elements before panel p.
  static int64_t offset(int64_t p) { return kPanel * kPanel / 2 * p * (p + 1); }

  int64_t k() const { return k_; }
  int64_t padded() const { return roundUpToPanel(k_); }
  int64_t panels() const { return padded() / kPanel; }
  T* panel(int64_t p) { return data_ + offset(p); }
  const T* panel(int64_t p) const { return data_ + offset(p); }
  T& at(int64_t row, int64_t column) { return panel(column / kPanel)[row * kPanel + column % kPanel]; }
  T at(int64_t row, int64_t column) const { return panel(column / kPanel)[row * kPanel + column % kPanel]; }

 private:
  int64_t k_ = 0;
  AlignedBuffer buffer_;
  T* data_ = nullptr;
};

}  // namespace tsq::rounding
