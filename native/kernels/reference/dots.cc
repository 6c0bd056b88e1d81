// Products of split activations (layout/activations.h), one output at a time, in double.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/reference/reference.h"
#include "layout/activations.h"

namespace tsq::reference {
namespace {

using layout::Block;
using layout::kBundle;
using layout::kChunkBytes;

// Calls visit(packed column, chunk of the weight's row, element of the chunk) for every column of a block.
template <typename Visit>
void forColumns(const layout::Shape& shape, int64_t block, bool quads, Visit visit) {
  const Block at = layout::blockAt(shape, block);
  const int64_t size = quads ? layout::kQuadChunk : layout::kPairChunk, width = quads ? 4 : 2;
  const int64_t first = layout::firstChunk(shape, block, size);
  for (int64_t begin = 0; begin < at.length; begin += size) {
    for (int64_t i = 0; i < 16; ++i) {
      for (int64_t e = 0; e < width; ++e) {
        const int64_t column =
            begin + (quads ? layout::quadColumn(shape.kind, i, e) : layout::pairColumn(shape.kind, i, e));
        if (column < at.length) visit(at.p + column, first + begin / size, i * width + e);
      }
    }
  }
}

// Sets every element of the row to zero first: chunks may have more columns than their block.
void clear(const SplitRow& row, int64_t chunkSize) {
  for (int64_t i = 0; i < layout::chunks(*row.shape, chunkSize) * row.limbs; ++i) {
    std::memset(row.chunks + i * row.apart, 0, kChunkBytes);
  }
}

// The upper 16 bits: cut, not rounded, so that three parts of 8 bits hold all 24 of a float.
float upperPart(float x) {
  return bitsToFloat(floatToBits(x) & 0xffff0000u);
}

// The whole number of a code book above its zero point.
int64_t wholeAt(const PackedView& w, int64_t n, int64_t p) {
  return static_cast<int64_t>(w.book[codeAt(w, n, p)]) + layout::kBookZero;
}

struct BundleRow {
  int64_t bundle, rows, row;
};
BundleRow bundleRow(const DotCall& call, int64_t row) {
  const int64_t bundle = row / kBundle;
  return {bundle, std::min(kBundle, call.rows - bundle * kBundle), row % kBundle};
}

}  // namespace

void splitPairs(const SplitRow& row) {
  const layout::Shape& shape = *row.shape;
  clear(row, layout::kPairChunk);
  for (int64_t block = 0; block < layout::blocks(shape); ++block) {
    forColumns(shape, block, false, [&](int64_t p, int64_t chunk, int64_t element) {
      float rest = row.x[p];
      for (int limb = 0; limb < row.limbs; ++limb) {
        const float part = upperPart(rest);
        const uint16_t bits = std::isnan(rest) ? uint16_t{0x7fc0} : static_cast<uint16_t>(floatToBits(part) >> 16);
        std::memcpy(row.chunks + (chunk * row.limbs + limb) * row.apart + element * 2, &bits, 2);
        rest = std::isfinite(rest) ? rest - part : 0;  // an infinity is a part of its own
      }
    });
  }
}

void splitQuads(const SplitRow& row) {
  const layout::Shape& shape = *row.shape;
  clear(row, layout::kQuadChunk);
  if (row.byRow) *row.sums = 0;
  for (int64_t block = 0; block < layout::blocks(shape); ++block) {
    const Block at = layout::blockAt(shape, block);
    float peak = 0;
    bool finite = true;
    for (int64_t i = 0; i < at.length; ++i) {
      finite = finite && std::isfinite(row.x[at.p + i]);
      peak = std::max(peak, std::fabs(row.x[at.p + i]));
    }
    // Without a finite peak there is no grid: the whole block becomes NaN, by its scale.
    const float inverse = finite && peak > 0 ? 127.0f / peak : 0.0f;
    const bool byRow = row.scale != 0;
    const bool grid = byRow ? row.scale > 0 : finite && std::isfinite(inverse);
    int32_t sum = 0;
    forColumns(shape, block, true, [&](int64_t p, int64_t chunk, int64_t element) {
      const double exact = byRow ? std::nearbyint(row.x[p] / row.scale) + row.zero : std::nearbyint(row.x[p] * inverse);
      const int8_t code = grid ? static_cast<int8_t>(std::clamp(exact, -128.0, 127.0)) : int8_t{0};
      row.chunks[chunk * row.apart + element] = static_cast<uint8_t>(code);
      sum += code;
    });
    const int64_t to = row.byRow ? 0 : block * row.step;
    row.scales[to] = byRow ? row.scale : finite ? (grid ? peak / 127.0f : 0.0f) : std::nanf("");
    row.sums[to] = row.byRow ? row.sums[to] + sum : sum;
  }
}

void multiplyPairs(const DotCall& call) {
  const PackedView& w = *call.w;
  const layout::Shape& shape = w.shape;
  const int64_t bytes = layout::rowBytes(shape, layout::kPairChunk, call.limbs), blocks = layout::blocks(shape);
  const int64_t end = std::min(call.panelEnd * layout::kPanel, shape.n);
  for (int64_t row = 0; row < call.rows; ++row) {
    const BundleRow at = bundleRow(call, row);
    const uint8_t* chunks = call.chunks + at.bundle * kBundle * bytes + at.row * kChunkBytes;
    for (int64_t n = call.panelBegin * layout::kPanel; n < end; ++n) {
      double sum = call.bias != nullptr ? call.bias[n] : 0;
      for (int64_t block = 0; block < blocks; ++block) {
        const double scale = call.scales[at.bundle * kBundle * blocks + at.row + block * at.rows];
        forColumns(shape, block, false, [&](int64_t p, int64_t chunk, int64_t element) {
          double x = 0;
          for (int limb = 0; limb < call.limbs; ++limb) {
            uint16_t bits;
            std::memcpy(&bits, chunks + (chunk * call.limbs + limb) * at.rows * kChunkBytes + element * 2, 2);
            x += bf16ToFloat(bits);
          }
          sum += scale * x * weightAt(w, n, p);
        });
      }
      call.y[row * call.ldy + n] = static_cast<float>(sum);
    }
  }
}

void multiplyQuads(const DotCall& call) {
  const PackedView& w = *call.w;
  const layout::Shape& shape = w.shape;
  const int64_t bytes = layout::rowBytes(shape, layout::kQuadChunk, 1), blocks = layout::blocks(shape);
  const int64_t end = std::min(call.panelEnd * layout::kPanel, shape.n);
  const bool isBook = layout::hasBook(shape.kind);
  for (int64_t row = 0; row < call.rows; ++row) {
    const BundleRow at = bundleRow(call, row);
    const uint8_t* chunks = call.chunks + at.bundle * kBundle * bytes + at.row * kChunkBytes;
    const int64_t first = at.bundle * kBundle * (call.byRow ? 1 : blocks) + at.row;
    for (int64_t n = call.panelBegin * layout::kPanel; n < end; ++n) {
      double total = call.bias != nullptr ? call.bias[n] : 0;
      int64_t sum = 0;
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t group = layout::blockAt(shape, block).group;
        forColumns(shape, block, true, [&](int64_t p, int64_t chunk, int64_t element) {
          sum += static_cast<int8_t>(chunks[chunk * at.rows * kChunkBytes + element]) *
                 (isBook ? wholeAt(w, n, p) : codeAt(w, n, p));
        });
        if (call.byRow && block + 1 < blocks) continue;
        const int64_t scaled = first + (call.byRow ? 0 : block * at.rows);
        sum -= static_cast<int64_t>(zeroAt(w, n, group)) * call.sums[scaled];
        total += static_cast<double>(call.scales[scaled]) * scaleAt(w, n, group) * static_cast<double>(sum);
        sum = 0;
      }
      call.y[row * call.ldy + n] = static_cast<float>(total);
    }
  }
}

}  // namespace tsq::reference
