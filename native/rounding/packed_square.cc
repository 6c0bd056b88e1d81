#include "rounding/packed_square.h"

#include <algorithm>
#include <utility>

#include "runtime/thread_pool.h"

namespace tsq::rounding {

Result<PackedSquare> PackedSquare::create(int64_t k) {
  PackedSquare made;
  made.k_ = k;
  const uint64_t padded = static_cast<uint64_t>(roundUpToPanel(k));
  Result<AlignedBuffer> buffer = AlignedBuffer::allocate(padded * padded * sizeof(float));
  if (!buffer.ok()) return buffer.status();
  made.buffer_ = std::move(buffer.value());
  return made;
}

Result<PackedSquare> packSquare(const float* matrix, int64_t k, const std::vector<int32_t>& columns) {
  Result<PackedSquare> made = PackedSquare::create(k);
  if (!made.ok()) return made;
  PackedSquare& packed = made.value();
  ThreadPool::instance().run(packed.panels(), [&](int64_t p, int) {
    float* panel = packed.panel(p);
    const int64_t width = std::min(kPanel, k - p * kPanel);
    for (int64_t row = 0; row < k; ++row) {
      const float* from = matrix + static_cast<int64_t>(columns[static_cast<size_t>(row)]) * k;
      for (int64_t i = 0; i < width; ++i) panel[row * kPanel + i] = from[columns[static_cast<size_t>(p * kPanel + i)]];
    }
  });
  return made;
}

}  // namespace tsq::rounding
