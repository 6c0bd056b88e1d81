// Random layers for the tests of calibration, in the emulation and on devices.
#pragma once
#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "rounding/rounding.h"

namespace calibration_test {

struct Random {
  explicit Random(unsigned seed) : engine(seed) {}
  int below(int count) { return static_cast<int>(engine() % static_cast<unsigned>(count)); }
  float uniform(float low, float high) { return std::uniform_real_distribution<float>(low, high)(engine); }
  std::vector<float> floats(int64_t count, float scale = 1) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = uniform(-scale, scale);
    return values;
  }
  std::mt19937 engine;
};

// Activations whose columns are of different sizes and depend on each other; column `dead` is 0 where it exists.
inline std::vector<float> activations(Random& random, int64_t rows, int64_t k, int64_t dead = -1) {
  std::vector<float> x = random.floats(rows * k);
  for (int64_t row = 0; row < rows; ++row) {
    float* line = x.data() + row * k;
    for (int64_t c = 1; c < k; ++c) line[c] += 0.7f * line[c - 1];
    for (int64_t c = 0; c < k; ++c) line[c] *= 0.2f + 3 * static_cast<float>((c * 37) % 11) / 11;
    if (dead >= 0 && dead < k) line[dead] = 0;
  }
  return x;
}

inline std::unique_ptr<tsq::Hessian> hessianOf(const std::vector<float>& x, int64_t k) {
  auto made = tsq::Hessian::create(k);
  std::unique_ptr<tsq::Hessian> hessian = std::move(made.value());
  CHECK(hessian->accumulate(x.data(), k, static_cast<int64_t>(x.size()) / k).ok());
  hessian->finish();
  return hessian;
}

struct Grids {
  tsq::GridSpec spec;
  tsq::SearchSpec search;
  bool clip = false, importance = false;
};

inline Grids randomGrid(Random& random, int64_t k) {
  Grids made;
  made.spec.bits = 2 + random.below(7);
  made.spec.symmetric = random.below(2) == 0;
  const int64_t sizes[] = {1, 16, 32, 33, 64, 128, k};
  made.spec.groupSize = std::min(k, sizes[random.below(7)]);
  made.spec.scaleType = static_cast<tsq::Dtype>(random.below(3));
  made.spec.minZero = made.spec.symmetric ? 0 : random.below(2);
  made.search.enabled = random.below(2) == 0;
  made.search.steps = 1 + random.below(40);
  made.search.norm = random.below(2) == 0 ? 2 : 2.4;
  made.importance = made.search.enabled && random.below(2) == 0;
  made.clip = random.below(3) == 0;
  return made;
}

inline std::string describe(const Grids& g, int64_t n, int64_t k) {
  return "n=" + std::to_string(n) + " k=" + std::to_string(k) + " bits=" + std::to_string(g.spec.bits) +
         " group=" + std::to_string(g.spec.groupSize) + (g.spec.symmetric ? "" : " zeros") +
         " type=" + std::to_string(static_cast<int>(g.spec.scaleType)) +
         (g.search.enabled ? " search=" + std::to_string(g.search.steps) : "") + (g.clip ? " clip" : "") +
         (g.importance ? " importance" : "");
}

}  // namespace calibration_test
