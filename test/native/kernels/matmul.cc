// matmul on every instruction set against float64: design.md's bounds, shapes with every kind of remainder.
#include "support.h"

#include "kernels/blocking.h"
#include "runtime/thread_pool.h"

using namespace support;  // NOLINT: a test

namespace {

using tsq::layout::WeightKind;

std::vector<float> run(const tsq::PackedWeight& weight, const std::vector<uint8_t>& x, Dtype xType, int64_t m,
                       Dtype yType, const float* bias) {
  std::vector<uint8_t> y(static_cast<size_t>(m * weight.shape.n * tsq::dtypeBytes(yType)));
  const tsq::Status status =
      tsq::matmul({&weight, x.data(), xType, weight.shape.k, m, y.data(), yType, weight.shape.n, bias});
  CHECK_MSG(status.ok(), status.message());
  return fromBytes(y, yType);
}

double bound(Dtype dtype) {
  return dtype == Dtype::kF32 ? 2e-6 : dtype == Dtype::kF16 ? 6e-4 : 4e-3;
}

void checkProduct(const KernelTable& table, const std::string& what, const std::vector<float>& y, const Product& exact,
                  Dtype yType) {
  const double absolute = relativeError(y, exact.y, exact.magnitude);
  const double limit = yType == Dtype::kF32 ? 1e-6 : bound(yType);
  CHECK_MSG(absolute <= limit,
            std::string(table.name) + " " + what + ": error " + std::to_string(absolute * 1e6) + "e-6 of |X||W|");
  if (y.size() < 64) return;
  const double relative = relativeError(y, exact.y, exact.y);
  CHECK_MSG(relative <= bound(yType),
            std::string(table.name) + " " + what + ": error " + std::to_string(relative * 1e6) + "e-6 of Y");
}

std::string describe(const Weight& w, int64_t m) {
  return "m " + std::to_string(m) + " n " + std::to_string(w.n) + " k " + std::to_string(w.k) + " bits " +
         std::to_string(w.bits) + " group " + std::to_string(w.groupSize) + (w.zeros.empty() ? "" : " zeros") +
         (w.offsets.empty() ? "" : " offsets") + (w.groupIndex.empty() ? "" : " ordered") +
         (w.inputScale.empty() ? "" : " input scale");
}

void checkCodes(Random& random, int64_t m, int64_t n, int64_t k, int64_t groupSize, const WeightOptions& options,
                Dtype xType, Dtype yType, bool withBias) {
  const Weight w = randomWeight(random, n, k, groupSize, options);
  const std::vector<float> bias = random.normals(n);
  const std::vector<uint8_t> x = toBytes(random.normals(m * k), xType);
  const float* added = withBias ? bias.data() : nullptr;
  const Product exact =
      product(fromBytes(x, xType), m, n, k, added, [&](int64_t j, int64_t i) { return w.value(j, i); });
  const tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(w.source());
  CHECK_MSG(packed.ok(), packed.status().message());
  if (!packed.ok()) return;
  forEachTable([&](const KernelTable& table) {
    checkProduct(table, describe(w, m), run(packed.value(), x, xType, m, yType, added), exact, yType);
  });
}

}  // namespace

TEST(matmul_random_codes) {
  Random random(1);
  for (int trial = 0; trial < 500; ++trial) {
    const int64_t m = random.integer(1, 70), n = random.integer(1, 300), k = random.integer(1, 700);
    const int64_t wanted[] = {16, 32, 64, 128, k, random.integer(1, k)};
    const int64_t groupSize = std::min(k, wanted[trial % 6]);
    WeightOptions options;
    options.bits = trial % 4 == 3 ? 4 : static_cast<int>(random.integer(2, 8));
    randomCentre(random, options);
    options.order = random.integer(0, 3) == 0;
    options.inputScale = random.integer(0, 3) == 0;
    const Dtype types[] = {Dtype::kF32, Dtype::kF32, Dtype::kF16, Dtype::kBF16};
    const Dtype type = types[random.integer(0, 3)];
    checkCodes(random, m, n, k, groupSize, options, type, type, random.integer(0, 1) == 1);
  }
}

// Every number of rows of the fused path and the first ones behind it, every width of codes, groups that end within a
// step of codes.
TEST(matmul_few_rows_of_every_width) {
  Random random(10);
  for (int64_t m = 1; m <= 10; ++m) {
    for (int bits = 2; bits <= 8; ++bits) {
      for (int64_t groupSize : {3, 40, 100, 128}) {
        WeightOptions options{.bits = bits};
        randomCentre(random, options);
        checkCodes(random, m, random.integer(17, 70), 300, groupSize, options, Dtype::kF32, Dtype::kF32, bits % 2 == 0);
      }
    }
  }
}

// Every path and its borders: fused (1 … 8 rows), tile heights, row blocks, one more and one less than a panel and a
// depth block.
TEST(matmul_edges) {
  Random random(2);
  const int64_t shapes[][4] = {{1, 1, 1, 1},        {4, 16, 8, 8},       {5, 17, 9, 3},      {6, 15, 256, 256},
                               {7, 33, 257, 64},    {12, 32, 255, 255},  {13, 31, 512, 128}, {241, 48, 40, 16},
                               {500, 5, 264, 24},   {2, 64, 1, 1},       {3, 20, 3000, 300}, {1, 40, 5000, 16},
                               {1, 40, 5000, 5000}, {9, 40, 5000, 5000}, {16, 16, 16, 16}};
  for (const auto& shape : shapes) {
    for (int bits : {2, 3, 4, 8}) {
      for (bool zeros : {false, true}) {
        WeightOptions options;
        options.bits = bits;
        options.zeros = zeros;
        checkCodes(random, shape[0], shape[1], shape[2], shape[3], options, Dtype::kF32, Dtype::kF32, zeros);
      }
    }
  }
}

// Offsets where the other paths end: many rows, int8 activations, one product of several.
TEST(matmul_offsets) {
  Random random(12);
  for (int64_t m : {1, 6, 40, 300}) {
    checkCodes(random, m, 150, 520, 32, {.bits = 4, .offsets = true}, Dtype::kF32, Dtype::kF32, true);
    checkCodes(random, m, 70, 256, 16, {.bits = 2, .offsets = true}, Dtype::kBF16, Dtype::kBF16, false);
    const int64_t n = 90, k = 640;
    const Weight w = randomWeight(random, n, k, 32, {.bits = 5, .offsets = true});
    const tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(w.source());
    const std::vector<float> x = random.normals(m * k);
    const Product exact = product(x, m, n, k, nullptr, [&](int64_t j, int64_t i) { return w.value(j, i); });
    forEachTable([&](const KernelTable& table) {
      std::vector<float> a(static_cast<size_t>(m * n)), b(a.size());
      const auto args = [&](std::vector<float>& y) {
        return tsq::MatmulArgs{&packed.value(), x.data(),    Dtype::kF32, k,       m,
                               y.data(),        Dtype::kF32, n,           nullptr, tsq::Activations::kInt8};
      };
      const tsq::MatmulArgs both[2] = {args(a), args(b)};
      CHECK(tsq::matmulGroup(both, 2).ok());
      CHECK(sameBytes(a, b));
      const double error = relativeError(a, exact.y, exact.y);
      CHECK_MSG(error < 0.02, std::string(table.name) + " m " + std::to_string(m) + ": " + std::to_string(error));
    });
  }
  Weight both = randomWeight(random, 4, 32, 16, {.zeros = true, .offsets = true});
  CHECK(tsq::packCodes(both.source()).status().code() == tsq::Code::kFormat);
}

TEST(matmul_extreme_scales) {
  Random random(3);
  for (float scale : {1e30f, 1e-30f}) {
    for (int64_t m : {1, 3, 20}) {
      WeightOptions options;
      options.scale = scale;
      options.zeros = true;
      checkCodes(random, m, 50, 300, 32, options, Dtype::kF32, Dtype::kF32, false);
    }
  }
}

// Rows all of whose codes are zero points count nothing, to the last bit: no difference of large sums is taken.
TEST(matmul_codes_at_the_zero_point) {
  Random random(11);
  for (int64_t m : {1, 2, 3, 5, 8, 20}) {
    for (int bits : {2, 3, 4, 8}) {
      Weight w = randomWeight(random, 33, 500, 64, {.bits = bits, .zeros = true});
      for (int64_t j = 0; j < w.n; ++j) {
        for (int64_t i = 0; i < w.k; ++i) {
          w.codes[static_cast<size_t>(j * w.k + i)] = w.zeros[static_cast<size_t>(j * w.groups + i / 64)];
        }
      }
      const tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(w.source());
      const std::vector<uint8_t> x = toBytes(random.normals(m * w.k), Dtype::kF32);
      forEachTable([&](const KernelTable&) {
        for (float y : run(packed.value(), x, Dtype::kF32, m, Dtype::kF32, nullptr)) CHECK(y == 0);
      });
    }
  }
}

TEST(matmul_extreme_activations) {
  Random random(12);
  const int64_t n = 50, k = 300;
  for (float size : {1e30f, 1e-30f}) {
    for (int64_t m : {1, 2, 3, 7, 20}) {
      for (int bits : {3, 4, 8}) {
        const Weight w = randomWeight(random, n, k, 32, {.bits = bits, .zeros = true});
        const tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(w.source());
        std::vector<float> x = random.normals(m * k);
        for (float& value : x) value *= size;
        const Product exact = product(x, m, n, k, nullptr, [&](int64_t j, int64_t i) { return w.value(j, i); });
        forEachTable([&](const KernelTable& table) {
          checkProduct(table, describe(w, m) + (size > 1 ? " large" : " small") + " x",
                       run(packed.value(), toBytes(x, Dtype::kF32), Dtype::kF32, m, Dtype::kF32, nullptr), exact,
                       Dtype::kF32);
        });
      }
    }
  }
}

TEST(matmul_dense) {
  Random random(4);
  for (int trial = 0; trial < 120; ++trial) {
    const int64_t m = trial % 3 == 0 ? random.integer(1, 4) : random.integer(5, 70), n = random.integer(1, 150),
                  k = random.integer(1, 700);
    const Dtype from[] = {Dtype::kF32, Dtype::kF16, Dtype::kBF16};
    const WeightKind kind = static_cast<WeightKind>(trial % 3);
    const std::vector<uint8_t> weight = toBytes(random.normals(n * k), from[trial % 3]);
    const std::vector<float> values = fromBytes(weight, from[trial % 3]), x = random.normals(m * k),
                             bias = random.normals(n);
    const Product exact = product(x, m, n, k, bias.data(), [&](int64_t j, int64_t i) {
      return static_cast<double>(values[static_cast<size_t>(j * k + i)]);
    });
    const tsq::Result<tsq::PackedWeight> packed = tsq::packDense(weight.data(), from[trial % 3], n, k, kind);
    CHECK_MSG(packed.ok(), packed.status().message());
    forEachTable([&](const KernelTable& table) {
      const std::string what = "dense m " + std::to_string(m) + " n " + std::to_string(n) + " k " + std::to_string(k);
      checkProduct(table, what, run(packed.value(), toBytes(x, Dtype::kF32), Dtype::kF32, m, Dtype::kF32, bias.data()),
                   exact, Dtype::kF32);
    });
  }
}

TEST(matmul_strides_and_misaligned_rows) {
  Random random(5);
  const int64_t m = 6, n = 37, k = 50, ldx = k + 5, ldy = n + 3;
  const Weight w = randomWeight(random, n, k, 16, {});
  const tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(w.source());
  CHECK(packed.ok());
  const std::vector<float> dense = random.normals(m * k);
  for (Dtype type : {Dtype::kF32, Dtype::kF16, Dtype::kBF16}) {
    const size_t size = static_cast<size_t>(tsq::dtypeBytes(type));
    const std::vector<uint8_t> rows = toBytes(dense, type);
    std::vector<uint8_t> x(1 + size * static_cast<size_t>(ldx * m)), y(1 + size * static_cast<size_t>(ldy * m), 0x5a);
    for (int64_t r = 0; r < m; ++r) {
      std::memcpy(&x[1 + size * static_cast<size_t>(r * ldx)], &rows[size * static_cast<size_t>(r * k)],
                  size * static_cast<size_t>(k));
    }
    const std::vector<float> expected = run(packed.value(), rows, type, m, type, nullptr);
    CHECK(tsq::matmul({&packed.value(), x.data() + 1, type, ldx, m, y.data() + 1, type, ldy, nullptr}).ok());
    for (int64_t r = 0; r < m; ++r) {
      const uint8_t* row = &y[1 + size * static_cast<size_t>(r * ldy)];
      const std::vector<float> got = fromBytes({row, row + size * static_cast<size_t>(n)}, type);
      CHECK(sameBytes(got, {expected.begin() + r * n, expected.begin() + (r + 1) * n}));
      for (size_t i = size * static_cast<size_t>(n); i < size * static_cast<size_t>(ldy); ++i) CHECK(row[i] == 0x5a);
    }
  }
}

TEST(matmul_same_bytes_for_any_thread_count) {
  Random random(6);
  tsq::ThreadPool& pool = tsq::ThreadPool::instance();
  const int before = pool.threads();
  for (int64_t m : {1, 4, 5, 64, 300}) {
    const int64_t n = 700, k = 333;
    const Weight w = randomWeight(random, n, k, 48, {.zeros = true, .order = true});
    const tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(w.source());
    const std::vector<uint8_t> x = toBytes(random.normals(m * k), Dtype::kF16);
    forEachTable([&](const KernelTable& table) {
      if (std::strcmp(table.name, "reference") == 0) return;
      pool.setThreads(1);
      const std::vector<float> one = run(packed.value(), x, Dtype::kF16, m, Dtype::kF32, nullptr);
      for (int threads : {2, 3, 7}) {
        pool.setThreads(threads);
        CHECK(sameBytes(one, run(packed.value(), x, Dtype::kF16, m, Dtype::kF32, nullptr)));
      }
    });
  }
  pool.setThreads(before);
}

TEST(matmul_rows_do_not_depend_on_their_block) {
  // Above the fused rows every row is computed alone, whatever tile it falls into.
  Random random(7);
  const int64_t n = 40, k = 600, m = 29;
  const Weight w = randomWeight(random, n, k, 64, {});
  const tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(w.source());
  const std::vector<float> x = random.normals(m * k);
  forEachTable([&](const KernelTable& table) {
    const std::vector<float> all = run(packed.value(), toBytes(x, Dtype::kF32), Dtype::kF32, m, Dtype::kF32, nullptr);
    // Up to 16 rows of parts of activations share a tile of their own path.
    for (int64_t rows = table.pairs != nullptr ? 17 : 9; rows < m; ++rows) {
      const std::vector<float> part = run(packed.value(), toBytes({x.begin(), x.begin() + rows * k}, Dtype::kF32),
                                          Dtype::kF32, rows, Dtype::kF32, nullptr);
      CHECK(sameBytes(part, {all.begin(), all.begin() + rows * n}));
    }
  });
}

TEST(matmul_row_blocks_cover_all_rows_evenly) {
  for (int64_t m : {1, 4, 5, 239, 240, 241, 479, 481, 6723, 57361, 1000003}) {
    const int64_t blocks = tsq::blocking::rowBlocks(m);
    CHECK(tsq::blocking::rowStart(m, 0) == 0 && tsq::blocking::rowStart(m, blocks) == m);
    for (int64_t i = 0; i < blocks; ++i) {
      const int64_t rows = tsq::blocking::rowStart(m, i + 1) - tsq::blocking::rowStart(m, i);
      CHECK(rows <= tsq::blocking::kRows && (blocks == 1 || rows > tsq::blocking::kFusedRows));
    }
  }
}

// Working memory keeps what the last call left there: a NaN in it must not reach the padding columns of the next call.
TEST(matmul_forgets_the_last_call) {
  Random random(9);
  const int64_t m = 6, n = 20, k = 45;
  for (int64_t groupSize : {k, int64_t{5}}) {
    const Weight w = randomWeight(random, n, k, groupSize, {});
    const tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(w.source());
    const std::vector<uint8_t> clean = toBytes(random.normals(m * k), Dtype::kF16);
    // Wider rows than the clean call's, so that NaN lies wherever its padding will be.
    const Weight wide = randomWeight(random, n, 4 * k, 4 * k, {.inputScale = true});
    const tsq::Result<tsq::PackedWeight> widePacked = tsq::packCodes(wide.source());
    const std::vector<uint8_t> poison = toBytes(std::vector<float>(static_cast<size_t>(m * 4 * k), NAN), Dtype::kF16);
    forEachTable([&](const KernelTable&) {
      run(widePacked.value(), poison, Dtype::kF16, m, Dtype::kF32, nullptr);
      for (float y : run(packed.value(), clean, Dtype::kF16, m, Dtype::kF32, nullptr)) CHECK(std::isfinite(y));
    });
  }
}

TEST(matmul_refuses) {
  Random random(8);
  const Weight w = randomWeight(random, 4, 8, 8, {});
  const tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(w.source());
  std::vector<float> x(16), y(8, 7.0f);
  const auto call = [&](Dtype xType, int64_t ldx, int64_t m, Dtype yType, int64_t ldy) {
    return tsq::matmul({&packed.value(), x.data(), xType, ldx, m, y.data(), yType, ldy, nullptr}).code();
  };
  CHECK(call(Dtype::kI8, 8, 1, Dtype::kF32, 4) == tsq::Code::kDtype);
  CHECK(call(Dtype::kF32, 8, 1, Dtype::kI32, 4) == tsq::Code::kDtype);
  CHECK(call(Dtype::kF32, 7, 2, Dtype::kF32, 4) == tsq::Code::kShape);
  CHECK(call(Dtype::kF32, 8, 2, Dtype::kF32, 3) == tsq::Code::kShape);
  CHECK(call(Dtype::kF32, 8, -1, Dtype::kF32, 4) == tsq::Code::kShape);
  CHECK(call(Dtype::kF32, 8, 0, Dtype::kF32, 4) == tsq::Code::kOk);
  CHECK(y == std::vector<float>(8, 7.0f));
}
