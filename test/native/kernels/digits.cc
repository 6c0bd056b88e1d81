// Kernels of digits: fixed point keeps every bit that it promises, and products are those of the numbers it holds.
#include "dots_support.h"

using namespace support;  // NOLINT: a test

namespace {

constexpr int kMostDigits = 6;

// Kernels of digits that run here, each once.
std::vector<const KernelTable*> digitTables() {
  std::vector<const KernelTable*> found;
  for (const KernelTable* table : tables()) {
    const bool known =
        std::any_of(found.begin(), found.end(), [&](const KernelTable* t) { return t->digits == table->digits; });
    if (table->digits != nullptr && !known) found.push_back(table);
  }
  return found;
}

// Numbers of `significand` bits whose exponents spread over `spread` + 1 values, and some zeros.
std::vector<float> spreadRow(Random& random, const Shape& shape, int significand, int spread) {
  std::vector<float> x(static_cast<size_t>(layout::packedK(shape)));
  const int64_t lowest = random.integer(-30, 30);
  for (int64_t i = 0; i < shape.k; ++i) {
    if (random.integer(0, 9) == 0) continue;
    const int64_t digits = random.integer(int64_t{1} << (significand - 1), (int64_t{1} << significand) - 1);
    const double size =
        std::ldexp(static_cast<double>(digits), static_cast<int>(lowest + random.integer(0, spread)) - significand + 1);
    x[static_cast<size_t>(layout::packedColumn(shape, i))] =
        static_cast<float>(random.integer(0, 1) == 0 ? size : -size);
  }
  return x;
}

// Bits from the largest number of a block down to the last bit of its smallest, at most over all blocks.
int64_t neededBits(const Shape& shape, const std::vector<float>& x, int kept) {
  int64_t most = 0;
  for (int64_t b = 0; b < layout::blocks(shape); ++b) {
    const layout::Block block = layout::blockAt(shape, b);
    int top = -1000, bottom = 1000;
    for (int64_t i = block.p; i < block.p + block.length; ++i) {
      const float value = x[static_cast<size_t>(i)];
      if (value == 0) continue;
      top = std::max(top, std::ilogb(value));
      bottom = std::min(bottom, std::ilogb(value));
    }
    if (top >= bottom) most = std::max<int64_t>(most, top - bottom + kept);
  }
  return most;
}

Shape randomShape(Random& random, int trial) {
  const int64_t k = random.integer(1, 700), wanted[] = {8, 32, 40, 128, k, random.integer(1, k)};
  return {kIntegerKinds[trial % 4], 16, k, std::min(k, wanted[trial / 4 % 6])};
}

}  // namespace

TEST(digits_hold_16_bit_activations_exactly) {
  Random random(81);
  for (const KernelTable* table : digitTables()) {
    const DotKernel& kernel = *table->digits;
    int exact = 0, refused = 0;
    for (int trial = 0; trial < 400; ++trial) {
      const int significand = trial % 2 == 0 ? 8 : 11;  // bf16, f16
      const Shape shape = randomShape(random, trial);
      const std::vector<float> x = spreadRow(random, shape, significand, static_cast<int>(random.integer(0, 40)));
      const int64_t bits = neededBits(shape, x, significand);
      const int limbs = kernel.limbs(shape, x.data(), significand);
      if (limbs == 0) {
        CHECK(bits > 8 * kMostDigits - 2);
        ++refused;
        continue;
      }
      CHECK(limbs >= 3 && limbs <= kMostDigits && bits <= 8 * limbs - 2);
      CHECK(limbs == 3 || bits > 8 * (limbs - 1) - 2);
      SplitTest s = split(kernel, shape, x, 1, limbs, true);
      const std::vector<double> values = valuesOf(s, shape);
      for (size_t i = 0; i < x.size(); ++i) CHECK(values[i] == static_cast<double>(x[i]));
      ++exact;
    }
    CHECK(exact > 200 && refused > 5);
  }
}

TEST(digits_keep_the_leading_bits_of_f32) {
  Random random(82);
  for (const KernelTable* table : digitTables()) {
    for (int trial = 0; trial < 200; ++trial) {
      const Shape shape = randomShape(random, trial);
      const std::vector<float> x = spreadRow(random, shape, 24, static_cast<int>(random.integer(0, 20)));
      const int limbs = table->digits->limbs(shape, x.data(), 24);
      if (limbs == 0) continue;
      SplitTest s = split(*table->digits, shape, x, 1, limbs, true);
      const std::vector<double> values = valuesOf(s, shape);
      for (size_t i = 0; i < x.size(); ++i) CHECK(std::fabs(values[i] - x[i]) <= std::ldexp(std::fabs(x[i]), -21));
    }
  }
}

TEST(digits_refuse_what_fixed_point_cannot_hold) {
  const Shape shape{WeightKind::kU4, 16, 300, 128};
  for (const KernelTable* table : digitTables()) {
    for (float odd : {INFINITY, -INFINITY, NAN, -NAN, 1e-45f, -1e-39f, 1e-30f, 1e30f}) {
      for (int64_t place : {0, 127, 128, 299}) {
        std::vector<float> x(static_cast<size_t>(layout::packedK(shape)), 1.0f);
        x[static_cast<size_t>(layout::packedColumn(shape, place))] = odd;
        CHECK(table->digits->limbs(shape, x.data(), 8) == 0);
      }
    }
    const std::vector<float> zeros(static_cast<size_t>(layout::packedK(shape)));
    CHECK(table->digits->limbs(shape, zeros.data(), 24) == 3);
  }
}

TEST(digits_products) {
  Random random(83);
  for (const KernelTable* table : digitTables()) {
    for (int trial = 0; trial < 300; ++trial) {
      WeightChoice choice{kIntegerKinds[trial % 4], random.integer(1, 150), random.integer(1, 700), 0};
      const int64_t wanted[] = {1, 8, 32, 40, 128, choice.k, random.integer(1, choice.k)};
      choice.groupSize = std::min(choice.k, wanted[trial / 4 % 7]);
      choice.zeros = random.integer(0, 1) == 1;
      choice.mostZero = random.integer(0, 2) == 0 ? 255 : -1;
      const PackedTest weight = randomPacked(random, choice);
      const PackedView w = weight.view();
      const int64_t m = random.integer(1, 2);
      if (!table->digits->pays(choice.kind, tsq::Dtype::kBF16, m)) continue;
      std::vector<float> x;
      int limbs = 3;
      for (int64_t r = 0; r < m; ++r) {
        const std::vector<float> row = spreadRow(random, weight.shape, 8, static_cast<int>(random.integer(0, 38)));
        limbs = std::max(limbs, table->digits->limbs(weight.shape, row.data(), 8));
        x.insert(x.end(), row.begin(), row.end());
      }
      const std::vector<float> bias = random.normals(choice.n);
      SplitTest s = split(*table->digits, weight.shape, x, m, limbs, true);
      std::vector<float> y(static_cast<size_t>(m * choice.n), std::nanf(""));
      multiplyPart(*table->digits, w, s, 0, m, 0, layout::panels(w.shape), bias.data(), y);
      const Product exact = exactProduct(w, valuesOf(s, w.shape), m, bias.data());
      for (size_t i = 0; i < y.size(); ++i) {
        CHECK_MSG(std::fabs(y[i] - exact.y[i]) <= 1e-6 * exact.magnitude[i], describe(table->name, w, s));
      }
    }
  }
}
