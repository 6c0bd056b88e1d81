// Second moments in the emulation, against float64.
#include "calibration_run.h"

using namespace calibration_test;  // NOLINT

namespace {

constexpr double kUnit = 0x1p-24;  // half a unit in the last place of 1 in f32

template <Type kType>
std::vector<uint16_t> halves(const std::vector<float>& values) {
  std::vector<uint16_t> bits;
  for (const float value : values) bits.push_back(fromFloat<kType>(value));
  return bits;
}

// Two batches of rows, of which those of the second lie apart, against float64.
void checkHessian(Random& random, Rows type, int64_t k, int64_t rows, int64_t gap) {
  const std::string what = "k=" + std::to_string(k) + " rows=" + std::to_string(rows) + " gap=" + std::to_string(gap) +
                           " type=" + std::to_string(static_cast<int>(type));
  const Emulated run{schedule(random)};
  Buffer<float> h("h", std::vector<float>(static_cast<size_t>(k * k)));
  std::vector<double> want(static_cast<size_t>(k * k)), size(static_cast<size_t>(k * k));
  for (int batch = 0; batch < 2; ++batch) {
    const int64_t count = batch == 0 ? rows : rows / 2 + 1, stride = k + (batch == 0 ? 0 : gap);
    std::vector<float> x = random.floats(count * stride);
    const auto bits = type == Rows::kF16 ? halves<Type::kF16>(x) : halves<Type::kBF16>(x);
    for (size_t i = 0; i < x.size() && type != Rows::kF32; ++i) {
      x[i] = type == Rows::kF16 ? toFloat<Type::kF16>(bits[i]) : toFloat<Type::kBF16>(bits[i]);
    }
    Buffer<float> wide("x", x);
    Buffer<uint16_t> narrow("x of 16 bits", bits);
    const void* from = type == Rows::kF32 ? static_cast<const void*>(&wide[0]) : &narrow[0];
    const int64_t together = type == Rows::kF32 ? 4 : 8;
    const bool aligned = k % together == 0 && stride % together == 0;
    if (addRows(run, type, {{from}, count, stride, k, h.global(), aligned}) != 0) return;
    for (int64_t row = 0; row < count; ++row) {
      for (int64_t i = 0; i < k; ++i) {
        for (int64_t j = 0; j < k; ++j) {
          const double term = static_cast<double>(x[static_cast<size_t>(row * stride + i)]) *
                              static_cast<double>(x[static_cast<size_t>(row * stride + j)]);
          want[static_cast<size_t>(i * k + j)] += term;
          size[static_cast<size_t>(i * k + j)] += std::abs(term);
        }
      }
    }
  }
  if (completeHessian(run, {h.global(), k}) != 0) return;
  double worst = 0;
  bool symmetric = true;
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      const auto at = static_cast<size_t>(i * k + j);
      // A chain of 256 terms at most, and of the sums of chains.
      const double bound = (std::min<double>(static_cast<double>(rows), 256) + 8) * kUnit * size[at];
      worst = std::max(worst, std::abs(static_cast<double>(h[at]) - want[at]) / bound);
      symmetric = symmetric && h[at] == h[static_cast<size_t>(j * k + i)];
    }
  }
  CHECK_MSG(worst <= 1, what + ": " + std::to_string(worst) + " of the bound");
  CHECK_MSG(symmetric, what + ": symmetric");
}

}  // namespace

TEST(calibration_hessian_is_that_of_float64) {
  Random random(1);
  for (const Rows type : {Rows::kF32, Rows::kF16, Rows::kBF16}) {
    checkHessian(random, type, 1, 1, 0);
    checkHessian(random, type, 5, 3, 1);
    checkHessian(random, type, 64, 40, 8);
    checkHessian(random, type, 133, 70, 3);
    checkHessian(random, type, 136, 33, 0);
    for (int i = 0; i < 3; ++i) {
      checkHessian(random, type, 1 + random.below(150), 1 + random.below(90), random.below(9));
    }
  }
  checkHessian(random, Rows::kF32, 20, 700, 4);
  checkHessian(random, Rows::kF16, 24, 2500, 0);
}

TEST(calibration_hessian_does_not_depend_on_the_schedule) {
  Random random(2);
  const int64_t k = 150, rows = 300;
  Buffer<float> x("x", random.floats(rows * k));
  std::vector<float> first;
  for (int i = 0; i < 3; ++i) {
    Buffer<float> h("h", std::vector<float>(static_cast<size_t>(k * k)));
    const Emulated run{schedule(random)};
    if (addRows(run, Rows::kF32, {{&x[0]}, rows, k, k, h.global(), false}) != 0) return;
    if (completeHessian(run, {h.global(), k}) != 0) return;
    const std::vector<float> found(h.values().begin(), h.values().end());
    if (i == 0) first = found;
    CHECK(found == first);
  }
}
