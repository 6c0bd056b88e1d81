// Matmul of many rows: a block of weights is decoded to f32 once and multiplied with all rows. Bound by arithmetic.
// Include after an instruction set's parts.h.
//
//   kDepth packed columns at a time:
//   activations   [rows][kRowStride], copied, in L2
//   weights       [kTilePanels][kDepth][16], in L1
//   totals +=     one column of tiles after the other, kTileRows x kTilePanels * 16 outputs in registers
//
// Totals of kTotalPanels panels stay in L2, close together: rows of y lie too far apart for it. Only the last block of
// columns writes to y.
//
// An output is the sum of its block sums in order of k, each a single chain: independent of tiles, panels and
// instruction set.
#pragma once

#include "kernels/generic/fused.h"

namespace tsq {
namespace {

// Places of one word to [column][16], scaled.
template <layout::WeightKind kKind, int kWord, int kIndex>
TSQ_INLINE void decodePlaces(const WordDecoder<kKind>& decoder, Words lower, Words upper, Lanes scale, float* out) {
  using S = Step<kKind>;
  constexpr int kColumn = S::column(kWord, kIndex / S::kPlaces, kIndex % S::kPlaces);
  store(out + kColumn * layout::kPanel, mul(scale, decoder.template decode<kIndex>(lower, upper)));
  if constexpr (kIndex + 1 < 2 * S::kPlaces) decodePlaces<kKind, kWord, kIndex + 1>(decoder, lower, upper, scale, out);
}
template <layout::WeightKind kKind, int kWord = 0>
TSQ_INLINE void decodeWords(const WordDecoder<kKind>& decoder, const Words (&words)[Step<kKind>::kWords], Lanes scale,
                            float* out) {
  decodePlaces<kKind, kWord, 0>(decoder, words[kWord], upperHalves(words[kWord]), scale, out);
  if constexpr (kWord + 1 < Step<kKind>::kWords) decodeWords<kKind, kWord + 1>(decoder, words, scale, out);
}

// Packed columns [p, p + depth) of a panel as f32 [depth][16], scaled.
template <layout::WeightKind kKind>
void decodeCodes(const PackedView& w, int64_t panel, int64_t p, int64_t depth, float* out) {
  using S = Step<kKind>;
  const layout::Shape& shape = w.shape;
  const int64_t groups = layout::groups(shape), stride = layout::groupStride(shape), end = p + depth;
  const int64_t next = kTilePanels * layout::panelBytes(shape);  // bytes to what is decoded next
  const uint8_t* line =
      static_cast<const uint8_t*>(w.data) + panel * layout::panelBytes(shape) + p / S::kColumns * S::kLines * 64;
  while (p < end) {
    const int64_t group = p / stride, at = (panel * groups + group) * layout::kPanel;
    const int64_t stop = (group + 1) * stride < end ? (group + 1) * stride : end;
    const Lanes scale = loadScales(w, at);
    WordDecoder<kKind> decoder;
    decoder.set(w, at);
    for (; p < stop; p += S::kColumns, line += S::kLines * 64, out += S::kColumns * layout::kPanel) {
      Words lines[S::kLines], words[S::kWords];
#pragma GCC unroll 3
      for (int i = 0; i < S::kLines; ++i) {
        lines[i] = loadWords(line + i * 64);
        prefetch(line + i * 64 + next);
      }
      S::words(lines, words);
      decodeWords<kKind>(decoder, words, scale, out);
    }
  }
}

template <layout::WeightKind kKind>
void widen(const PackedView& w, int64_t panel, int64_t p, int64_t depth, float* out) {
  const int64_t next = kTilePanels * layout::panelBytes(w.shape);  // bytes to what is widened next
  const uint8_t* source =
      static_cast<const uint8_t*>(w.data) + panel * layout::panelBytes(w.shape) + p * layout::kPanel * 2;
  for (int64_t i = 0; i < depth; ++i, source += 32) {
    prefetch(source + next);
    store(out + i * layout::kPanel, loadWeights<kKind>(source));
  }
}

// The same of 8-bit floats, scaled.
template <layout::WeightKind kKind>
void widenScaled(const PackedView& w, int64_t panel, int64_t p, int64_t depth, float* out) {
  const layout::Shape& shape = w.shape;
  const int64_t groups = layout::groups(shape), stride = layout::groupStride(shape), end = p + depth;
  const int64_t next = kTilePanels * layout::panelBytes(shape);
  const uint8_t* source = static_cast<const uint8_t*>(w.data) + panel * layout::panelBytes(shape) + p * layout::kPanel;
  while (p < end) {
    const int64_t group = p / stride, stop = (group + 1) * stride < end ? (group + 1) * stride : end;
    const Lanes scale = loadScales(w, (panel * groups + group) * layout::kPanel), factor = set1(kFactor<kKind>);
    for (; p < stop; ++p, source += layout::kPanel, out += layout::kPanel) {
      prefetch(source + next);
      store(out, mul(scale, mul(factor, loadWeights<kKind>(source))));
    }
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
        decodeCodes<WeightKind::kU8>(w, panel + q, p, depth, out);
        break;
      case WeightKind::kU4:
        decodeCodes<WeightKind::kU4>(w, panel + q, p, depth, out);
        break;
      case WeightKind::kU3:
        decodeCodes<WeightKind::kU3>(w, panel + q, p, depth, out);
        break;
      case WeightKind::kB4:
      case WeightKind::kI4:
        decodeCodes<WeightKind::kB4>(w, panel + q, p, depth, out);
        break;
      case WeightKind::kE4M3:
        widenScaled<WeightKind::kE4M3>(w, panel + q, p, depth, out);
        break;
      case WeightKind::kE5M2:
        widenScaled<WeightKind::kE5M2>(w, panel + q, p, depth, out);
        break;
      default:
        decodeCodes<WeightKind::kU2>(w, panel + q, p, depth, out);
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
  float* y;  // first row, first column of the tile
  int64_t ldy;
  int64_t columns;    // of y from there on
  const float* from;  // what is added to: y itself, or the same row for all
  int64_t fromLd;     // 0 then
};

template <int kRows, int kPanels>
__attribute__((noinline)) void tile(const Tile& t) {
  const int64_t ldy = t.ldy, fromLd = t.fromLd, apart = t.apart, depth = t.depth;
  float* y = t.y;
  const float* from = t.from;
  Lanes sums[kRows][kPanels];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int q = 0; q < kPanels; ++q) sums[r][q] = zeros();
  }
  const float* x = t.x;
  const float* w = t.w;
  for (int64_t i = 0; i < depth; ++i, ++x, w += layout::kPanel) {
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
  if (t.columns >= kPanels * layout::kPanel) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r, y += ldy, from += fromLd) {
#pragma GCC unroll 2
      for (int q = 0; q < kPanels; ++q) {
        store(y + q * layout::kPanel, add(load(from + q * layout::kPanel), sums[r][q]));
      }
    }
    return;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r, y += ldy, from += fromLd) {
#pragma GCC unroll 2
    for (int q = 0; q < kPanels; ++q) {
      const int64_t at = q * layout::kPanel, count = t.columns - at < layout::kPanel ? t.columns - at : layout::kPanel;
      storePartial(y + at, add(loadPartial(from + at, count), sums[r][q]), count);
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
    t.from += here * t.fromLd;
    rows -= here;
  }
}

template <int kPanels = kTilePanels>
TSQ_INLINE void tileColumns(int panels, int64_t rows, const Tile& t) {
  if constexpr (kPanels > 1) {
    if (panels < kPanels) return tileColumns<kPanels - 1>(panels, rows, t);
  }
  tileColumn<kPanels>(rows, t);
}

TSQ_INLINE void copyBlock(const float* x, int64_t ldx, int64_t rows, int64_t depth, float* out) {
  for (int64_t r = 0; r < rows; ++r, x += ldx, out += blocking::kRowStride) {
    int64_t i = 0;
    for (; i + 16 <= depth; i += 16) store(out + i, load(x + i));
    if (i < depth) storePartial(out + i, loadPartial(x + i, depth - i), depth - i);
  }
}

// What the totals of panels from `column` on begin with.
TSQ_INLINE void startTotals(const Call& call, int64_t column, float (&out)[kTilePanels * layout::kPanel]) {
  for (int64_t i = 0; i < kTilePanels * layout::kPanel; ++i) {
    out[i] = call.bias != nullptr && column + i < call.w->shape.n ? call.bias[column + i] : 0;
  }
}

// At most kTotalPanels panels.
void tiledRows(const Call& call, int64_t rows, int64_t panelBegin, int64_t panelEnd, float* scratch) {
  constexpr int64_t kWidth = kTilePanels * layout::kPanel;
  const PackedView& w = *call.w;
  const int64_t width = layout::packedK(w.shape);
  float* weights = scratch;
  float* block = weights + blocking::kWeightFloats;
  float* const totals = block + blocking::kActivationFloats;
  for (int64_t p = 0; p < width; p += blocking::kDepth) {
    const int64_t depth = width - p < blocking::kDepth ? width - p : blocking::kDepth;
    copyBlock(call.x + p, call.ldx, rows, depth, block);
    float* total = totals;
    for (int64_t panel = panelBegin; panel < panelEnd; total += rows * kWidth) {
      const int panels = panelEnd - panel >= kTilePanels ? kTilePanels : static_cast<int>(panelEnd - panel);
      const int64_t column = panel * layout::kPanel;
      Tile t{block, nullptr, 0, depth, total, kWidth, kWidth, total, kWidth};
      alignas(64) float start[kWidth];
      if (p == 0) {
        startTotals(call, column, start);
        t.from = start;
        t.fromLd = 0;
      }
      if (p + depth == width) {
        t.y = call.y + column;
        t.ldy = call.ldy;
        t.columns = w.shape.n - column;
      }
      t.w = weightBlock(w, panel, panels, p, depth, weights, &t.apart);
      tileColumns(panels, rows, t);
      panel += panels;
    }
  }
}

void linear(const PackedView& w, const float* x, int64_t ldx, int64_t m, float* y, int64_t ldy, const float* bias,
            int64_t panelBegin, int64_t panelEnd, float* scratch) {
  const Call call{&w, x, ldx, y, ldy, bias};
  if (m == 0) return;
  if (m <= kFusedMost) return fusedRows(call, m, panelBegin, panelEnd);
  for (int64_t block = 0; block < blocking::rowBlocks(m); ++block) {
    const int64_t row = blocking::rowStart(m, block), rows = blocking::rowStart(m, block + 1) - row;
    const Call part{&w, x + row * ldx, ldx, y + row * ldy, ldy, bias};
    for (int64_t panel = panelBegin; panel < panelEnd; panel += blocking::kTotalPanels) {
      const int64_t rest = panelEnd - panel;
      tiledRows(part, rows, panel, panel + (rest < blocking::kTotalPanels ? rest : blocking::kTotalPanels), scratch);
    }
  }
}

}  // namespace
}  // namespace tsq
