#include "rounding/inverse_factor.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

#include "rounding/cholesky.h"

namespace tsq::rounding {
namespace {

constexpr int64_t kDoubleLimit = 4096;  // f64 at k = 4096: 67 MB of factor, under a second on two cores
// Past a damping of 1 the diagonal is raised in these steps; 10 is ten times the mean.
constexpr double kFloors[] = {2, 5, 10};

std::string percent(double share) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", share);
  return text;
}

// The damped Hessian in reversed visit order (see invertReversed), in units of its mean diagonal, averaged with its
// transpose.
template <typename T>
void build(const Hessian& hessian, const std::vector<double>& diagonal, double mean,
           const std::vector<int32_t>& columns, double damp, PackedUpper<T>* out) {
  const int64_t k = hessian.k();
  const float* h = hessian.data();
  const double unit = 1 / mean;
  ThreadPool::instance().run(out->panels(), [&](int64_t p, int) {
    T* panel = out->panel(p);
    const int64_t width = std::min(kPanel, k - p * kPanel);
    int64_t column[kPanel] = {};
    bool dead[kPanel] = {};
    for (int64_t i = 0; i < width; ++i) {
      column[i] = columns[static_cast<size_t>(k - 1 - (p * kPanel + i))];
      dead[i] = !(diagonal[static_cast<size_t>(column[i])] > 0);
    }
    for (int64_t r = 0; r < std::min(k, (p + 1) * kPanel); ++r) {
      const int64_t row = columns[static_cast<size_t>(k - 1 - r)];
      const bool deadRow = !(diagonal[static_cast<size_t>(row)] > 0);
      for (int64_t i = 0; i < width; ++i) {
        const int64_t c = p * kPanel + i;
        double value = 0;
        if (c == r) {
          value = (deadRow ? 1 : diagonal[static_cast<size_t>(row)] * unit) + damp;
        } else if (!deadRow && !dead[i]) {
          value =
              0.5 * (static_cast<double>(h[row * k + column[i]]) + static_cast<double>(h[column[i] * k + row])) * unit;
        }
        panel[r * kPanel + i] = static_cast<T>(value);
      }
    }
  });
}

// Dampings to try: damp, then + step, + 2 step, + 4 step … up to 1, then the floors.
std::vector<double> ladder(double damp, double step) {
  double share = damp >= 0 && damp <= kFloors[2] ? damp : 0.01;
  std::vector<double> tries{share};
  for (double rise = step > 0 && step <= 1 ? step : 0.01; share + rise < 1; rise *= 2) tries.push_back(share += rise);
  if (share < 1) tries.push_back(1);
  for (double floor : kFloors) {
    if (floor > share) tries.push_back(floor);
  }
  return tries;
}

// One attempt. The result holds what the last one made.
template <typename T>
Result<bool> attempt(const Hessian& hessian, const std::vector<double>& diagonal, double mean,
                     const std::vector<int32_t>& columns, double share, AbortFlag abort, PackedUpper<T>* matrix,
                     PackedUpper<float>* u) {
  build(hessian, diagonal, mean, columns, share, matrix);
  const int64_t failed = choleskyUpper(matrix, abort);
  if (failed == -2) return Status(Code::kAborted, "gptq: aborted");
  if (failed >= 0) return false;
  Result<PackedUpper<float>> inverse = PackedUpper<float>::create(hessian.k());
  if (!inverse.ok()) return inverse.status();
  bool outOfMemory = false;
  if (!invertReversed(*matrix, &inverse.value(), abort, &outOfMemory)) {
    if (!outOfMemory) return Status(Code::kAborted, "gptq: aborted");
    return Status(Code::kMemory,
                  "gptq: could not allocate scratch for the inverse factor; use fewer threads or free memory");
  }
  *u = std::move(inverse.value());
  for (int64_t i = 0; i < hessian.k(); ++i) {
    if (!std::isfinite(u->at(i, i)) || !(u->at(i, i) > 0)) return false;
  }
  return true;
}

template <typename T>
Status factor(const Hessian& hessian, const std::vector<double>& diagonal, double mean,
              const std::vector<int32_t>& columns, double damp, double dampStep, AbortFlag abort,
              InverseFactor* result) {
  Result<PackedUpper<T>> matrix = PackedUpper<T>::create(hessian.k());
  if (!matrix.ok()) return matrix.status();
  Result<FactorOutcome> outcome = dampUntilDefinite(damp, dampStep, [&](double share) {
    return attempt(hessian, diagonal, mean, columns, share, abort, &matrix.value(), &result->u);
  });
  if (!outcome.ok()) return outcome.status();
  static_cast<FactorOutcome&>(*result) = std::move(outcome.value());
  return {};
}

}  // namespace

Result<FactorOutcome> dampUntilDefinite(double damp, double dampStep,
                                        const std::function<Result<bool>(double share)>& attempt) {
  FactorOutcome outcome;
  for (double share : ladder(damp, dampStep)) {
    const Result<bool> definite = attempt(share);
    if (!definite.ok()) return definite.status();
    if (!definite.value()) continue;
    outcome.usable = true;
    outcome.damp = share;
    outcome.degraded = share > 1 && share > damp;
    if (outcome.degraded) {
      outcome.note = "the Hessian is not positive definite with damp up to 1; its diagonal was raised by " +
                     percent(share) + " times the mean (more calibration rows help)";
    } else if (share > damp) {
      outcome.note =
          "damp raised from " + percent(damp) + " to " + percent(share) + " to make the Hessian positive definite";
    }
    return outcome;
  }
  outcome.degraded = true;
  outcome.note = "the Hessian is indefinite even with ten times its mean diagonal added";
  return outcome;
}

double meanDiagonal(const std::vector<double>& diagonal) {
  double sum = 0;
  int64_t live = 0;
  for (double value : diagonal) {
    if (value > 0) {
      sum += value;
      ++live;
    }
  }
  return live > 0 ? sum / static_cast<double>(live) : 1;
}

Result<InverseFactor> factorInverse(const Hessian& hessian, const std::vector<double>& diagonal,
                                    const std::vector<int32_t>& columns, double damp, double dampStep,
                                    AbortFlag abort) {
  InverseFactor result;
  const double mean = meanDiagonal(diagonal);
  if (hessian.k() <= kDoubleLimit) {
    const Status status = factor<double>(hessian, diagonal, mean, columns, damp, dampStep, abort, &result);
    // Half the memory may still be had.
    if (status.code() != Code::kMemory) {
      if (!status.ok()) return status;
      return result;
    }
  }
  TSQ_RETURN_IF_ERROR(factor<float>(hessian, diagonal, mean, columns, damp, dampStep, abort, &result));
  return result;
}

}  // namespace tsq::rounding
