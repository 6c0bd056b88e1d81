// Sums, maxima, norms, Gram tiles and column statistics against float64.
#include "support.h"

using namespace support;  // NOLINT: a test

namespace {

const int64_t kLengths[] = {0, 1, 2, 7, 15, 16, 17, 63, 64, 65, 100, 1000, 4095, 4096, 4097, 9001};

}  // namespace

TEST(exp_is_accurate_everywhere) {
  std::vector<float> x;
  for (double value = -110; value < 95; value += 0.000731) x.push_back(static_cast<float>(value));
  const float infinity = std::numeric_limits<float>::infinity();
  for (float value : {0.0f, -0.0f, 1e-30f, -infinity, infinity, 88.72283f, 88.72284f, -87.33655f, -103.97208f, -103.98f,
                      1e30f, -1e30f, std::numeric_limits<float>::quiet_NaN()}) {
    x.push_back(value);
  }
  for (const KernelTable* table : tables()) {
    std::vector<float> y(x.size());
    table->expSum(x.data(), 0, y.data(), static_cast<int64_t>(x.size()));
    double worst = 0;
    float at = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double error = ulps(y[i], std::exp(static_cast<double>(x[i])));
      if (error > worst) worst = error, at = x[i];
    }
    CHECK_MSG(worst <= 2, std::string(table->name) + ": " + std::to_string(worst) + " ulp at " + std::to_string(at));
  }
}

TEST(exp_sum) {
  Random random(41);
  for (const KernelTable* table : tables()) {
    for (int64_t count : kLengths) {
      std::vector<float> x = random.normals(count), y(x.size());
      const double got = table->expSum(x.data(), 1.5f, y.data(), count);
      double sum = 0;
      for (float value : x) sum += std::exp(static_cast<double>(value) - 1.5);
      CHECK(std::fabs(got - sum) <= 1e-6 * sum);
      CHECK(table->expSum(x.data(), 1.5f, x.data(), count) == got);  // in place
      CHECK(sameBytes(x, y));
    }
  }
}

TEST(dot_and_maximum) {
  Random random(42);
  for (const KernelTable* table : tables()) {
    CHECK(table->maximum(nullptr, 0) == -std::numeric_limits<float>::infinity());
    for (int64_t count : kLengths) {
      const std::vector<float> a = random.normals(count), b = random.normals(count);
      double sum = 0, size = 0;
      float best = -std::numeric_limits<float>::infinity();
      for (size_t i = 0; i < a.size(); ++i) {
        sum += static_cast<double>(a[i]) * b[i];
        size += std::fabs(static_cast<double>(a[i]) * b[i]);
        best = std::max(best, a[i]);
      }
      CHECK(std::fabs(table->dot(a.data(), b.data(), count) - sum) <= 1e-6 * size);
      CHECK(table->maximum(a.data(), count) == best);
    }
    // The largest in every position, all others below zero.
    for (size_t i = 0; i < 37; ++i) {
      std::vector<float> x(37, -5.0f);
      x[i] = -1;
      CHECK(table->maximum(x.data(), 37) == -1);
    }
  }
}

TEST(rmsnorm_matches_float64) {
  Random random(43);
  for (const KernelTable* table : tables()) {
    for (int64_t width : kLengths) {
      if (width == 0) continue;
      for (float size : {1.0f, 1e-4f, 1e10f}) {
        std::vector<float> x = random.normals(width), weight = random.normals(width), y(x.size());
        for (float& value : x) value *= size;
        double squares = 0;
        for (float value : x) squares += static_cast<double>(value) * value;
        const double inverse = 1 / std::sqrt(squares / static_cast<double>(width) + static_cast<double>(1e-5f));
        table->rmsnorm(x.data(), weight.data(), y.data(), width, 1e-5f, 1);
        for (size_t i = 0; i < x.size(); ++i) {
          const double exact = x[i] * inverse * (1.0 + weight[i]);
          CHECK(std::fabs(y[i] - exact) <= 1e-6 * std::fabs(x[i] * inverse) * (1 + std::fabs(weight[i])));
        }
        table->rmsnorm(x.data(), weight.data(), x.data(), width, 1e-5f, 1);  // in place
        CHECK(sameBytes(x, y));
      }
    }
  }
}

TEST(gram_tile_adds) {
  Random random(44);
  for (const KernelTable* table : tables()) {
    for (int64_t rows : {0, 1, 2, 255, 256, 257, 1000}) {
      tsq::Result<tsq::AlignedBuffer> room = tsq::AlignedBuffer::allocate(static_cast<size_t>(2 * 16 * rows + 16) * 4);
      float* a = room.value().as<float>();
      float* b = a + 16 * rows;
      for (int64_t i = 0; i < 32 * rows; ++i) a[i] = random.normal();
      const int64_t ldc = 19;
      std::vector<float> c = random.normals(15 * ldc + 16);
      const std::vector<float> before = c;
      table->gramTile(a, b, rows, c.data(), ldc);
      for (int64_t i = 0; i < 15 * ldc + 16; ++i) {
        const int64_t row = i / ldc, column = i % ldc;
        if (column >= 16) {
          CHECK(c[static_cast<size_t>(i)] == before[static_cast<size_t>(i)]);
          continue;
        }
        double sum = before[static_cast<size_t>(i)], size = std::fabs(sum);
        for (int64_t r = 0; r < rows; ++r) {
          const double term = static_cast<double>(a[r * 16 + row]) * b[r * 16 + column];
          sum += term;
          size += std::fabs(term);
        }
        CHECK(std::fabs(c[static_cast<size_t>(i)] - sum) <= 1e-6 * size);
      }
      // A pair is two tiles, side by side or far from each other.
      std::vector<float> second = before, pair0 = before, pair1 = before;
      table->gramTile(a, a, rows, second.data(), ldc);
      table->gramPair(a, b, a, rows, pair0.data(), pair1.data(), ldc);
      CHECK_MSG(sameBytes(pair0, c) && sameBytes(pair1, second), std::string(table->name) + ": a pair of tiles");
    }
  }
}

TEST(column_stats) {
  Random random(45);
  for (const KernelTable* table : tables()) {
    for (int64_t columns : {1, 15, 16, 17, 31, 32, 33, 100}) {
      for (int64_t rows : {0, 1, 300}) {
        const int64_t ld = columns + 2;
        const std::vector<float> x = random.normals(rows * ld);
        std::vector<float> sums(static_cast<size_t>(columns), 3.0f), peaks(static_cast<size_t>(columns), 0.5f);
        std::vector<float> onlySums = sums, onlyPeaks = peaks;
        table->columnStats(x.data(), ld, rows, columns, sums.data(), peaks.data());
        table->columnStats(x.data(), ld, rows, columns, onlySums.data(), nullptr);
        table->columnStats(x.data(), ld, rows, columns, nullptr, onlyPeaks.data());
        CHECK(sameBytes(sums, onlySums) && sameBytes(peaks, onlyPeaks));
        for (int64_t j = 0; j < columns; ++j) {
          double sum = 3;
          float peak = 0.5f;
          for (int64_t r = 0; r < rows; ++r) {
            const float value = x[static_cast<size_t>(r * ld + j)];
            sum += static_cast<double>(value) * value;
            peak = std::max(peak, std::fabs(value));
          }
          CHECK(std::fabs(sums[static_cast<size_t>(j)] - sum) <= 1e-6 * sum);
          CHECK(peaks[static_cast<size_t>(j)] == peak);
        }
      }
    }
  }
}

TEST(layernorm_matches_float64) {
  Random random(47);
  for (const KernelTable* table : tables()) {
    for (int64_t width : kLengths) {
      if (width == 0) continue;
      // A mean far from zero must not cost the small differences from it more than f32 has lost of them already.
      for (float middle : {0.0f, -3.0f, 1000.0f}) {
        std::vector<float> x = random.normals(width), weight = random.normals(width), bias = random.normals(width);
        for (float& value : x) value += middle;
        double sum = 0, squares = 0;
        for (float value : x) sum += static_cast<double>(value);
        const double mean = sum / static_cast<double>(width);
        for (float value : x) squares += (value - mean) * (value - mean);
        const double inverse = 1 / std::sqrt(squares / static_cast<double>(width) + static_cast<double>(1e-5f));
        std::vector<float> y(x.size()), plain(x.size()), inPlace = x;
        table->layernorm(x.data(), weight.data(), bias.data(), y.data(), width, 1e-5f);
        table->layernorm(x.data(), weight.data(), nullptr, plain.data(), width, 1e-5f);
        table->layernorm(inPlace.data(), weight.data(), bias.data(), inPlace.data(), width, 1e-5f);
        CHECK(sameBytes(y, inPlace));
        for (size_t i = 0; i < x.size(); ++i) {
          const double exact = (x[i] - mean) * inverse * weight[i], size = std::fabs(exact) + std::fabs(inverse * 1e-7);
          CHECK_MSG(std::fabs(plain[i] - exact) <= 2e-6 * size + 1e-6 * std::fabs(weight[i]),
                    std::string(table->name) + " layernorm of " + std::to_string(width));
          CHECK(std::fabs(y[i] - (exact + bias[i])) <=
                2e-6 * (size + std::fabs(bias[i])) + 1e-6 * std::fabs(weight[i]));
        }
      }
    }
  }
}
