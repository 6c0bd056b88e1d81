// Sixteen rows to [column][16]: what packing does with words, bfloats and scales alike. Plain vectors of the baseline
// processor: packing is bound by memory. Include in packing files only.
#pragma once
#include <cstdint>
#include <cstring>

#include "layout/packed.h"

namespace tsq {
namespace {

using FourWords = uint32_t __attribute__((vector_size(16)));
using EightShorts = uint16_t __attribute__((vector_size(16)));

// Rows 0 … kCount - 1 of a square block, `stride` bytes apart, to kCount columns 16 elements apart.
TSQ_INLINE void transpose(const uint8_t* rows, int64_t stride, uint32_t* out) {
  FourWords a, b, c, d;
  std::memcpy(&a, rows, 16);
  std::memcpy(&b, rows + stride, 16);
  std::memcpy(&c, rows + 2 * stride, 16);
  std::memcpy(&d, rows + 3 * stride, 16);
  const FourWords ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const FourWords ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7), cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  const FourWords columns[4] = {
      __builtin_shufflevector(ab, cd, 0, 1, 4, 5), __builtin_shufflevector(ab, cd, 2, 3, 6, 7),
      __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5), __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7)};
  for (int i = 0; i < 4; ++i) std::memcpy(out + i * layout::kPanel, &columns[i], 16);
}

TSQ_INLINE void transpose(const uint8_t* rows, int64_t stride, uint16_t* out) {
  EightShorts a[8], b[8];
  for (int i = 0; i < 8; ++i) std::memcpy(&a[i], rows + i * stride, 16);
  // Three rounds of interleaving row i with row i + 4.
  const auto round = [](const EightShorts* from, EightShorts* to) {
    for (int i = 0; i < 4; ++i) {
      to[2 * i] = __builtin_shufflevector(from[i], from[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
      to[2 * i + 1] = __builtin_shufflevector(from[i], from[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
    }
  };
  round(a, b);
  round(b, a);
  round(a, b);
  for (int i = 0; i < 8; ++i) std::memcpy(out + i * layout::kPanel, &b[i], 16);
}

// out[column * 16 + row] of 16 rows that lie `stride` bytes apart, any alignment. T: 16 or 32 bits.
template <typename T>
void interleave(const void* source, int64_t stride, int64_t columns, T* out) {
  constexpr int64_t kBlock = 16 / sizeof(T), kLine = 64 / sizeof(T);
  const uint8_t* rows = static_cast<const uint8_t*>(source);
  int64_t column = 0;
  // A cache line of each of kBlock rows at a time: rows of a power-of-two width share few cache sets.
  for (; column + kLine <= columns; column += kLine) {
    for (int64_t row = 0; row < layout::kPanel; row += kBlock) {
      for (int64_t i = column; i < column + kLine; i += kBlock) {
        transpose(rows + row * stride + i * static_cast<int64_t>(sizeof(T)), stride, out + i * layout::kPanel + row);
      }
    }
  }
  for (; column < columns; ++column) {
    for (int64_t row = 0; row < layout::kPanel; ++row) {
      std::memcpy(out + column * layout::kPanel + row, rows + row * stride + column * static_cast<int64_t>(sizeof(T)),
                  sizeof(T));
    }
  }
}

}  // namespace
}  // namespace tsq
