// The factor of the inverse Hessian in the emulation, against float64 and beside the CPU's.
#include "calibration_run.h"

using namespace calibration_test;  // NOLINT

namespace {

// Uᵀ U times the damped Hessian in visit order, in float64: the largest distance from the identity.
double distanceFromIdentity(const tsq::Hessian& hessian, const std::vector<int32_t>& order, double damp,
                            const std::vector<float>& u) {
  const int64_t k = hessian.k();
  const std::vector<double> diagonal = diagonalOf(hessian);
  const double unit = 1 / tsq::rounding::meanDiagonal(diagonal);
  const auto damped = [&](int64_t i, int64_t j) {
    const auto a = static_cast<size_t>(order[static_cast<size_t>(i)]),
               b = static_cast<size_t>(order[static_cast<size_t>(j)]);
    if (i == j) return (diagonal[a] > 0 ? diagonal[a] * unit : 1.0) + damp;
    if (!(diagonal[a] > 0) || !(diagonal[b] > 0)) return 0.0;
    return static_cast<double>(hessian.data()[static_cast<int64_t>(a) * k + static_cast<int64_t>(b)]) * unit;
  };
  double worst = 0;
  std::vector<double> uh(static_cast<size_t>(k));
  for (int64_t column = 0; column < k; ++column) {
    for (int64_t i = 0; i < k; ++i) {
      uh[static_cast<size_t>(i)] = 0;
      for (int64_t q = i; q < k; ++q)
        uh[static_cast<size_t>(i)] += static_cast<double>(u[static_cast<size_t>(i * k + q)]) * damped(q, column);
    }
    for (int64_t row = 0; row < k; ++row) {
      double sum = row == column ? -1.0 : 0.0;
      for (int64_t i = 0; i <= row; ++i)
        sum += static_cast<double>(u[static_cast<size_t>(i * k + row)]) * uh[static_cast<size_t>(i)];
      worst = std::max(worst, std::abs(sum));
    }
  }
  return worst;
}

}  // namespace

SLOW_TEST(calibration_factor_is_that_of_the_inverse) {
  Random random(3);
  for (const auto& [k, rows] :
       {std::pair<int64_t, int64_t>{1, 3}, {7, 20}, {64, 200}, {65, 30}, {150, 400}, {193, 60}}) {
    const auto hessian = hessianOf(activations(random, rows, k, k > 5 ? 3 : -1), k);
    const std::vector<int32_t> order = shuffled(random, k);
    const Factored found = factor(random, *hessian, order, 0.01);
    if (!CHECK(found.u.size() == static_cast<size_t>(k * k))) return;
    CHECK(found.failed == -1 && found.odd == 0);
    const double distance = distanceFromIdentity(*hessian, order, 0.01, found.u);
    CHECK_MSG(distance < 1e-4, "k=" + std::to_string(k) + ": " + std::to_string(distance));
    // The CPU's, which is float64 too and rounds what comes out.
    const auto cpu = tsq::rounding::factorInverse(*hessian, diagonalOf(*hessian), order, 0.01, 0.01, tsq::AbortFlag());
    if (!CHECK(cpu.ok() && cpu.value().usable)) return;
    double worst = 0;
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        const float want = j < i ? 0.0f : cpu.value().u.at(i, j);
        worst = std::max(worst, std::abs(static_cast<double>(found.u[static_cast<size_t>(i * k + j)] - want)) /
                                    static_cast<double>(cpu.value().u.at(i, i)));
      }
    }
    CHECK_MSG(worst < 2e-7, "k=" + std::to_string(k) + ": " + std::to_string(worst * 1e9) + "e-9 from the CPU's");
  }
}

TEST(calibration_factor_tells_where_there_is_none) {
  Random random(4);
  const int64_t k = 140;
  // Of rank 20: without damping no pivot is left after that many.
  const auto singular = hessianOf(activations(random, 20, k), k);
  std::vector<int32_t> order(static_cast<size_t>(k));
  std::iota(order.begin(), order.end(), 0);
  const Factored none = factor(random, *singular, order, 0);
  CHECK_MSG(none.failed >= 20 && none.failed < 30, "failed at " + std::to_string(none.failed));
  const Factored damped = factor(random, *singular, order, 0.01);
  CHECK(damped.failed == -1 && damped.odd == 0);
  CHECK(distanceFromIdentity(*singular, order, 0.01, damped.u) < 1e-3);
}
