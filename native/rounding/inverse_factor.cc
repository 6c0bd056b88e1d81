#include "rounding/inverse_factor.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

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

template <typename T>
Status factor(const Hessian& hessian, const std::vector<double>& diagonal, double mean,
              const std::vector<int32_t>& columns, double damp, double dampStep, AbortFlag abort,
              InverseFactor* result) {
  Result<PackedUpper<T>> matrix = PackedUpper<T>::create(hessian.k());
  if (!matrix.ok()) return matrix.status();
  for (double share : ladder(damp, dampStep)) {
    build(hessian, diagonal, mean, columns, share, &matrix.value());
    const int64_t failed = choleskyUpper(&matrix.value(), abort);
    if (failed == -2) return {Code::kAborted, "gptq: aborted"};
    if (failed >= 0) continue;
    Result<PackedUpper<float>> u = PackedUpper<float>::create(hessian.k());
    if (!u.ok()) return u.status();
    bool outOfMemory = false;
    if (!invertReversed(matrix.value(), &u.value(), abort, &outOfMemory)) {
      if (outOfMemory)
        return {Code::kMemory,
                "gptq: could not allocate scratch for the inverse factor; use fewer threads or free memory"};
      return {Code::kAborted, "gptq: aborted"};
    }
    bool finite = true;
    for (int64_t i = 0; i < hessian.k(); ++i) {
      const float pivot = u.value().at(i, i);
      finite = finite && std::isfinite(pivot) && pivot > 0;
    }
    if (!finite) continue;
    result->usable = true;
    result->damp = share;
    result->degraded = share > 1 && share > damp;
    if (result->degraded) {
      result->note = "the Hessian is not positive definite with damp up to 1; its diagonal was raised by " +
                     percent(share) + " times the mean (more calibration rows help)";
    } else if (share > damp) {
      result->note =
          "damp raised from " + percent(damp) + " to " + percent(share) + " to make the Hessian positive definite";
    }
    result->u = std::move(u.value());
    return {};
  }
  result->degraded = true;
  result->note = "the Hessian is indefinite even with ten times its mean diagonal added";
  return {};
}

}  // namespace

Result<InverseFactor> factorInverse(const Hessian& hessian, const std::vector<double>& diagonal,
                                    const std::vector<int32_t>& columns, double damp, double dampStep,
                                    AbortFlag abort) {
  InverseFactor result;
  double sum = 0;
  int64_t live = 0;
  for (double value : diagonal) {
    if (value > 0) {
      sum += value;
      ++live;
    }
  }
  const double mean = live > 0 ? sum / static_cast<double>(live) : 1;
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
