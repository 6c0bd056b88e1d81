// Row-major float matrices into panels of 16 rows (layout/packed.h).
#include <algorithm>
#include <cstring>
#include <string>

#include "kernels/interleave.h"
#include "kernels/kernels.h"
#include "kernels/packed_weight.h"
#include "runtime/thread_pool.h"

namespace tsq {
namespace {

using layout::kPanel;
using layout::Shape;
using layout::WeightKind;

bool isFloat(Dtype dtype) {
  return dtype == Dtype::kF32 || dtype == Dtype::kF16 || dtype == Dtype::kBF16;
}

Dtype storage(WeightKind kind) {
  return kind == WeightKind::kF32 ? Dtype::kF32 : kind == WeightKind::kF16 ? Dtype::kF16 : Dtype::kBF16;
}

// Columns of a panel that are converted at a time.
constexpr int64_t kChunk = 256;

// Converts at most kChunk elements; the same type is copied bit by bit, NaN payloads included.
void convert(const KernelTable& table, const char* source, Dtype from, void* out, Dtype to, int64_t count) {
  if (from == to) {
    std::memcpy(out, source, static_cast<size_t>(count * dtypeBytes(to)));
  } else if (to == Dtype::kF32) {
    table.toFloat(source, from, static_cast<float*>(out), count);
  } else if (from == Dtype::kF32 && reinterpret_cast<uintptr_t>(source) % alignof(float) == 0) {
    table.fromFloat(reinterpret_cast<const float*>(source), out, to, count);
  } else {
    alignas(64) float wide[kChunk];
    table.toFloat(source, from, wide, count);
    table.fromFloat(wide, out, to, count);
  }
}

// T: a word of the packed type's size.
template <typename T>
void packPanel(const KernelTable& table, const char* source, Dtype from, const Shape& shape, int64_t panel, T* packed) {
  const int64_t rows = std::min(kPanel, shape.n - panel * kPanel), bytes = dtypeBytes(from);
  const char* first = source + panel * kPanel * shape.k * bytes;
  T* out = packed + layout::element(shape, panel * kPanel, 0);
  if (from == storage(shape.kind) && rows == kPanel) return interleave(first, shape.k * bytes, shape.k, out);
  // Rows apart by more than a power of two, so that they fall into different cache sets.
  alignas(64) T block[kPanel][kChunk + 64 / sizeof(T)];
  if (rows < kPanel) std::memset(block, 0, sizeof block);
  for (int64_t k = 0; k < shape.k; k += kChunk) {
    const int64_t columns = std::min(kChunk, shape.k - k);
    for (int64_t row = 0; row < rows; ++row) {
      convert(table, first + (row * shape.k + k) * bytes, from, block[row], storage(shape.kind), columns);
    }
    interleave(block, sizeof block[0], columns, out + k * kPanel);
  }
}

}  // namespace

Result<PackedWeight> packDense(const void* source, Dtype from, int64_t n, int64_t k, WeightKind kind) {
  if (n < 1 || k < 1) {
    return Status(Code::kShape, "packDense: weight has shape [" + std::to_string(n) + ", " + std::to_string(k) +
                                    "], expected at least [1, 1]");
  }
  if (!isFloat(from))
    return Status(Code::kDtype, "packDense: the weight is an integer tensor, expected f32, f16 or bf16");
  if (layout::isInteger(kind)) {
    return Status(Code::kUnsupported,
                  "packDense: integer codes need scales; quantize the weight and pack its codes instead");
  }
  PackedWeight weight;
  weight.shape = {kind, n, k, k};
  weight.bits = kind == WeightKind::kF32 ? 32 : 16;
  const int64_t panels = layout::panels(weight.shape);
  // Zero-filled by allocate(): padding rows and columns need no writing.
  Result<AlignedBuffer> data = AlignedBuffer::allocate(static_cast<size_t>(panels * layout::panelBytes(weight.shape)));
  if (!data.ok()) return data.status();
  weight.data = std::move(data.value());

  const KernelTable& table = kernels();
  const char* bytes = static_cast<const char*>(source);
  ThreadPool::instance().run(panels, [&](int64_t panel, int) {
    if (kind == WeightKind::kF32) {
      packPanel(table, bytes, from, weight.shape, panel, weight.data.as<uint32_t>());
    } else {
      packPanel(table, bytes, from, weight.shape, panel, weight.data.as<uint16_t>());
    }
  });
  return weight;
}

}  // namespace tsq
