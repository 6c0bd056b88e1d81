// Codes of code books and 8-bit floats: packed, multiplied, and taken apart again.
#include "runtime/thread_pool.h"
#include "support.h"

using namespace support;  // NOLINT: a test

namespace {

using tsq::layout::WeightKind;

std::vector<float> smallFloats(float (*value)(uint8_t)) {
  std::vector<float> book(256);
  for (size_t i = 0; i < book.size(); ++i) book[i] = value(static_cast<uint8_t>(i));
  return book;
}

// What kind of book gives what kind of weight.
struct Case {
  const char* name;
  std::vector<float> book;
  WeightKind kind;
};

std::vector<Case> cases(Random& random) {
  return {{"16 values", random.normals(16), WeightKind::kB4},
          {"e2m1", {0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0f, -0.5, -1, -1.5, -2, -3, -4, -6}, WeightKind::kI4},
          {"iq4_nl", {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}, WeightKind::kI4},
          {"8 whole values", {-3, -2, -1, 0, 1, 2, 3, 127}, WeightKind::kI4},
          {"8 values", random.normals(8), WeightKind::kB4},
          {"4 values", random.normals(4), WeightKind::kB4},
          {"e4m3", smallFloats([](uint8_t bits) { return tsq::e4m3ToFloat(bits); }), WeightKind::kE4M3},
          {"e5m2", smallFloats([](uint8_t bits) { return tsq::e5m2ToFloat(bits); }), WeightKind::kE5M2},
          {"32 values", random.normals(32), WeightKind::kF32},
          {"256 values", random.normals(256), WeightKind::kF32}};
}

// Codes of finite values.
Weight bookWeight(Random& random, int64_t n, int64_t k, int64_t groupSize, const std::vector<float>& book,
                  WeightOptions options) {
  options.bits = 1;
  while ((size_t{1} << options.bits) < book.size()) ++options.bits;
  Weight w = randomWeight(random, n, k, groupSize, options);
  w.book = book;
  for (uint8_t& code : w.codes) {
    while (!std::isfinite(book[code])) code = static_cast<uint8_t>(random.integer(0, 255));
  }
  return w;
}

std::string describe(const Case& c, const Weight& w, int64_t m) {
  return std::string(c.name) + " m " + std::to_string(m) + " n " + std::to_string(w.n) + " k " + std::to_string(w.k) +
         " group " + std::to_string(w.groupSize);
}

void checkProducts(Random& random, const Case& c, const Weight& w, int64_t m, Dtype type) {
  const tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(w.source());
  CHECK_MSG(packed.ok(), packed.status().message());
  if (!packed.ok()) return;
  CHECK(packed.value().shape.kind == c.kind);
  CHECK(tsq::isFused(packed.value()) == (c.kind != WeightKind::kF32));
  const std::vector<float> bias = random.normals(w.n);
  const std::vector<uint8_t> x = toBytes(random.normals(m * w.k), type);
  const Product exact =
      product(fromBytes(x, type), m, w.n, w.k, bias.data(), [&](int64_t j, int64_t i) { return w.value(j, i); });
  forEachTable([&](const KernelTable& table) {
    for (const tsq::Activations activations : {tsq::Activations::kExact, tsq::Activations::kInt8}) {
      std::vector<float> y(static_cast<size_t>(m * w.n));
      const tsq::Status status =
          tsq::matmul({&packed.value(), x.data(), type, w.k, m, y.data(), Dtype::kF32, w.n, bias.data(), activations});
      CHECK_MSG(status.ok(), status.message());
      const double error = relativeError(y, exact.y, exact.magnitude);
      // Of books only whole numbers are multiplied with activations of 8 bits.
      const bool rounded = activations == tsq::Activations::kInt8 && c.kind == WeightKind::kI4;
      CHECK_MSG(error <= (rounded ? 1e-2 : 1e-6),
                std::string(table.name) + " " + describe(c, w, m) + ": " + std::to_string(error * 1e6));
    }
  });
  // unpackRow gives the products rounded once each.
  std::vector<float> row(static_cast<size_t>(w.k)), all(static_cast<size_t>(w.n * w.k));
  CHECK(tsq::dequantize(w.source(), all.data()).ok());
  for (int64_t n = 0; n < w.n; n += 5) {
    tsq::unpackRow(packed.value(), n, row.data());
    CHECK_MSG(std::memcmp(row.data(), all.data() + n * w.k, row.size() * sizeof(float)) == 0, describe(c, w, m));
  }
}

}  // namespace

TEST(books_every_number_of_rows) {
  Random random(31);
  for (const Case& c : cases(random)) {
    for (int64_t m = 1; m <= 10; ++m)
      checkProducts(random, c, bookWeight(random, random.integer(17, 70), 300, 64, c.book, {}), m, Dtype::kF32);
  }
}

TEST(books_random_products) {
  Random random(32);
  const std::vector<Case> all = cases(random);
  for (int trial = 0; trial < 120; ++trial) {
    const int64_t n = random.integer(1, 150), k = random.integer(1, 700);
    const int64_t wanted[] = {16, 32, 64, 128, k, random.integer(1, k)};
    WeightOptions options;
    options.order = random.integer(0, 3) == 0;
    options.inputScale = random.integer(0, 3) == 0;
    const Dtype types[] = {Dtype::kF32, Dtype::kF16, Dtype::kBF16};
    const Case& c = all[static_cast<size_t>(trial) % all.size()];
    const Weight w = bookWeight(random, n, k, std::min(k, wanted[trial % 6]), c.book, options);
    checkProducts(random, c, w, random.integer(1, 70), types[random.integer(0, 2)]);
  }
}

TEST(books_edges) {
  Random random(33);
  const int64_t shapes[][4] = {{1, 1, 1, 1},      {7, 33, 257, 64}, {12, 32, 255, 255}, {13, 31, 512, 128},
                               {241, 48, 40, 16}, {2, 64, 1, 1},    {3, 20, 3000, 300}, {9, 40, 1500, 1500}};
  for (const Case& c : cases(random)) {
    for (const auto& s : shapes)
      checkProducts(random, c, bookWeight(random, s[1], s[2], s[3], c.book, {}), s[0], Dtype::kF32);
  }
}

// Every value of a book at every place of a word, and every 8-bit float, subnormal ones included.
TEST(books_every_value_exactly) {
  Random random(34);
  for (const Case& c : cases(random)) {
    const int64_t n = 33, k = 256;
    Weight w = bookWeight(random, n, k, k, c.book, {});
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t column = 0; column < k; ++column) {
        const size_t code = static_cast<size_t>(row + column) % c.book.size();
        w.codes[static_cast<size_t>(row * k + column)] = std::isfinite(c.book[code]) ? static_cast<uint8_t>(code) : 0;
      }
    }
    std::fill(w.scales.begin(), w.scales.end(), 1.0f);
    const tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(w.source());
    for (const int64_t m : {1, 3, 20}) {
      for (const int64_t column : {0, 1, 2, 3, 4, 5, 6, 7, 100, 255}) {
        std::vector<float> x(static_cast<size_t>(m * k)), y(static_cast<size_t>(m * n));
        for (int64_t row = 0; row < m; ++row) x[static_cast<size_t>(row * k + column)] = 1;
        forEachTable([&](const KernelTable& table) {
          CHECK(tsq::matmul({&packed.value(), x.data(), Dtype::kF32, k, m, y.data(), Dtype::kF32, n, nullptr}).ok());
          int wrong = 0;
          for (int64_t i = 0; i < m * n; ++i)
            wrong += y[static_cast<size_t>(i)] != c.book[w.codes[static_cast<size_t>(i % n * k + column)]];
          CHECK_MSG(wrong == 0, std::string(table.name) + " " + c.name);
        });
      }
    }
  }
}

TEST(books_same_bytes_for_every_fast_table_and_thread_count) {
  Random random(35);
  for (const Case& c : cases(random)) {
    if (c.kind == WeightKind::kF32 || c.kind == WeightKind::kI4) continue;  // whole numbers take several ways
    const Weight w = bookWeight(random, 200, 640, 64, c.book, {});
    const tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(w.source());
    for (const int64_t m : {1, 2, 5, 40}) {
      const std::vector<float> x = random.normals(m * w.k);
      std::vector<float> first;
      const int threads = tsq::ThreadPool::instance().threads();
      forEachTable([&](const KernelTable& table) {
        if (std::string(table.name) == "reference") return;
        if (tsq::layout::isSmallFloat(c.kind)) first.clear();  // as f32 or as pairs of bf16
        for (const int count : {1, 3}) {
          tsq::ThreadPool::instance().setThreads(count);
          std::vector<float> y(static_cast<size_t>(m * w.n));
          CHECK(
              tsq::matmul({&packed.value(), x.data(), Dtype::kF32, w.k, m, y.data(), Dtype::kF32, w.n, nullptr}).ok());
          if (first.empty()) first = y;
          CHECK_MSG(sameBytes(y, first), std::string(table.name) + " " + c.name + " m " + std::to_string(m));
        }
      });
      tsq::ThreadPool::instance().setThreads(threads);
    }
  }
}

// What no kernel holds is packed as the values: exact, and said to be.
TEST(books_of_values_that_are_no_numbers) {
  Random random(36);
  const std::vector<Case> all = cases(random);
  Weight w = bookWeight(random, 20, 40, 8, all[6].book, {});
  w.codes[7] = 0x7f;
  tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(w.source());
  CHECK(packed.ok() && packed.value().shape.kind == WeightKind::kF32 && packed.value().bits == 8);
  std::vector<float> row(40);
  tsq::unpackRow(packed.value(), 0, row.data());
  CHECK(std::isnan(row[7]) && std::isfinite(row[6]));
  // E5M2 has infinities and NaNs of its own.
  w = bookWeight(random, 20, 40, 8, all[7].book, {});
  w.codes[7] = 0x7c;
  packed = tsq::packCodes(w.source());
  CHECK(packed.ok() && packed.value().shape.kind == WeightKind::kE5M2);
  tsq::unpackRow(packed.value(), 0, row.data());
  CHECK(std::isinf(row[7]) && std::isfinite(row[6]));
  w = bookWeight(random, 20, 40, 8, all[0].book, {});
  w.book[3] = std::numeric_limits<float>::infinity();
  packed = tsq::packCodes(w.source());
  CHECK(packed.ok() && packed.value().shape.kind == WeightKind::kF32 && packed.value().bits == 4);
}

// Scales that cannot be halved keep the values of the book as they are.
TEST(books_whole_numbers_only_where_scales_stay_exact) {
  Random random(38);
  const Case e2m1 = cases(random)[1];
  Weight w = bookWeight(random, 20, 40, 8, e2m1.book, {});
  tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(w.source());
  CHECK(packed.value().shape.kind == WeightKind::kI4 && packed.value().book[7] == 12);
  w.scales[3] = std::numeric_limits<float>::denorm_min();
  packed = tsq::packCodes(w.source());
  CHECK(packed.value().shape.kind == WeightKind::kB4 && packed.value().book[7] == 6);
}

TEST(books_refuse) {
  Random random(37);
  Weight w = bookWeight(random, 20, 40, 8, random.normals(8), {});
  w.codes[3 * 40 + 5] = 8;
  CHECK(tsq::packCodes(w.source()).status().code() == tsq::Code::kFormat);
  w = bookWeight(random, 20, 40, 8, random.normals(32), {});
  w.codes[3 * 40 + 5] = 32;
  CHECK(tsq::packCodes(w.source()).status().code() == tsq::Code::kFormat);
  w = bookWeight(random, 4, 8, 8, random.normals(16), {.zeros = true});
  CHECK(tsq::packCodes(w.source()).status().code() == tsq::Code::kFormat);
  w = bookWeight(random, 4, 8, 8, random.normals(16), {.offsets = true});
  CHECK(tsq::packCodes(w.source()).status().code() == tsq::Code::kFormat);
}
