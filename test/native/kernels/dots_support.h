// Weights in packed memory and split activations for the tests of pairs, quads and digits.
#pragma once
#include <algorithm>
#include <memory>

#include "kernels/reference/reference.h"
#include "layout/activations.h"
#include "support.h"

namespace support {

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

inline PackedTest randomPacked(Random& random, const WeightChoice& choice) {
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
inline std::vector<float> randomRows(Random& random, const Shape& shape, int64_t m) {
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
  bool byRow = false;
  std::vector<uint8_t> memory;
  int64_t offset = 0;  // to a multiple of 64
  std::vector<float> scales;
  std::vector<int32_t> sums;
  uint8_t* chunks() { return memory.data() + offset; }
};

// byRow: of a grid for each row whose zero point is not 0.
inline SplitTest split(const DotKernel& kernel, const Shape& shape, const std::vector<float>& x, int64_t rows,
                       int limbs, bool quads, bool byRow = false) {
  constexpr int64_t kSlack = 1024;
  SplitTest s;
  s.rows = rows;
  s.limbs = limbs;
  s.quads = quads;
  s.byRow = byRow;
  const int64_t chunk = quads ? layout::kQuadChunk : layout::kPairChunk;
  const int64_t bytes = layout::rowBytes(shape, chunk, limbs), blocks = byRow ? 1 : layout::blocks(shape);
  s.memory.assign(static_cast<size_t>(rows * bytes + kSlack + 64), 0xaa);
  s.offset = -reinterpret_cast<intptr_t>(s.memory.data()) & 63;
  s.scales.assign(static_cast<size_t>(rows * blocks), -1.0f);
  s.sums.assign(static_cast<size_t>(rows * blocks * limbs), -1);
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
    call.scales = s.scales.data() + bundle * blocks + (r - bundle);
    if (!quads) {
      for (int64_t b = 0; b < blocks; ++b) call.scales[b * size] = 1;
    }
    call.sums = quads ? s.sums.data() + bundle * blocks * limbs + (r - bundle) : nullptr;
    call.step = size;
    if (byRow) {
      float peak = 0;
      for (int64_t i = 0; i < width; ++i) peak = std::max(peak, std::fabs(row[static_cast<size_t>(i)]));
      call.scale = peak > 0 ? peak / 120 : 1;
      call.zero = static_cast<int32_t>(r % 15) - 7;
      call.byRow = true;
    }
    kernel.split(call);
  }
  return s;
}

// What the chunks hold: [rows][packedK] in double.
inline std::vector<double> valuesOf(SplitTest& s, const Shape& shape) {
  const int64_t chunk = s.quads ? layout::kQuadChunk : layout::kPairChunk, wide = s.quads ? 4 : 2;
  const int64_t bytes = layout::rowBytes(shape, chunk, s.limbs), blocks = layout::blocks(shape);
  const int64_t width = layout::packedK(shape), scaled = s.byRow ? 1 : blocks;
  std::vector<double> values(static_cast<size_t>(s.rows * width));
  for (int64_t r = 0; r < s.rows; ++r) {
    const int64_t bundle = r / layout::kBundle * layout::kBundle, size = std::min(layout::kBundle, s.rows - bundle);
    for (int64_t b = 0; b < blocks; ++b) {
      const layout::Block block = layout::blockAt(shape, b);
      for (int64_t place = 0; place < layout::divideUp(block.length, chunk) * chunk; ++place) {
        const int64_t i = place % chunk / wide, e = place % wide;
        const int64_t column = place / chunk * chunk +
                               (s.quads ? layout::quadColumn(shape.kind, i, e) : layout::pairColumn(shape.kind, i, e));
        if (column >= block.length) continue;
        double& value = values[static_cast<size_t>(r * width + block.p + column)];
        for (int limb = 0; limb < s.limbs; ++limb) {
          const uint8_t* p = s.chunks() + bundle * bytes + (r - bundle) * layout::kChunkBytes +
                             ((layout::firstChunk(shape, b, chunk) + place / chunk) * s.limbs + limb) * size * 64 +
                             place % chunk * (s.quads ? 1 : 2);
          if (s.quads) {
            const int64_t at = bundle * scaled + (s.byRow ? 0 : b * size) + r - bundle;
            value +=
                static_cast<double>(s.scales[static_cast<size_t>(at)]) * std::ldexp(static_cast<int8_t>(*p), 8 * limb);
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

inline Product exactProduct(const PackedView& w, const std::vector<double>& x, int64_t m, const float* bias) {
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
inline void multiplyPart(const DotKernel& kernel, const PackedView& w, SplitTest& s, int64_t row, int64_t end,
                         int64_t begin, int64_t panelEnd, const float* bias, std::vector<float>& y) {
  const Shape& shape = w.shape;
  const int64_t chunk = s.quads ? layout::kQuadChunk : layout::kPairChunk;
  const int64_t blocks = s.byRow ? 1 : layout::blocks(shape);
  const size_t bytes = static_cast<size_t>(kernel.scratchBytes(shape, end - row, panelEnd - begin));
  std::vector<uint8_t> scratch(bytes + 64, 0xff);  // NaN wherever it is read before it is written
  const int64_t offset = -reinterpret_cast<intptr_t>(scratch.data()) & 63;
  kernel.multiply({&w, s.chunks() + row * layout::rowBytes(shape, chunk, s.limbs), s.scales.data() + row * blocks,
                   s.quads ? s.sums.data() + row * blocks * s.limbs : nullptr, s.limbs, end - row,
                   y.data() + row * shape.n, shape.n, bias, begin, panelEnd, scratch.data() + offset, s.byRow});
}

inline std::string describe(const char* table, const PackedView& w, const SplitTest& s) {
  return std::string(table) + (s.quads ? " quads" : " pairs") + (s.byRow ? " by row" : "") + " kind " +
         std::to_string(static_cast<int>(w.shape.kind)) + " m " + std::to_string(s.rows) + " n " +
         std::to_string(w.shape.n) + " k " + std::to_string(w.shape.k) + " group " + std::to_string(w.shape.groupSize) +
         " limbs " + std::to_string(s.limbs) + (w.zeros != nullptr ? " zeros" : " zero " + std::to_string(w.zero));
}

}  // namespace support
