// Calibration's kernels run in the emulation, and what several of their tests need.
#pragma once
#include <cmath>
#include <numeric>

#include "calibration_data.h"
#include "cuda/calibration/steps.cuh"
#include "cuda/emulation/buffer.h"
#include "rounding/inverse_factor.h"
#include "rounding/lanes.h"

namespace calibration_test {

using namespace tsq::cuda;               // NOLINT: the vocabulary of kernels
using namespace tsq::cuda::calibration;  // NOLINT
using tsq::emulation::Buffer;
using tsq::emulation::Copies;
using tsq::emulation::Launch;
using tsq::emulation::Order;

inline Launch schedule(Random& random) {
  Launch how;
  how.order = static_cast<Order>(random.below(3));
  how.copies = static_cast<Copies>(random.below(2));
  how.seed = random.engine();
  how.residentBlocks = 1 + random.below(4);
  return how;
}

// Runs steps under a schedule; a finding ends them and fails the test.
struct Emulated {
  Launch how;
  template <typename Kernel, typename Parameters>
  int operator()(Kernel kernel, int64_t blocks, size_t sharedBytes, const Parameters& parameters) const {
    Launch launched = how;
    launched.blocks = static_cast<int>(blocks);
    launched.threads = kThreads;
    launched.sharedBytes = sharedBytes;
    const auto outcome = tsq::emulation::launch(launched, +kernel, parameters);
    return CHECK_MSG(outcome.ok(), outcome.error) ? 0 : 1;
  }
};

inline std::vector<float> elements(const tsq::Hessian& hessian) {
  return {hessian.data(), hessian.data() + hessian.k() * hessian.k()};
}

inline std::vector<double> diagonalOf(const tsq::Hessian& hessian) {
  std::vector<double> diagonal;
  for (int64_t i = 0; i < hessian.k(); ++i) diagonal.push_back(hessian.data()[i * (hessian.k() + 1)]);
  return diagonal;
}

struct Factored {
  std::vector<float> u;
  int failed = -1, odd = 0;
};

inline Factored factor(Random& random, const tsq::Hessian& hessian, const std::vector<int32_t>& order, double damp) {
  const int64_t k = hessian.k();
  const std::vector<double> diagonal = diagonalOf(hessian);
  Buffer<float> h("h", elements(hessian)), u("u", static_cast<size_t>(k * k));
  Buffer<int32_t> columns("columns", order), failed("failed", 2);
  Buffer<double> a("a", static_cast<size_t>(paddedSize(k) * paddedSize(k))), inverses("inverses", 64 * 64);
  Buffer<double> smallest("smallest", static_cast<size_t>(paddedSize(k)));
  const Factor p{k,
                 h.global<const float>(),
                 columns.global<const int32_t>(),
                 a.global(),
                 inverses.global(),
                 smallest.global(),
                 u.global(),
                 failed.global(),
                 1 / tsq::rounding::meanDiagonal(diagonal),
                 damp,
                 0x1p-52 * std::sqrt(static_cast<double>(k)),
                 0};
  const Emulated run{schedule(random)};
  const int64_t steps = factorSteps(k), middle = steps / 2;
  if (middle > 0 && factorInverse(run, p, 0, middle) != 0) return {};
  if (factorInverse(run, p, middle, steps) != 0) return {};
  return {{u.values().begin(), u.values().end()}, failed[0], failed[1]};
}

inline std::vector<int32_t> shuffled(Random& random, int64_t k) {
  std::vector<int32_t> order(static_cast<size_t>(k));
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random.engine);
  return order;
}

}  // namespace calibration_test
