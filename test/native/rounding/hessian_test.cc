// H = X^T X, the output error, and the factor of the inverse, against float64.
#include "kernels/kernels.h"
#include "rounding/cholesky.h"
#include "rounding/inverse_factor.h"
#include "rounding_test.h"
#include "runtime/thread_pool.h"

using namespace rounding_test;
using tsq::rounding::PackedUpper;

TEST(hessian_matches_float64_and_is_symmetric) {
  for (int64_t k : {1, 5, 16, 17, 64, 100, 203}) {
    const int64_t rows = 700, ld = k + 3;
    const std::vector<float> x = gaussian(rows * ld, static_cast<uint32_t>(k));
    std::unique_ptr<Hessian> hessian = std::move(Hessian::create(k).value());
    // In uneven pieces, with a finish in between.
    CHECK(hessian->accumulate(x.data(), ld, 1).ok());
    CHECK(hessian->accumulate(x.data() + ld, ld, 300).ok());
    hessian->finish();
    CHECK(hessian->accumulate(x.data() + 301 * ld, ld, 0).ok());
    CHECK(hessian->accumulate(x.data() + 301 * ld, ld, rows - 301).ok());
    hessian->finish();
    hessian->finish();
    CHECK(hessian->rows() == static_cast<double>(rows));
    double worst = 0;
    bool symmetric = true;
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        double sum = 0, size = 0;
        for (int64_t r = 0; r < rows; ++r) {
          const double product = static_cast<double>(x[static_cast<size_t>(r * ld + i)]) *
                                 static_cast<double>(x[static_cast<size_t>(r * ld + j)]);
          sum += product;
          size += std::abs(product);
        }
        worst = std::max(worst, std::abs(static_cast<double>(hessian->data()[i * k + j]) - sum) / size);
        symmetric = symmetric && hessian->data()[i * k + j] == hessian->data()[j * k + i];
      }
    }
    CHECK_MSG(worst < 2e-6, "k=" + std::to_string(k) + " relative error " + std::to_string(worst));
    CHECK(symmetric);
  }
}

TEST(hessian_refuses_bad_shapes) {
  CHECK(Hessian::create(0).status().code() == tsq::Code::kShape);
  CHECK(Hessian::create(-4).status().code() == tsq::Code::kShape);
  std::unique_ptr<Hessian> hessian = std::move(Hessian::create(8).value());
  const std::vector<float> x(64, 1.f);
  CHECK(hessian->accumulate(x.data(), 7, 2).code() == tsq::Code::kShape);
  CHECK(hessian->accumulate(x.data(), 8, -1).code() == tsq::Code::kShape);
  const std::vector<float> w(16, 1.f);
  CHECK(tsq::layerError(w.data(), w.data(), 2, 8, *hessian).status().code() == tsq::Code::kOption);  // no rows yet
  CHECK(hessian->accumulate(x.data(), 8, 8).ok());
  CHECK(tsq::layerError(w.data(), w.data(), 2, 4, *hessian).status().code() == tsq::Code::kShape);
}

TEST(layer_error_is_the_mean_squared_output_error) {
  for (int64_t k : {3, 16, 90, 301}) {
    const int64_t n = 41, rows = 500;
    const std::vector<float> x = activations(rows, k, 7);
    const std::unique_ptr<Hessian> hessian = hessianOf(x, rows, k);
    const std::vector<float> w = gaussian(n * k, 8), noise = gaussian(n * k, 9, 0.01f);
    std::vector<float> approx = w;
    for (size_t i = 0; i < approx.size(); ++i) approx[i] += noise[i];
    // From the outputs themselves.
    double direct = 0;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t o = 0; o < n; ++o) {
        double sum = 0;
        for (int64_t c = 0; c < k; ++c) {
          const size_t at = static_cast<size_t>(o * k + c);
          sum += (static_cast<double>(w[at]) - static_cast<double>(approx[at])) *
                 static_cast<double>(x[static_cast<size_t>(r * k + c)]);
        }
        direct += sum * sum / static_cast<double>(rows);
      }
    }
    const double got = tsq::layerError(w.data(), approx.data(), n, k, *hessian).value();
    CHECK_MSG(std::abs(got / direct - 1) < 1e-5, std::to_string(got) + " expected " + std::to_string(direct));
    CHECK(tsq::layerError(w.data(), w.data(), n, k, *hessian).value() == 0);
  }
}

namespace {

template <typename T>
void checkCholesky(int64_t k, double tolerance) {
  const int64_t rows = 2 * k + 40;
  const std::unique_ptr<Hessian> hessian = hessianOf(activations(rows, k, 21), rows, k);
  PackedUpper<T> matrix = std::move(PackedUpper<T>::create(k).value());
  // A in reversed order, as invertReversed wants it, and with garbage where it must not look.
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      const float value = hessian->data()[(k - 1 - i) * k + (k - 1 - j)];
      if (i <= j)
        matrix.at(i, j) = static_cast<T>(value);
      else if (i / 16 == j / 16)
        matrix.at(i, j) = std::numeric_limits<T>::quiet_NaN();
    }
  }
  CHECK(tsq::rounding::choleskyUpper(&matrix, AbortFlag()) == -1);
  double worst = 0;
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = i; j < k; ++j) {
      double sum = 0;
      for (int64_t r = 0; r <= i; ++r)
        sum += static_cast<double>(matrix.at(r, i)) * static_cast<double>(matrix.at(r, j));
      const double size = std::sqrt(static_cast<double>(hessian->data()[(k - 1 - i) * (k + 1)]) *
                                    static_cast<double>(hessian->data()[(k - 1 - j) * (k + 1)]));
      worst =
          std::max(worst, std::abs(sum - static_cast<double>(hessian->data()[(k - 1 - i) * k + (k - 1 - j)])) / size);
    }
  }
  CHECK_MSG(worst < tolerance, "k=" + std::to_string(k) + " R^T R - A: " + std::to_string(worst));

  PackedUpper<float> u = std::move(PackedUpper<float>::create(k).value());
  bool outOfMemory = true;
  CHECK(tsq::rounding::invertReversed(matrix, &u, AbortFlag(), &outOfMemory));
  CHECK(!outOfMemory);
  // U A U^T = I, because A^-1 = U^T U.
  double off = 0;
  std::vector<double> product(static_cast<size_t>(k));
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      double sum = 0;
      for (int64_t c = i; c < k; ++c)
        sum += static_cast<double>(u.at(i, c)) * static_cast<double>(hessian->data()[c * k + j]);
      product[static_cast<size_t>(j)] = sum;
    }
    for (int64_t j = 0; j < k; ++j) {
      double sum = 0;
      for (int64_t c = j; c < k; ++c) sum += product[static_cast<size_t>(c)] * static_cast<double>(u.at(j, c));
      off = std::max(off, std::abs(sum - (i == j ? 1.0 : 0.0)));
    }
  }
  CHECK_MSG(off < 100 * std::max(tolerance, 1e-5), "k=" + std::to_string(k) + " U A U^T - I: " + std::to_string(off));
}

}  // namespace

TEST(cholesky_and_inverse_factor_on_every_instruction_set) {
  int count = 0;
  const tsq::KernelTable* const* tables = tsq::supportedKernels(&count);
  for (int i = 0; i < count; ++i) {
    CHECK(tsq::selectKernels(tables[i]->name).ok());
    for (int64_t k : {1, 2, 15, 16, 17, 127, 128, 129, 150, 300}) {
      checkCholesky<double>(k, 1e-12);
      checkCholesky<float>(k, 1e-5);
    }
  }
  CHECK(tsq::selectKernels(nullptr).ok());
}

TEST(cholesky_reports_the_failing_pivot) {
  const int64_t k = 200;
  for (int64_t bad : {int64_t{0}, int64_t{77}, int64_t{199}}) {
    for (double value :
         {-1.0, 0.0, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
      PackedUpper<double> matrix = std::move(PackedUpper<double>::create(k).value());
      for (int64_t i = 0; i < k; ++i) matrix.at(i, i) = 1;
      matrix.at(bad, bad) = value;
      CHECK(tsq::rounding::choleskyUpper(&matrix, AbortFlag()) == bad);
    }
  }
}

TEST(damping_ladder_climbs_and_says_so) {
  const int64_t k = 40;
  std::unique_ptr<Hessian> hessian = std::move(Hessian::create(k).value());
  hessian->setRows(100);
  std::vector<int32_t> columns(static_cast<size_t>(k));
  for (int64_t i = 0; i < k; ++i) columns[static_cast<size_t>(i)] = static_cast<int32_t>(i);
  const auto factor = [&](double coupling, double damp) {
    std::vector<double> diagonal(static_cast<size_t>(k), 3.0);
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < k; ++j) hessian->mutableData()[i * k + j] = i == j ? 3.f : 0.f;
    }
    // The least eigenvalue is 3 - 3 coupling.
    hessian->mutableData()[5] = hessian->mutableData()[5 * k] = static_cast<float>(3 * coupling);
    return std::move(tsq::rounding::factorInverse(*hessian, diagonal, columns, damp, 0.01, AbortFlag()).value());
  };
  const auto plain = factor(0.5, 0.01);
  CHECK(plain.usable && !plain.degraded && plain.damp == 0.01 && plain.note.empty());
  // Needs more than 0.3: 0, then 0.01, 0.03, 0.07, 0.15, 0.31.
  const auto raised = factor(1.3, 0);
  CHECK_MSG(raised.usable && !raised.degraded && std::abs(raised.damp - 0.31) < 1e-12, std::to_string(raised.damp));
  CHECK(raised.note.find("0.31") != std::string::npos);
  const auto floored = factor(4, 0.01);
  CHECK_MSG(floored.usable && floored.degraded && floored.damp == 5, std::to_string(floored.damp));
  CHECK(!floored.note.empty());
  const auto hopeless = factor(40, 0.01);
  CHECK(!hopeless.usable && hopeless.degraded && !hopeless.note.empty());
}
