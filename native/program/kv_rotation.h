// Hadamard rotation of one head's keys, values or queries. It spreads what a few columns hold over all of them, so that
// one scale fits them better (QuaRot, Ashkboos et al. 2024, section 4), and q . k stays what it is: the matrix is
// orthogonal, symmetric, and so its own inverse.
#pragma once
#include <cmath>
#include <cstdint>

namespace tsq {

// Columns that are rotated together: the largest power of two that divides the head dimension (96 = 3 x 32).
constexpr int64_t rotationBlock(int64_t headDim) {
  return headDim & -headDim;
}

// x [headDim], in place: fast Walsh-Hadamard transform of every block, divided by sqrt(block).
inline void rotateHead(float* x, int64_t headDim) {
  const int64_t block = rotationBlock(headDim);
  for (int64_t half = 1; half < block; half *= 2) {
    for (int64_t begin = 0; begin < headDim; begin += 2 * half) {
      float* low = x + begin;
      float* high = low + half;
      for (int64_t i = 0; i < half; ++i) {
        const float a = low[i], b = high[i];
        low[i] = a + b;
        high[i] = a - b;
      }
    }
  }
  const float unit = 1.0f / std::sqrt(static_cast<float>(block));
  for (int64_t i = 0; i < headDim; ++i) x[i] *= unit;
}

}  // namespace tsq
