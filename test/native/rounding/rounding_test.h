// What the rounding tests share: random matrices, a Hessian from activations, float64 references.
#pragma once
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "rounding/rounding.h"

namespace rounding_test {

using tsq::AbortFlag;
using tsq::GridSpec;
using tsq::Hessian;
using tsq::RoundedWeight;
using tsq::SearchSpec;

inline std::vector<float> gaussian(int64_t count, uint32_t seed, float scale = 1.f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.f, scale);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

// Activations whose columns are correlated and of very different size, as those of a transformer are.
inline std::vector<float> activations(int64_t rows, int64_t k, uint32_t seed) {
  std::vector<float> x = gaussian(rows * k, seed);
  std::mt19937 random(seed + 1);
  std::uniform_real_distribution<float> uniform(-1.5f, 1.5f);
  std::vector<float> size(static_cast<size_t>(k));
  for (float& value : size) value = std::exp(uniform(random));
  for (int64_t r = 0; r < rows; ++r) {
    float* row = x.data() + r * k;
    for (int64_t c = 1; c < k; ++c) row[c] = 0.7f * row[c - 1] + 0.7f * row[c];
    for (int64_t c = 0; c < k; ++c) row[c] *= size[static_cast<size_t>(c)];
  }
  return x;
}

inline std::unique_ptr<Hessian> hessianOf(const std::vector<float>& x, int64_t rows, int64_t k) {
  std::unique_ptr<Hessian> hessian = std::move(Hessian::create(k).value());
  CHECK(hessian->accumulate(x.data(), k, rows).ok());
  hessian->finish();
  return hessian;
}

// Codes, scales and zeros with their memory.
struct Rounded {
  std::vector<uint8_t> codes, zeros;
  std::vector<float> scales;
  int64_t groups;
  bool symmetric;
  Rounded(int64_t n, int64_t k, const GridSpec& grid)
      : codes(static_cast<size_t>(n * k), 255),
        groups((k + grid.groupSize - 1) / grid.groupSize),
        symmetric(grid.symmetric) {
    scales.assign(static_cast<size_t>(n * groups), -1.f);
    zeros.assign(static_cast<size_t>(symmetric ? 0 : n * groups), 255);
  }
  RoundedWeight out() { return {codes.data(), scales.data(), symmetric ? nullptr : zeros.data()}; }
  bool operator==(const Rounded& other) const {
    return codes == other.codes && zeros == other.zeros && scales.size() == other.scales.size() &&
           std::memcmp(scales.data(), other.scales.data(), scales.size() * sizeof(float)) == 0;
  }
  std::vector<float> dequantize(int64_t n, int64_t k, const GridSpec& grid, const int32_t* groupIndex = nullptr) const {
    std::vector<float> w(static_cast<size_t>(n * k));
    tsq::dequantizeCodes(codes.data(), scales.data(), symmetric ? nullptr : zeros.data(), n, k, grid.bits,
                         grid.groupSize, groupIndex, w.data());
    return w;
  }
  bool sane(const GridSpec& grid) const {
    bool good = true;
    for (uint8_t code : codes) good = good && code < 1 << grid.bits;
    for (uint8_t zero : zeros) good = good && zero < 1 << grid.bits && zero >= grid.minZero;
    for (float scale : scales) good = good && std::isfinite(scale) && scale >= std::numeric_limits<float>::min();
    return good;
  }
};

// sum over rows of d^T H d / rows in float64.
inline double referenceError(const std::vector<float>& w, const std::vector<float>& approx, int64_t n, int64_t k,
                             const Hessian& hessian) {
  double total = 0;
  std::vector<double> d(static_cast<size_t>(k));
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t c = 0; c < k; ++c) {
      d[static_cast<size_t>(c)] = static_cast<double>(w[static_cast<size_t>(r * k + c)]) -
                                  static_cast<double>(approx[static_cast<size_t>(r * k + c)]);
    }
    for (int64_t i = 0; i < k; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < k; ++j) sum += static_cast<double>(hessian.data()[i * k + j]) * d[static_cast<size_t>(j)];
      total += sum * d[static_cast<size_t>(i)];
    }
  }
  return total / hessian.rows();
}

inline std::string describe(int64_t n, int64_t k, const GridSpec& grid) {
  return "n=" + std::to_string(n) + " k=" + std::to_string(k) + " bits=" + std::to_string(grid.bits) +
         (grid.symmetric ? " sym" : " asym") + " g=" + std::to_string(grid.groupSize) +
         (grid.perTensor ? " tensor" : "") + " scaleType=" + std::to_string(static_cast<int>(grid.scaleType));
}

}  // namespace rounding_test
