// Kernels of pairs and quads on every instruction set: split activations byte for byte as the reference makes them,
// products against float64 of what the split activations hold, the same bytes for any cut of a call.
#include "dots_support.h"

using namespace support;  // NOLINT: a test

namespace {

struct Case {
  const KernelTable* table;
  const DotKernel* kernel;
  bool quads;
};
// Every kernel of pairs and quads that runs here; one that several tables share, once.
std::vector<Case> cases() {
  std::vector<Case> all;
  for (const KernelTable* table : tables()) {
    for (const DotKernel* kernel : {table->pairs, table->quads}) {
      const bool known = std::any_of(all.begin(), all.end(), [&](const Case& c) { return c.kernel == kernel; });
      if (kernel != nullptr && !known) all.push_back({table, kernel, kernel == table->quads});
    }
  }
  return all;
}
bool isReference(const Case& c) {
  return c.table == tables()[0];
}
bool takes(const Case& c, WeightKind kind) {
  return layout::isInteger(kind) || (!c.quads && kind == WeightKind::kBF16);
}

std::vector<float> multiplyAll(const Case& c, const PackedView& w, SplitTest& s, const float* bias) {
  std::vector<float> y(static_cast<size_t>(s.rows * w.shape.n), std::nanf(""));
  multiplyPart(*c.kernel, w, s, 0, s.rows, 0, layout::panels(w.shape), bias, y);
  return y;
}

void checkError(const Case& c, const PackedView& w, const SplitTest& s, const std::vector<float>& y,
                const Product& exact) {
  const double error = relativeError(y, exact.y, exact.magnitude);
  CHECK_MSG(error <= 1e-6, describe(c.table->name, w, s) + ": error " + std::to_string(error * 1e6) + "e-6 of |X||W|");
  double worst = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    const double one = std::fabs(y[i] - exact.y[i]) / std::max(exact.magnitude[i], 1e-300);
    worst = one <= worst ? worst : one;  // a NaN stays
  }
  CHECK_MSG(worst <= 1e-5, describe(c.table->name, w, s) + ": one output is off by " + std::to_string(worst));
}

// Every kernel that takes the weight. All split alike (dots_split_as_the_reference), so that the exact product is
// formed once for pairs and once for quads.
void checkProducts(const PackedTest& weight, const std::vector<float>& x, int64_t m, int limbs, const float* bias) {
  constexpr int64_t kSlowProducts = 1 << 18;  // too many for the scalar kernels
  const PackedView w = weight.view();
  const bool slow = m * w.shape.n * w.shape.k > kSlowProducts;
  for (bool quads : {false, true}) {
    Product exact;
    for (const Case& c : cases()) {
      if (c.quads != quads || !takes(c, w.shape.kind) || (slow && isReference(c))) continue;
      SplitTest s = split(*c.kernel, w.shape, x, m, quads ? 1 : limbs, quads);
      if (exact.y.empty()) exact = exactProduct(w, valuesOf(s, w.shape), m, bias);
      checkError(c, w, s, multiplyAll(c, w, s, bias), exact);
    }
  }
}

}  // namespace

TEST(dots_split_as_the_reference) {
  Random random(61);
  int compared = 0;
  for (int trial = 0; trial < 60; ++trial) {
    for (WeightKind kind : {WeightKind::kU4, WeightKind::kU8, WeightKind::kU2, WeightKind::kU3, WeightKind::kBF16}) {
      const int64_t k = random.integer(1, 700), m = random.integer(1, 20);
      const int64_t wanted[] = {8, 16, 32, 40, 128, k, random.integer(1, k)};
      const Shape shape{kind, 16, k, kind == WeightKind::kBF16 ? k : std::min(k, wanted[trial % 7])};
      std::vector<float> x = randomRows(random, shape, m);
      // Values that the cut into parts or the grid may stumble over.
      const float odd[] = {0.0f,   -0.0f,   1e-45f, -1e-40f,  3e-39f,    1e-37f, 3.4e38f, 0.5f,
                           127.5f, -126.5f, 1.0f,   INFINITY, -INFINITY, NAN,    -NAN,    1e-38f};
      const int64_t changed = trial % 3 == 0 ? 0 : random.integer(1, 4);
      for (int64_t i = 0; i < changed; ++i) {
        const int64_t row = random.integer(0, m - 1), column = layout::packedColumn(shape, random.integer(0, k - 1));
        x[static_cast<size_t>(row * layout::packedK(shape) + column)] = odd[random.integer(0, 15)];
      }
      for (const Case& c : cases()) {
        if (!takes(c, kind)) continue;
        for (int limbs = 1; limbs <= (c.quads ? 1 : 3); ++limbs) {
          const DotKernel& reference = *(c.quads ? tables()[0]->quads : tables()[0]->pairs);
          const SplitTest expected = split(reference, shape, x, m, limbs, c.quads);
          const SplitTest found = split(*c.kernel, shape, x, m, limbs, c.quads);
          const int64_t bytes = static_cast<int64_t>(found.memory.size()) - 64;
          const bool same = std::equal(found.memory.begin() + found.offset, found.memory.begin() + found.offset + bytes,
                                       expected.memory.begin() + expected.offset);
          CHECK_MSG(same && found.sums == expected.sums && sameBytes(found.scales, expected.scales),
                    std::string(c.table->name) + " kind " + std::to_string(static_cast<int>(kind)) + " k " +
                        std::to_string(k) + " group " + std::to_string(shape.groupSize) + " limbs " +
                        std::to_string(limbs));
          ++compared;
        }
      }
    }
  }
  CHECK(compared >= 60 * 9);  // the reference beside itself, at least
}

TEST(dots_random_products) {
  Random random(62);
  for (int trial = 0; trial < 160; ++trial) {
    WeightChoice choice{trial % 5 == 4 ? WeightKind::kBF16 : kIntegerKinds[trial % 5], random.integer(1, 150),
                        random.integer(1, 700), 0};
    const int64_t wanted[] = {1, 8, 16, 32, 40, 128, choice.k, random.integer(1, choice.k)};
    choice.groupSize = std::min(choice.k, wanted[trial / 5 % 8]);
    choice.zeros = random.integer(0, 1) == 1;
    // 4-bit files keep zero points up to 16, and nothing forbids more.
    if (random.integer(0, 2) == 0) choice.mostZero = random.integer(0, 1) == 0 ? 16 : 255;
    const PackedTest weight = randomPacked(random, choice);
    const int64_t m = trial % 2 == 0 ? random.integer(1, 4) : random.integer(5, 40);
    const std::vector<float> x = randomRows(random, weight.shape, m), bias = random.normals(choice.n);
    checkProducts(weight, x, m, static_cast<int>(random.integer(1, 3)), trial % 3 == 0 ? bias.data() : nullptr);
  }
}

// Every tile height and its borders, more rows than share a decoded block, more blocks than one holds.
TEST(dots_edges) {
  Random random(63);
  const int64_t shapes[][4] = {{1, 1, 1, 1},      {2, 16, 8, 8},     {3, 17, 9, 3},     {4, 64, 256, 256},
                               {5, 80, 257, 64},  {6, 33, 512, 512}, {7, 48, 600, 600}, {8, 15, 264, 24},
                               {9, 96, 255, 255}, {12, 65, 96, 32},  {15, 16, 1000, 8}, {16, 100, 1100, 128},
                               {17, 49, 40, 40},  {33, 20, 128, 16}, {300, 24, 64, 32}, {270, 150, 300, 40}};
  for (const auto& shape : shapes) {
    for (WeightKind kind : {WeightKind::kU4, WeightKind::kU8, WeightKind::kU2, WeightKind::kU3, WeightKind::kBF16}) {
      const PackedTest weight = randomPacked(random, {kind, shape[1], shape[2], shape[3], random.integer(0, 1) == 1});
      const std::vector<float> x = randomRows(random, weight.shape, shape[0]);
      checkProducts(weight, x, shape[0], 1, nullptr);
    }
  }
}

// Sums at their largest: all codes at the top, all activations at +127 or -127.
TEST(dots_do_not_saturate) {
  Random random(64);
  for (WeightKind kind : kIntegerKinds) {
    for (float sign : {1.0f, -1.0f}) {
      for (bool zeros : {false, true}) {
        WeightChoice choice{kind, 40, 600, 300, zeros};
        choice.allOnes = true;
        choice.mostZero = 0;
        const PackedTest weight = randomPacked(random, choice);
        for (int64_t m : {1, 4, 21}) {
          std::vector<float> x(static_cast<size_t>(m * layout::packedK(weight.shape)));
          for (int64_t r = 0; r < m; ++r) {
            for (int64_t i = 0; i < weight.shape.k; ++i) {
              x[static_cast<size_t>(r * layout::packedK(weight.shape) + layout::packedColumn(weight.shape, i))] =
                  sign * 3;
            }
          }
          checkProducts(weight, x, m, 1, nullptr);
        }
      }
    }
  }
}

TEST(dots_extreme_scales) {
  Random random(65);
  for (float scale : {1e30f, 1e-30f}) {
    WeightChoice choice{WeightKind::kU4, 50, 300, 32, true};
    choice.scale = scale;
    PackedTest weight = randomPacked(random, choice);
    weight.scaleType = layout::ScaleType::kF32;
    for (int64_t m : {1, 3, 20}) {
      const std::vector<float> x = randomRows(random, weight.shape, m);
      checkProducts(weight, x, m, 3, nullptr);
    }
  }
}

// What is not finite stays in its row, and for quads makes the row's outputs NaN.
TEST(dots_not_finite_stays_in_its_row) {
  Random random(66);
  for (WeightKind kind : {WeightKind::kU4, WeightKind::kU8, WeightKind::kU2, WeightKind::kU3, WeightKind::kBF16}) {
    const PackedTest weight = randomPacked(random, {kind, 50, 300, 64});
    const PackedView w = weight.view();
    for (int64_t m : {2, 4, 19}) {
      const std::vector<float> clean = randomRows(random, weight.shape, m);
      for (float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
        std::vector<float> x = clean;
        const int64_t row = random.integer(0, m - 1);
        const int64_t column = layout::packedColumn(weight.shape, random.integer(0, 299));
        x[static_cast<size_t>(row * layout::packedK(weight.shape) + column)] = bad;
        for (const Case& c : cases()) {
          if (!takes(c, kind)) continue;
          for (int limbs = 1; limbs <= (c.quads ? 1 : 3); ++limbs) {
            SplitTest good = split(*c.kernel, weight.shape, clean, m, limbs, c.quads);
            SplitTest s = split(*c.kernel, weight.shape, x, m, limbs, c.quads);
            const std::vector<float> expected = multiplyAll(c, w, good, nullptr), y = multiplyAll(c, w, s, nullptr);
            int64_t wrong = 0;
            for (int64_t r = 0; r < m; ++r) {
              for (int64_t j = 0; j < w.shape.n; ++j) {
                const size_t at = static_cast<size_t>(r * w.shape.n + j);
                wrong += r == row ? std::isfinite(y[at]) : std::memcmp(&y[at], &expected[at], 4) != 0;
                wrong += r == row && c.quads && !std::isnan(y[at]);
              }
            }
            CHECK_MSG(wrong == 0, describe(c.table->name, w, s) + ": " + std::to_string(wrong) + " outputs");
          }
        }
      }
    }
  }
}

TEST(dots_same_bytes_for_any_cut) {
  Random random(67);
  for (int trial = 0; trial < 40; ++trial) {
    WeightChoice choice{trial % 5 == 4 ? WeightKind::kBF16 : kIntegerKinds[trial % 5], random.integer(1, 260),
                        random.integer(1, 600), 0, random.integer(0, 1) == 1};
    choice.groupSize = std::min<int64_t>(choice.k, random.integer(1, 2) * 64);
    const PackedTest weight = randomPacked(random, choice);
    const PackedView w = weight.view();
    // The last rows of a call may be as few as a small call's.
    const int64_t m = trial % 4 == 0 ? random.integer(1, 4) : 16 * random.integer(1, 3) + random.integer(0, 5);
    const std::vector<float> x = randomRows(random, weight.shape, m), bias = random.normals(choice.n);
    std::vector<float> quads;
    for (const Case& c : cases()) {
      if (!takes(c, choice.kind) || isReference(c)) continue;
      const int limbs = c.quads ? 1 : static_cast<int>(random.integer(1, 3));
      SplitTest s = split(*c.kernel, weight.shape, x, m, limbs, c.quads);
      const std::vector<float> whole = multiplyAll(c, w, s, bias.data());
      std::vector<float> parts(whole.size(), std::nanf(""));
      for (int64_t row = 0; row < m;) {
        int64_t end = std::min(m, row + 16 * random.integer(1, 3));
        const int64_t panels = layout::panels(weight.shape);
        // A call of few rows may sum parts of activations in another order.
        if (!c.quads && (end - row <= 16 || m - end <= 16)) end = m;
        for (int64_t panel = 0; panel < panels;) {
          const int64_t next = std::min(panels, panel + random.integer(1, 9));
          multiplyPart(*c.kernel, w, s, row, end, panel, next, bias.data(), parts);
          panel = next;
        }
        row = end;
      }
      CHECK_MSG(sameBytes(whole, parts), describe(c.table->name, w, s));
      // All but the last two products of quads are exact: every instruction set makes the same.
      if (!c.quads) continue;
      if (quads.empty()) quads = whole;
      CHECK_MSG(sameBytes(quads, whole), describe(c.table->name, w, s) + ": not the bytes of other instruction sets");
    }
  }
}

// The way from rounding codes to products: weights as the packer lays them, activations in their order.
TEST(dots_packed_codes) {
  Random random(68);
  for (int trial = 0; trial < 40; ++trial) {
    const int64_t n = random.integer(1, 70), k = random.integer(1, 400), m = random.integer(1, 20);
    WeightOptions options;
    options.bits = 2 + trial % 7;
    options.zeros = random.integer(0, 1) == 1;
    const Weight source = randomWeight(random, n, k, std::min(k, random.integer(1, 130)), options);
    const tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(source.source());
    CHECK_MSG(packed.ok(), packed.status().message());
    const PackedView w = packed.value().view();
    const std::vector<float> x = randomRows(random, w.shape, m);
    for (const Case& c : cases()) {
      SplitTest s = split(*c.kernel, w.shape, x, m, 1, c.quads);
      const std::vector<double> values = valuesOf(s, w.shape);
      std::vector<float> plain(static_cast<size_t>(m * k));
      for (int64_t r = 0; r < m; ++r) {
        for (int64_t i = 0; i < k; ++i) {
          // Codes of 8 bits times a scale need more than a float: `product` takes float activations.
          plain[static_cast<size_t>(r * k + i)] = static_cast<float>(
              values[static_cast<size_t>(r * layout::packedK(w.shape) + layout::packedColumn(w.shape, i))]);
        }
      }
      const Product exact = product(plain, m, n, k, nullptr, [&](int64_t j, int64_t i) { return source.value(j, i); });
      checkError(c, w, s, multiplyAll(c, w, s, nullptr), exact);
    }
  }
}

// One scale and one sum a row: against float64, split as the reference does, the same bytes for any cut and on every
// instruction set. Pieces of k of every length, and a last one that is not whole.
TEST(dots_by_row) {
  Random random(69);
  constexpr int64_t kDepths[] = {1, 8, 64, 72, 500, 512, 1000, 1024, 1100, 2048, 3000};
  constexpr int64_t kRows[] = {1, 2, 4, 8, 9, 16, 17, 32, 33, 50, 70};
  for (int trial = 0; trial < 66; ++trial) {
    WeightChoice choice{kIntegerKinds[trial % 4 == 0 ? trial / 4 % 4 : 1], random.integer(1, 150), kDepths[trial % 11],
                        0};
    choice.groupSize = choice.k;
    choice.zeros = random.integer(0, 2) == 0;
    if (choice.kind == WeightKind::kU8 && choice.zeros) choice.mostZero = 255;
    const PackedTest weight = randomPacked(random, choice);
    const PackedView w = weight.view();
    const int64_t m = kRows[trial / 6], panels = layout::panels(w.shape);
    const std::vector<float> x = randomRows(random, w.shape, m), bias = random.normals(choice.n);
    const SplitTest expected = split(*tables()[0]->quads, w.shape, x, m, 1, true, true);
    Product exact;
    std::vector<float> bytes;
    for (const Case& c : cases()) {
      if (!c.quads || c.kernel->leastCode > -128) continue;
      SplitTest s = split(*c.kernel, w.shape, x, m, 1, true, true);
      const auto end = s.memory.begin() + s.offset + m * layout::rowBytes(w.shape, layout::kQuadChunk, 1);
      CHECK_MSG(std::equal(s.memory.begin() + s.offset, end, expected.memory.begin() + expected.offset) &&
                    s.sums == expected.sums && sameBytes(s.scales, expected.scales),
                describe(c.table->name, w, s) + ": not split as the reference does");
      if (exact.y.empty()) exact = exactProduct(w, valuesOf(s, w.shape), m, bias.data());
      const std::vector<float> whole = multiplyAll(c, w, s, bias.data());
      checkError(c, w, s, whole, exact);
      if (isReference(c)) continue;
      if (bytes.empty()) bytes = whole;
      CHECK_MSG(sameBytes(bytes, whole), describe(c.table->name, w, s) + ": not the bytes of other instruction sets");
      std::vector<float> parts(whole.size(), std::nanf(""));
      for (int64_t row = 0; row < m;) {
        const int64_t rowEnd = std::min(m, row + 16 * random.integer(1, 3));
        for (int64_t panel = 0; panel < panels;) {
          const int64_t next = std::min(panels, panel + random.integer(1, 9));
          multiplyPart(*c.kernel, w, s, row, rowEnd, panel, next, bias.data(), parts);
          panel = next;
        }
        row = rowEnd;
      }
      CHECK_MSG(sameBytes(whole, parts), describe(c.table->name, w, s) + ": other bytes when cut");
    }
  }
}

// The longest sums that a call by row may have: all codes and all activations at their ends.
TEST(dots_by_row_do_not_overflow) {
  Random random(70);
  for (const bool zeros : {false, true}) {
    WeightChoice choice{WeightKind::kU8, 20, layout::kMostByRow, layout::kMostByRow, zeros};
    choice.allOnes = true;
    choice.mostZero = 0;
    const PackedTest weight = randomPacked(random, choice);
    const PackedView w = weight.view();
    for (const int64_t m : {1, 12, 20}) {
      std::vector<float> x(static_cast<size_t>(m * w.shape.k), -1.0f);
      for (const Case& c : cases()) {
        if (!c.quads || c.kernel->leastCode > -128) continue;
        SplitTest s = split(*c.kernel, w.shape, x, m, 1, true, true);
        for (int64_t i = 0; i < m * w.shape.k; ++i) s.chunks()[i] = 0x80;
        s.sums.assign(static_cast<size_t>(m), -128 * static_cast<int32_t>(w.shape.k));
        s.scales.assign(static_cast<size_t>(m), 1.0f);
        const std::vector<float> y = multiplyAll(c, w, s, nullptr);
        for (int64_t i = 0; i < m * w.shape.n; ++i) {
          const int64_t j = i % w.shape.n;
          const double sum = static_cast<double>(255 - (zeros ? 0 : 128)) * -128 * static_cast<double>(w.shape.k);
          const double right = sum * static_cast<double>(tsq::reference::scaleAt(w, j, 0));
          CHECK_MSG(std::fabs(y[static_cast<size_t>(i)] / right - 1) < 1e-6,
                    describe(c.table->name, w, s) + ": " + std::to_string(y[static_cast<size_t>(i)]) + ", not " +
                        std::to_string(right));
        }
      }
    }
  }
}
