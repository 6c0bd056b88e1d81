// Kernels of pairs and quads on every instruction set: split activations byte for byte as the reference makes them,
// products against float64 of what the split activations hold, the same bytes for any cut of a call.
#include <algorithm>
#include <memory>

#include "kernels/reference/reference.h"
#include "layout/activations.h"
#include "support.h"

using namespace support;  // NOLINT: a test

namespace {

using tsq::DotCall;
using tsq::DotKernel;
using tsq::PackedView;
using tsq::layout::Shape;
using tsq::layout::WeightKind;
namespace layout = tsq::layout;

constexpr WeightKind kIntegerKinds[] = {WeightKind::kU4, WeightKind::kU8, WeightKind::kU2, WeightKind::kU3};

// A weight in packed memory, codes of padding columns and rows included: whatever lies there must not count.
struct PackedTest {
  Shape shape{};
  std::vector<uint32_t> words;
  std::vector<uint16_t> bfloats;
  std::vector<float> scales;
  std::vector<uint16_t> narrowScales;
  tsq::layout::ScaleType scaleType = tsq::layout::ScaleType::kF32;
  std::vector<uint8_t> zeros;
  int32_t zero = 0;

  PackedView view() const {
    if (shape.kind == WeightKind::kBF16) return {shape, bfloats.data(), nullptr, scaleType, nullptr, 0};
    const void* scale = scaleType == tsq::layout::ScaleType::kF32 ? static_cast<const void*>(scales.data())
                                                                  : static_cast<const void*>(narrowScales.data());
    return {shape, words.data(), scale, scaleType, zeros.empty() ? nullptr : zeros.data(), zero};
  }
};

struct WeightChoice {
  WeightKind kind;
  int64_t n, k, groupSize;
  bool zeros = false;
  int mostZero = -1;  // -1: the largest code
  bool allOnes = false;
  float scale = 0.02f;
};

PackedTest randomPacked(Random& random, const WeightChoice& choice) {
  PackedTest w;
  const bool integer = layout::isInteger(choice.kind);
  w.shape = {choice.kind, choice.n, choice.k, integer ? choice.groupSize : choice.k};
  const int64_t bytes = layout::panels(w.shape) * layout::panelBytes(w.shape);
  if (!integer) {
    w.bfloats.resize(static_cast<size_t>(bytes / 2));
    for (uint16_t& value : w.bfloats) value = tsq::floatToBf16(random.normal());
    return w;
  }
  w.words.resize(static_cast<size_t>(bytes / 4));
  for (uint32_t& word : w.words) word = choice.allOnes ? ~0u : static_cast<uint32_t>(random.integer(0, 0xffffffffll));
  const int64_t count = layout::panels(w.shape) * layout::groups(w.shape) * layout::kPanel;
  const int bits = choice.kind == WeightKind::kU3 ? 3 : layout::codeBits(choice.kind);
  const int64_t most = choice.mostZero >= 0 ? choice.mostZero : (1 << bits) - 1;
  w.scaleType = static_cast<tsq::layout::ScaleType>(random.integer(0, 2));
  w.scales.resize(static_cast<size_t>(count));
  w.narrowScales.resize(static_cast<size_t>(count));
  for (size_t i = 0; i < w.scales.size(); ++i) {
    w.scales[i] = choice.scale * random.uniform(0.5f, 2.0f);
    w.narrowScales[i] =
        w.scaleType == tsq::layout::ScaleType::kF16 ? tsq::floatToF16(w.scales[i]) : tsq::floatToBf16(w.scales[i]);
  }
  w.zero = choice.zeros ? 0 : 1 << (bits - 1);
  if (choice.zeros) {
    w.zeros.resize(static_cast<size_t>(count));
    for (uint8_t& zero : w.zeros) zero = static_cast<uint8_t>(random.integer(0, most));
  }
  return w;
}

// Rows of activations in packed column order, zeros in padding columns.
std::vector<float> randomRows(Random& random, const Shape& shape, int64_t m) {
  const int64_t width = layout::packedK(shape);
  std::vector<float> x(static_cast<size_t>(m * width));
  for (int64_t r = 0; r < m; ++r) {
    const float size = std::exp(random.uniform(-6, 6));
    for (int64_t i = 0; i < shape.k; ++i) {
      x[static_cast<size_t>(r * width + layout::packedColumn(shape, i))] = size * random.normal();
    }
  }
  return x;
}

// Split activations in memory of exactly the size that a call may read: `slack` bytes behind the last bundle.
struct SplitTest {
  int64_t rows = 0;
  int limbs = 1;
  bool quads = false;
  std::vector<uint8_t> memory;
  int64_t offset = 0;  // to a multiple of 64
  std::vector<float> scales;
  std::vector<int32_t> sums;
  uint8_t* chunks() { return memory.data() + offset; }
};

SplitTest split(const DotKernel& kernel, const Shape& shape, const std::vector<float>& x, int64_t rows, int limbs,
                bool quads) {
  constexpr int64_t kSlack = 1024;
  SplitTest s;
  s.rows = rows;
  s.limbs = limbs;
  s.quads = quads;
  const int64_t chunk = quads ? layout::kQuadChunk : layout::kPairChunk;
  const int64_t bytes = layout::rowBytes(shape, chunk, limbs), blocks = layout::blocks(shape);
  s.memory.assign(static_cast<size_t>(rows * bytes + kSlack + 64), 0xaa);
  s.offset = -reinterpret_cast<intptr_t>(s.memory.data()) & 63;
  s.scales.assign(static_cast<size_t>(rows * blocks), -1.0f);
  s.sums.assign(static_cast<size_t>(rows * blocks), -1);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t bundle = r / layout::kBundle * layout::kBundle, size = std::min(layout::kBundle, rows - bundle);
    // A row on its own, so that a read behind its end is seen.
    const int64_t width = layout::packedK(shape);
    const std::unique_ptr<float[]> row(new float[static_cast<size_t>(width)]);
    std::copy_n(x.data() + r * width, width, row.get());
    tsq::SplitRow call{};
    call.shape = &shape;
    call.x = row.get();
    call.limbs = limbs;
    call.chunks = s.chunks() + bundle * bytes + (r - bundle) * layout::kChunkBytes;
    call.apart = size * layout::kChunkBytes;
    call.scales = quads ? s.scales.data() + bundle * blocks + (r - bundle) : nullptr;
    call.sums = quads ? s.sums.data() + bundle * blocks + (r - bundle) : nullptr;
    call.step = size;
    kernel.split(call);
  }
  return s;
}

// What the chunks hold: [rows][packedK] in double.
std::vector<double> valuesOf(SplitTest& s, const Shape& shape) {
  const int64_t chunk = s.quads ? layout::kQuadChunk : layout::kPairChunk, wide = s.quads ? 4 : 2;
  const int64_t bytes = layout::rowBytes(shape, chunk, s.limbs), blocks = layout::blocks(shape);
  const int64_t width = layout::packedK(shape);
  std::vector<double> values(static_cast<size_t>(s.rows * width));
  for (int64_t r = 0; r < s.rows; ++r) {
    const int64_t bundle = r / layout::kBundle * layout::kBundle, size = std::min(layout::kBundle, s.rows - bundle);
    for (int64_t b = 0; b < blocks; ++b) {
      const layout::Block block = layout::blockAt(shape, b);
      for (int64_t at = 0; at < layout::divideUp(block.length, chunk) * chunk; ++at) {
        const int64_t i = at % chunk / wide, e = at % wide;
        const int64_t column = at / chunk * chunk +
                               (s.quads ? layout::quadColumn(shape.kind, i, e) : layout::pairColumn(shape.kind, i, e));
        if (column >= block.length) continue;
        double& value = values[static_cast<size_t>(r * width + block.p + column)];
        for (int limb = 0; limb < s.limbs; ++limb) {
          const uint8_t* p = s.chunks() + bundle * bytes + (r - bundle) * layout::kChunkBytes +
                             ((layout::firstChunk(shape, b, chunk) + at / chunk) * s.limbs + limb) * size * 64 +
                             at % chunk * (s.quads ? 1 : 2);
          if (s.quads) {
            value = static_cast<double>(s.scales[static_cast<size_t>(bundle * blocks + b * size + r - bundle)]) *
                    static_cast<int8_t>(*p);
          } else {
            uint16_t bits;
            std::memcpy(&bits, p, 2);
            value += tsq::bf16ToFloat(bits);
          }
        }
      }
    }
  }
  return values;
}

Product exactProduct(const PackedView& w, const std::vector<double>& x, int64_t m, const float* bias) {
  const int64_t n = w.shape.n, width = layout::packedK(w.shape);
  Product result{std::vector<double>(static_cast<size_t>(m * n)), std::vector<double>(static_cast<size_t>(m * n))};
  std::vector<double> weights(static_cast<size_t>(width));
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t p = 0; p < width; ++p) weights[static_cast<size_t>(p)] = tsq::reference::weightAt(w, j, p);
    for (int64_t r = 0; r < m; ++r) {
      double sum = bias != nullptr ? bias[j] : 0, size = std::fabs(sum);
      for (int64_t p = 0; p < width; ++p) {
        const double term = x[static_cast<size_t>(r * width + p)] * weights[static_cast<size_t>(p)];
        sum += term;
        size += std::fabs(term);
      }
      result.y[static_cast<size_t>(r * n + j)] = sum;
      result.magnitude[static_cast<size_t>(r * n + j)] = size;
    }
  }
  return result;
}

// Rows [row, end) and panels [begin, panelEnd) of the product into y [rows][n].
void multiplyPart(const DotKernel& kernel, const PackedView& w, SplitTest& s, int64_t row, int64_t end, int64_t begin,
                  int64_t panelEnd, const float* bias, std::vector<float>& y) {
  const Shape& shape = w.shape;
  const int64_t chunk = s.quads ? layout::kQuadChunk : layout::kPairChunk, blocks = layout::blocks(shape);
  const size_t bytes = static_cast<size_t>(kernel.scratchBytes(shape, end - row, panelEnd - begin));
  std::vector<uint8_t> scratch(bytes + 64, 0xff);  // NaN wherever it is read before it is written
  const int64_t offset = -reinterpret_cast<intptr_t>(scratch.data()) & 63;
  kernel.multiply({&w, s.chunks() + row * layout::rowBytes(shape, chunk, s.limbs),
                   s.quads ? s.scales.data() + row * blocks : nullptr, s.quads ? s.sums.data() + row * blocks : nullptr,
                   s.limbs, end - row, y.data() + row * shape.n, shape.n, bias, begin, panelEnd,
                   scratch.data() + offset});
}

std::string describe(const char* table, const PackedView& w, const SplitTest& s) {
  return std::string(table) + (s.quads ? " quads" : " pairs") + " kind " +
         std::to_string(static_cast<int>(w.shape.kind)) + " m " + std::to_string(s.rows) + " n " +
         std::to_string(w.shape.n) + " k " + std::to_string(w.shape.k) + " group " + std::to_string(w.shape.groupSize) +
         " limbs " + std::to_string(s.limbs) + (w.zeros != nullptr ? " zeros" : " zero " + std::to_string(w.zero));
}

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
