// Fast transforms against products with the matrix that they give of the identity, which has to be a Hadamard matrix.
#include "rounding/hadamard.h"

#include <cmath>
#include <vector>

#include "rounding_test.h"

using tsq::rounding::Axis;
using tsq::rounding::hadamard;
using tsq::rounding::hadamardOrder;

namespace {

std::vector<float> matrixOf(int64_t size) {
  std::vector<float> h(static_cast<size_t>(size * size));
  for (int64_t i = 0; i < size; ++i) h[static_cast<size_t>(i * size + i)] = 1;
  CHECK(hadamard(h.data(), size, size, Axis::kColumns, size, nullptr, h.data(), tsq::AbortFlag()).ok());
  return h;
}

}  // namespace

TEST(hadamard_orders) {
  for (int64_t size :
       {1, 2, 64, 80, 96, 112, 576, 896, 960, 1152, 1536, 2304, 2560, 3072, 3584, 3840, 4096, 5120, 5376, 7168, 8192})
    CHECK(hadamardOrder(size) == size);
  CHECK(hadamardOrder(1664) == 1664);  // 104 of a prime by 16
  CHECK(hadamardOrder(3) == 1);
  CHECK(hadamardOrder(6) == 2);
  CHECK(hadamardOrder(172) == 4);  // known, but not of Paley's
  CHECK(hadamardOrder(11008) == 256);
  CHECK(hadamardOrder(23 * 20 * 8) == 23 * 20 * 8 || 23 * 20 * 8 % hadamardOrder(23 * 20 * 8) == 0);
  CHECK(hadamardOrder(0) == 0);
  CHECK(hadamardOrder(INT64_MAX) == 1 || INT64_MAX % hadamardOrder(INT64_MAX) == 0);
}

TEST(hadamard_matrices_are_orthogonal_with_entries_of_one_size) {
  for (int64_t size : {1, 2, 8, 12, 20, 24, 28, 36, 44, 56, 60, 68, 84, 104, 108, 124, 140, 148, 256, 320}) {
    const std::vector<float> h = matrixOf(size);
    const double entry = 1 / std::sqrt(static_cast<double>(size));
    double worst = 0;
    for (float value : h) worst = std::max(worst, std::abs(std::abs(static_cast<double>(value)) - entry));
    CHECK(worst < 1e-7);
    for (int64_t a = 0; a < size; ++a) {
      for (int64_t b = 0; b <= a; ++b) {
        double dot = 0;
        for (int64_t i = 0; i < size; ++i) {
          dot += static_cast<double>(h[static_cast<size_t>(a * size + i)]) *
                 static_cast<double>(h[static_cast<size_t>(b * size + i)]);
        }
        worst = std::max(worst, std::abs(dot - (a == b ? 1 : 0)));
      }
    }
    CHECK(worst < 1e-6);
  }
}

TEST(hadamard_is_the_product_with_its_matrix_along_either_axis) {
  for (int64_t block : {1, 4, 12, 40, 64}) {
    const std::vector<float> h = matrixOf(block);
    for (int64_t blocks : {1, 3}) {
      for (int64_t others : {1, 7, 8, 21}) {
        const int64_t length = block * blocks;
        const std::vector<float> x = rounding_test::gaussian(others * length, 5);
        const std::vector<float> scale = rounding_test::gaussian(length, 6);
        std::vector<float> transposed(x.size()), byColumns(x.size()), byRows(x.size());
        for (int64_t v = 0; v < others; ++v)
          for (int64_t i = 0; i < length; ++i)
            transposed[static_cast<size_t>(i * others + v)] = x[static_cast<size_t>(v * length + i)];
        CHECK(
            hadamard(x.data(), others, length, Axis::kColumns, block, scale.data(), byColumns.data(), tsq::AbortFlag())
                .ok());
        byRows = transposed;  // in place
        CHECK(hadamard(byRows.data(), length, others, Axis::kRows, block, scale.data(), byRows.data(), tsq::AbortFlag())
                  .ok());
        double worst = 0;
        bool same = true;
        for (int64_t v = 0; v < others; ++v) {
          for (int64_t j = 0; j < length; ++j) {
            double expected = 0;
            for (int64_t i = 0; i < block; ++i) {
              const int64_t from = j / block * block + i;
              expected += static_cast<double>(x[static_cast<size_t>(v * length + from)]) *
                          static_cast<double>(scale[static_cast<size_t>(from)]) *
                          static_cast<double>(h[static_cast<size_t>(i * block + j % block)]);
            }
            const float found = byColumns[static_cast<size_t>(v * length + j)];
            worst = std::max(worst, std::abs(static_cast<double>(found) - expected));
            same = same && found == byRows[static_cast<size_t>(j * others + v)];
          }
        }
        CHECK(worst < 1e-5);
        CHECK(same);
      }
    }
  }
}

TEST(hadamard_refuses_orders_that_are_none) {
  std::vector<float> x(36);
  for (int64_t block : {-1, 0, 3, 6, 5})
    CHECK(!hadamard(x.data(), 6, 6, Axis::kRows, block, nullptr, x.data(), tsq::AbortFlag()).ok());
}
