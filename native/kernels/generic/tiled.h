// Matmul of many rows: a block of weights is decoded to f32 once and multiplied with all rows. Bound by arithmetic.
// Include after an instruction set's simd.h.
//
//   rows      x block: copied [rows][kRowStride], in L2        y += x block * weight block, one column of tiles at a
//   time: kDepth    one block of packed k                            kTileRows x kTilePanels * 16 outputs in registers
//   panels    weight block: kTilePanels x [kDepth][16] in L1
//
// An output is the sum of its block sums in order of k, each a single chain: independent of tiles, panels and
// instruction set.
#pragma once

#include "kernels/generic/fused.h"

namespace tsq {
namespace {

// Packed columns [p, p + depth) of a panel as f32 [depth][16], scaled.
template <int kBits>
TSQ_INLINE void decodeStep(const Decoder<kBits>& decoder, const uint8_t* line, Lanes scale, float* out) {
  const Words lower = loadWords(line), upper = upperHalves(lower);
  prefetch(line + kPrefetchBytes);
  store(out, mul(scale, decoder.template decode<0>(lower, upper)));
  store(out + 16, mul(scale, decoder.template decode<1>(lower, upper)));
  store(out + 32, mul(scale, decoder.template decode<2>(lower, upper)));
  store(out + 48, mul(scale, decoder.template decode<3>(lower, upper)));
  if constexpr (kBits == 4) {
    store(out + 64, mul(scale, decoder.template decode<4>(lower, upper)));
    store(out + 80, mul(scale, decoder.template decode<5>(lower, upper)));
    store(out + 96, mul(scale, decoder.template decode<6>(lower, upper)));
    store(out + 112, mul(scale, decoder.template decode<7>(lower, upper)));
  }
}

template <int kBits>
void decodeCodes(const PackedView& w, int64_t panel, int64_t p, int64_t depth, float* out) {
  const layout::Shape& shape = w.shape;
  constexpr int64_t kStep = kCodesPerWord<kBits>, kLine = 64;
  const int64_t groups = layout::groups(shape), stride = layout::groupStride(shape), end = p + depth;
  const uint8_t* line = static_cast<const uint8_t*>(w.data) + panel * layout::panelBytes(shape) + p / kStep * kLine;
  while (p < end) {
    const int64_t group = p / stride, at = (panel * groups + group) * layout::kPanel;
    const int64_t stop = (group + 1) * stride < end ? (group + 1) * stride : end;
    const Lanes scale = load(w.scales + at);
    Decoder<kBits> decoder;
    decoder.setZero(w, at);
    for (; p < stop; p += kStep, line += kLine, out += kStep * layout::kPanel) decodeStep(decoder, line, scale, out);
  }
}

template <layout::WeightKind kKind>
void widen(const PackedView& w, int64_t panel, int64_t p, int64_t depth, float* out) {
  const uint8_t* source =
      static_cast<const uint8_t*>(w.data) + (panel * layout::packedK(w.shape) + p) * layout::kPanel * 2;
  for (int64_t i = 0; i < depth; ++i, source += 32) {
    prefetch(source + kPrefetchBytes);
    store(out + i * layout::kPanel, loadWeights<kKind>(source, 0));
  }
}

// The block of kPanels panels: decoded into `room`, or in place where the weight is f32 already. *apart: floats between
// panels.
TSQ_INLINE const float* weightBlock(const PackedView& w, int64_t panel, int panels, int64_t p, int64_t depth,
                                    float* room, int64_t* apart) {
  using layout::WeightKind;
  *apart = blocking::kDepth * layout::kPanel;
  if (w.shape.kind == WeightKind::kF32) {
    *apart = layout::packedK(w.shape) * layout::kPanel;
    return static_cast<const float*>(w.data) + panel * *apart + p * layout::kPanel;
  }
  for (int q = 0; q < panels; ++q) {
    float* out = room + q * *apart;
    switch (w.shape.kind) {
      case WeightKind::kF16:
        widen<WeightKind::kF16>(w, panel + q, p, depth, out);
        break;
      case WeightKind::kBF16:
        widen<WeightKind::kBF16>(w, panel + q, p, depth, out);
        break;
      case WeightKind::kU8:
        decodeCodes<8>(w, panel + q, p, depth, out);
        break;
      default:
        decodeCodes<4>(w, panel + q, p, depth, out);
        break;
    }
  }
  return room;
}

struct Tile {
  const float* x;  // [rows][kRowStride]
  const float* w;  // panels of [depth][16]
  int64_t apart;   // floats between panels
  int64_t depth;
  float* y;  // first row
  int64_t ldy;
  int64_t column, n;  // first column of the tile; columns of y
  bool first;         // y holds nothing yet
  const float* bias;  // added with the last block, else null
};

template <int kRows, int kPanels>
__attribute__((noinline)) void tile(const Tile& t) {
  Lanes sums[kRows][kPanels];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int q = 0; q < kPanels; ++q) sums[r][q] = zeros();
  }
  const float* x = t.x;
  const float* w = t.w;
  const int64_t apart = t.apart;
  for (int64_t i = 0; i < t.depth; ++i, ++x, w += layout::kPanel) {
    Lanes weights[kPanels];
#pragma GCC unroll 2
    for (int q = 0; q < kPanels; ++q) weights[q] = load(w + q * apart);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Lanes value = set1(x[r * blocking::kRowStride]);
#pragma GCC unroll 2
      for (int q = 0; q < kPanels; ++q) sums[r][q] = fma(weights[q], value, sums[r][q]);
    }
  }
#pragma GCC unroll 2
  for (int q = 0; q < kPanels; ++q) {
    const int64_t column = t.column + q * layout::kPanel, count = t.n - column;
    if (count >= layout::kPanel) {
      const Lanes bias = t.bias != nullptr ? load(t.bias + column) : zeros();
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        float* y = t.y + r * t.ldy + column;
        const Lanes total = t.first ? sums[r][q] : add(load(y), sums[r][q]);
        store(y, t.bias != nullptr ? add(total, bias) : total);
      }
    } else {
      const Lanes bias = t.bias != nullptr ? loadPartial(t.bias + column, count) : zeros();
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        float* y = t.y + r * t.ldy + column;
        const Lanes total = t.first ? sums[r][q] : add(loadPartial(y, count), sums[r][q]);
        storePartial(y, t.bias != nullptr ? add(total, bias) : total, count);
      }
    }
  }
}

template <int kPanels, int kRows = kTileRows>
TSQ_INLINE void tileOf(int64_t rows, const Tile& t) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return tileOf<kPanels, kRows - 1>(rows, t);
  }
  tile<kRows, kPanels>(t);
}

// All rows of the block against one weight block. Rows are cut evenly: 16 rows are 8 + 8 and not 12 + 4.
template <int kPanels>
void tileColumn(int64_t rows, Tile t) {
  int64_t tiles = layout::divideUp(rows, kTileRows);
  while (rows > 0) {
    const int64_t here = layout::divideUp(rows, tiles--);
    tileOf<kPanels>(here, t);
    t.x += here * blocking::kRowStride;
    t.y += here * t.ldy;
    rows -= here;
  }
}

TSQ_INLINE void copyBlock(const float* x, int64_t ldx, int64_t rows, int64_t depth, float* out) {
  for (int64_t r = 0; r < rows; ++r, x += ldx, out += blocking::kRowStride) {
    int64_t i = 0;
    for (; i + 16 <= depth; i += 16) store(out + i, load(x + i));
    if (i < depth) storePartial(out + i, loadPartial(x + i, depth - i), depth - i);
  }
}

void tiledRows(const Call& call, int64_t rows, int64_t panelBegin, int64_t panelEnd, float* scratch) {
  const PackedView& w = *call.w;
  const int64_t width = layout::packedK(w.shape);
  float* weights = scratch;
  float* block = scratch + blocking::kWeightFloats;
  for (int64_t p = 0; p < width; p += blocking::kDepth) {
    const int64_t depth = width - p < blocking::kDepth ? width - p : blocking::kDepth;
    copyBlock(call.x + p, call.ldx, rows, depth, block);
    Tile t{block, nullptr, 0, depth, call.y, call.ldy, 0, w.shape.n, p == 0, p + depth == width ? call.bias : nullptr};
    for (int64_t panel = panelBegin; panel < panelEnd;) {
      const int panels = panelEnd - panel >= kTilePanels ? kTilePanels : 1;
      t.w = weightBlock(w, panel, panels, p, depth, weights, &t.apart);
      t.column = panel * layout::kPanel;
      if (panels == kTilePanels) {
        tileColumn<kTilePanels>(rows, t);
      } else {
        tileColumn<1>(rows, t);
      }
      panel += panels;
    }
  }
}

void linear(const PackedView& w, const float* x, int64_t ldx, int64_t m, float* y, int64_t ldy, const float* bias,
            int64_t panelBegin, int64_t panelEnd, float* scratch) {
  const Call call{&w, x, ldx, y, ldy, bias};
  switch (m) {
    case 0:
      return;
    case 1:
      return fusedRows<1>(call, panelBegin, panelEnd);
    case 2:
      return fusedRows<2>(call, panelBegin, panelEnd);
    case 3:
      return fusedRows<3>(call, panelBegin, panelEnd);
    case 4:
      return fusedRows<4>(call, panelBegin, panelEnd);
    default:
      break;
  }
  for (int64_t block = 0; block < blocking::rowBlocks(m); ++block) {
    const int64_t row = blocking::rowStart(m, block), rows = blocking::rowStart(m, block + 1) - row;
    const Call part{&w, x + row * ldx, ldx, y + row * ldy, ldy, bias};
    tiledRows(part, rows, panelBegin, panelEnd, scratch);
  }
}

}  // namespace
}  // namespace tsq
