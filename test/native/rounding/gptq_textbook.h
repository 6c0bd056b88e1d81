// What references of GPTQ in float64 share: the factor of the inverse Hessian by the plain route, and the order of
// columns.
#pragma once
#include <algorithm>
#include <numeric>

#include "rounding_test.h"

namespace rounding_test {

using tsq::ActOrder;
using Matrix = std::vector<std::vector<double>>;

// Inverse by Gauss-Jordan with pivoting, then its upper Cholesky factor: the route of the paper's code.
inline Matrix inverseFactor(Matrix a) {
  const size_t k = a.size();
  Matrix inverse(k, std::vector<double>(k, 0));
  for (size_t i = 0; i < k; ++i) inverse[i][i] = 1;
  for (size_t c = 0; c < k; ++c) {
    size_t pivot = c;
    for (size_t r = c; r < k; ++r) {
      if (std::abs(a[r][c]) > std::abs(a[pivot][c])) pivot = r;
    }
    std::swap(a[c], a[pivot]);
    std::swap(inverse[c], inverse[pivot]);
    const double scale = 1 / a[c][c];
    for (size_t j = 0; j < k; ++j) {
      a[c][j] *= scale;
      inverse[c][j] *= scale;
    }
    for (size_t r = 0; r < k; ++r) {
      if (r == c) continue;
      const double factor = a[r][c];
      for (size_t j = 0; j < k; ++j) {
        a[r][j] -= factor * a[c][j];
        inverse[r][j] -= factor * inverse[c][j];
      }
    }
  }
  Matrix u(k, std::vector<double>(k, 0));
  for (size_t i = 0; i < k; ++i) {
    for (size_t j = i; j < k; ++j) {
      double sum = inverse[i][j];
      for (size_t r = 0; r < i; ++r) sum -= u[r][i] * u[r][j];
      u[i][j] = i == j ? std::sqrt(sum) : sum / u[i][i];
    }
  }
  return u;
}

inline std::vector<int64_t> order(ActOrder kind, const Hessian& h, int64_t groupSize) {
  const int64_t k = h.k();
  std::vector<int64_t> columns(static_cast<size_t>(k));
  std::iota(columns.begin(), columns.end(), 0);
  const auto diagonal = [&](int64_t c) { return static_cast<double>(h.data()[c * k + c]); };
  if (kind == ActOrder::kStatic || kind == ActOrder::kDynamic) {
    std::stable_sort(columns.begin(), columns.end(), [&](int64_t a, int64_t b) { return diagonal(a) > diagonal(b); });
  }
  if (kind == ActOrder::kGroupAware) {
    const auto sum = [&](int64_t g) {
      double total = 0;
      for (int64_t c = g * groupSize; c < std::min(k, (g + 1) * groupSize); ++c) total += diagonal(c);
      return total;
    };
    std::stable_sort(columns.begin(), columns.end(), [&](int64_t a, int64_t b) {
      if (a / groupSize != b / groupSize) return sum(a / groupSize) > sum(b / groupSize);
      return diagonal(a) > diagonal(b);
    });
  }
  return columns;
}

}  // namespace rounding_test
