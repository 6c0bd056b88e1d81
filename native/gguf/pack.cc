#include "gguf/pack.h"

#include <cstring>
#include <string>

#include "gguf/canonical.h"
#include "gguf/rows.h"
#include "runtime/memory.h"

namespace tsq::gguf {
namespace {

constexpr int64_t kTaskElements = 1 << 16;

Result<PackedWeight> packFloats(const Matrix& matrix, const uint8_t* rows, int64_t stride,
                                const std::vector<int32_t>& from) {
  const bool half = matrix.type == Type::kF16;
  const Dtype dtype = matrix.type == Type::kF32 ? Dtype::kF32 : half ? Dtype::kF16 : Dtype::kBF16;
  const auto kind = dtype == Dtype::kF32 ? layout::WeightKind::kF32
                    : half               ? layout::WeightKind::kF16
                                         : layout::WeightKind::kBF16;
  const bool aligned = reinterpret_cast<uintptr_t>(rows) % static_cast<uintptr_t>(dtypeBytes(dtype)) == 0;
  if (from.empty() && aligned) return packDense(rows, dtype, matrix.rows, matrix.k, kind);
  Result<AlignedBuffer> ordered = AlignedBuffer::allocate(static_cast<size_t>(matrix.rows * stride));
  if (!ordered.ok()) return ordered.status();
  eachRow(matrix, kTaskElements, [&](int64_t row) {
    const int64_t source = from.empty() ? row : from[static_cast<size_t>(row)];
    std::memcpy(ordered.value().as<uint8_t>() + row * stride, rows + source * stride, static_cast<size_t>(stride));
  });
  return packDense(ordered.value().data(), dtype, matrix.rows, matrix.k, kind);
}

// Codes that are whole numbers of a code book, as positions in it again, which take 4 bits.
struct BookCodes {
  float values[layout::kBookSize] = {};
  uint8_t position[256] = {};

  explicit BookCodes(const Grid& grid) {
    for (int i = layout::kBookSize - 1; grid.book != nullptr && i >= 0; --i) {
      values[i] = grid.book[i];
      position[grid.book[i] + (1 << (grid.bits - 1))] = static_cast<uint8_t>(i);
    }
  }
  void positions(uint8_t* codes, int64_t count) const {
    for (int64_t i = 0; i < count; ++i) codes[i] = position[codes[i]];
  }
};

}  // namespace

Result<PackedWeight> pack(const Matrix& matrix, const uint8_t* blocks, const std::vector<int32_t>& from) {
  const int64_t n = matrix.rows, k = matrix.k;
  Result<int64_t> stride = rowBytes(matrix.type, k);
  if (!stride.ok()) return stride.status();
  if (n < 1 || k < 1)
    return Status(Code::kShape, "the weight is [" + std::to_string(n) + ", " + std::to_string(k) +
                                    "], expected at least one row and one block");
  TSQ_RETURN_IF_ERROR(checkOrder(from, n));
  const Grid* grid = gridOf(matrix.type);
  if (grid == nullptr) return packFloats(matrix, blocks, stride.value(), from);

  const int64_t groups = k / grid->group;
  Result<AlignedBuffer> codes = AlignedBuffer::allocate(static_cast<size_t>(n * k));
  if (!codes.ok()) return codes.status();
  Result<AlignedBuffer> scales = AlignedBuffer::allocate(static_cast<size_t>(n * groups) * sizeof(float));
  if (!scales.ok()) return scales.status();
  Result<AlignedBuffer> offsets =
      AlignedBuffer::allocate(grid->hasOffsets ? static_cast<size_t>(n * groups) * sizeof(float) : 0);
  if (!offsets.ok()) return offsets.status();
  const BookCodes book(*grid);
  eachRow(matrix, kTaskElements, [&](int64_t row) {
    const int64_t source = from.empty() ? row : from[static_cast<size_t>(row)];
    grid->row(blocks + source * stride.value(), k, codes.value().as<uint8_t>() + row * k,
              scales.value().as<float>() + row * groups,
              grid->hasOffsets ? offsets.value().as<float>() + row * groups : nullptr);
    if (grid->book != nullptr) book.positions(codes.value().as<uint8_t>() + row * k, k);
  });
  CodesSource source{};
  source.codes = codes.value().as<uint8_t>();
  source.n = n;
  source.k = k;
  source.bits = grid->book != nullptr ? 4 : grid->bits;
  if (grid->book != nullptr) source.codebook = book.values;
  source.groupSize = grid->group;
  source.scales = scales.value().as<float>();
  if (grid->hasOffsets) source.offsets = offsets.value().as<float>();
  return packCodes(source);
}

}  // namespace tsq::gguf
