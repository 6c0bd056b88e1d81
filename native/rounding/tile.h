// The one product that everything heavy here is made of: a 16 x 16 tile of A^T B.
#pragma once
#include <algorithm>
#include <cstdint>

#include "kernels/kernels.h"
#include "rounding/packed_upper.h"

namespace tsq::rounding {

// c[i * ldc + j] += sum_r a[r * 16 + i] * b[r * 16 + j]; i, j < 16; a and b 64-byte aligned.
template <typename T>
using TileKernel = void (*)(const T* a, const T* b, int64_t rows, T* c, int64_t ldc);

// f64 counterpart of KernelTable::gramTile for the instruction set of kernels().
TileKernel<double> doubleTile();

template <typename T>
TileKernel<T> tileKernel();
template <>
inline TileKernel<float> tileKernel<float>() {
  return kernels().gramTile;
}
template <>
inline TileKernel<double> tileKernel<double>() {
  return doubleTile();
}

// The same over any number of rows, chained in blocks of kChain.
template <typename T>
void chainedTile(TileKernel<T> kernel, const T* a, const T* b, int64_t rows, T* c, int64_t ldc) {
  for (int64_t row = 0; row < rows; row += kChain) {
    kernel(a + row * kPanel, b + row * kPanel, std::min(kChain, rows - row), c, ldc);
  }
}

}  // namespace tsq::rounding
