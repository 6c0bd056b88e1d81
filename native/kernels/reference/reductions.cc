// Sums and maxima, accumulated in double.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/reference/reference.h"

namespace tsq::reference {

void rmsnorm(const float* x, const float* weight, float* y, int64_t width, float eps, float offset) {
  double sum = 0;
  for (int64_t i = 0; i < width; ++i) sum += static_cast<double>(x[i]) * x[i];
  const double inverse = 1 / std::sqrt(sum / static_cast<double>(width) + eps);
  for (int64_t i = 0; i < width; ++i)
    y[i] = static_cast<float>(x[i] * inverse * (static_cast<double>(offset) + weight[i]));
}

void layernorm(const float* x, const float* weight, const float* bias, float* y, int64_t width, float eps) {
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < width; ++i) sum += x[i];
  const double mean = sum / static_cast<double>(width);
  for (int64_t i = 0; i < width; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const double inverse = 1 / std::sqrt(squares / static_cast<double>(width) + eps);
  for (int64_t i = 0; i < width; ++i)
    y[i] = static_cast<float>((x[i] - mean) * inverse * weight[i] + (bias == nullptr ? 0.0 : bias[i]));
}

float dot(const float* a, const float* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * b[i];
  return static_cast<float>(sum);
}

float maximum(const float* x, int64_t count) {
  float best = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < count; ++i) best = std::max(best, x[i]);
  return best;
}

double expSum(const float* x, float shift, float* y, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    y[i] = static_cast<float>(std::exp(static_cast<double>(x[i]) - shift));
    sum += y[i];
  }
  return sum;
}

void gramTile(const float* a, const float* b, int64_t rows, float* c, int64_t ldc) {
  for (int64_t i = 0; i < 16; ++i) {
    for (int64_t j = 0; j < 16; ++j) {
      double sum = 0;
      for (int64_t r = 0; r < rows; ++r) sum += static_cast<double>(a[r * 16 + i]) * b[r * 16 + j];
      c[i * ldc + j] = static_cast<float>(c[i * ldc + j] + sum);
    }
  }
}

void gramPair(const float* a, const float* b0, const float* b1, int64_t rows, float* c0, float* c1, int64_t ldc) {
  gramTile(a, b0, rows, c0, ldc);
  gramTile(a, b1, rows, c1, ldc);
}

void columnStats(const float* x, int64_t ld, int64_t rows, int64_t columns, float* sums, float* peaks) {
  for (int64_t j = 0; j < columns; ++j) {
    double sum = 0;
    float peak = 0;
    for (int64_t r = 0; r < rows; ++r) {
      sum += static_cast<double>(x[r * ld + j]) * x[r * ld + j];
      peak = std::max(peak, std::fabs(x[r * ld + j]));
    }
    if (sums != nullptr) sums[j] = static_cast<float>(sums[j] + sum);
    if (peaks != nullptr) peaks[j] = std::max(peaks[j], peak);
  }
}

}  // namespace tsq::reference
