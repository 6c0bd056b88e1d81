// Products of split activations (layout/activations.h) on Advanced SIMD: the loops that quads of int8 and pairs of
// bf16 share.
//
// A register of activations is 16 bytes of one row: four quads or pairs, a step of Engine::kStep columns. A register of
// weights is one quad or pair of 4 outputs, so that an instruction "by element" multiplies it with one of the four.
// Bundles of up to 4 rows are multiplied while the weights are decoded (fused); larger ones share blocks of decoded
// weights (tiled), where an engine with kMatrix multiplies 2 rows x 2 outputs x 8 bytes of k at a time.
//
// Either way an output's terms are added in the same order: block after block, and within a block limb after limb, the
// smallest first. So a row's result does not depend on the rows beside it.
//
// An Engine says what differs between instructions:
//   Sum, zero(), add()           four running sums
//   kStep, kMostLimbs            columns of a register, parts of an activation
//   kByElement, dot()            sum += weights * one element of x, or * all four
//   kMatrix, matrix()            2 outputs x 2 rows; firstRow(), secondRow() sort two such sums
//   kChains                      see DotSums
//   kTileRows, kTileColumns      of a tile; kTileColumns is 2 where kMatrix is set
//   Terms                        scales and zero points of 16 outputs; addTo() finishes a block
// Codes say how weights become registers: kColumns columns in kBytes bytes of a panel are kSteps steps; setGroup()
// comes before load(). kHalves: load<true>() takes half as many, zeros behind. kCenter: what has been subtracted from
// codes.
#pragma once

#include "kernels/neon/words.h"

#include "kernels/blocking.h"
#include "kernels/generic/codes.h"
#include "kernels/kernels.h"
#include "layout/activations.h"

namespace tsq {
namespace {

using layout::kChunkBytes;
using layout::WeightKind;

constexpr int64_t kStepsPerChunk = kChunkBytes / 16;
constexpr int64_t kLineBytes = 64;
constexpr int kColumns4 = 4;  // registers of 4 outputs in a panel
// Bytes between the line in use and the one fetched ahead, where the hardware's own fetching stops at page ends.
constexpr int64_t kPrefetchBytes = 2048;

TSQ_INLINE const uint8_t* weightLine(const PackedView& w, int64_t panel, int64_t p) {
  const int64_t bits = w.shape.kind == WeightKind::kBF16 ? 16 : layout::codeBits(w.shape.kind);
  return static_cast<const uint8_t*>(w.data) + panel * layout::panelBytes(w.shape) + p * layout::kPanel * bits / 8;
}

// Scales and sums of codes of some rows in one block; sums are null for pairs.
struct RowTerms {
  const float* scales;
  const int32_t* sums;
  __attribute__((always_inline)) RowTerms from(int64_t index) const {
    return {scales + index, sums != nullptr ? sums + index : nullptr};
  }
};

// The rows of one bundle.
struct Bundle {
  const uint8_t* chunks;
  RowTerms terms;  // [block][rows]
  int64_t rows;
};

// Sums of kRows rows and 4 kColumns outputs. kChains: of additions. Two where the order does not count (integers) and a
// single row's dots would wait for each other.
template <typename Engine, int kRows, int kColumns, int kChains>
struct DotSums {
  static constexpr int kCount = kRows;
  typename Engine::Sum chain[kRows][kColumns][kChains];

  __attribute__((always_inline)) void clear() {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; ++c) {
#pragma GCC unroll 2
        for (int i = 0; i < kChains; ++i) chain[r][c][i] = Engine::zero();
      }
    }
  }
  // Four registers of weights of outputs 4 c … 4 c + 3 times a register of activations of every row.
  __attribute__((always_inline)) void add(int c, const uint8x16_t (&w)[4], const uint8_t* x) {
    if constexpr (Engine::kByElement) {
      addElement<0>(c, w, x);
      addElement<1>(c, w, x);
      addElement<2>(c, w, x);
      addElement<3>(c, w, x);
    } else {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) chain[r][c][0] = Engine::dot(chain[r][c][0], w, vld1q_u8(x + r * kChunkBytes));
    }
  }
  __attribute__((always_inline)) typename Engine::Sum total(int r, int c) const {
    if constexpr (kChains == 2) return Engine::add(chain[r][c][0], chain[r][c][1]);
    return chain[r][c][0];
  }

 private:
  template <int kElement>
  __attribute__((always_inline)) void addElement(int c, const uint8x16_t (&w)[4], const uint8_t* x) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      typename Engine::Sum& sum = chain[r][c][kElement % kChains];
      sum = Engine::template dot<kElement>(sum, w[kElement], vld1q_u8(x + r * kChunkBytes));
    }
  }
};

// --- fused -------------------------------------------------------------------------------------------------------

template <typename Engine, int kRows>
using FusedSums = DotSums<Engine, kRows, kColumns4, kRows == 1 ? Engine::kChains : 1>;

// Codes::kColumns columns: x is the register of row 0 at the first of them, rows are a chunk's 64 bytes apart.
template <bool kHalf, typename Codes, typename Sums>
TSQ_INLINE void fusedUnit(const Codes& codes, const uint8_t* line, const uint8_t* x, Sums& sums) {
  constexpr int kSteps = Codes::kSteps;
#pragma GCC unroll 8
  for (int64_t b = 0; b < Codes::kBytes; b += kLineBytes) prefetch(line + b + kPrefetchBytes);
#pragma GCC unroll 4
  for (int c = 0; c < kColumns4; ++c) {
    uint8x16_t w[kSteps][4];
    codes.template load<kHalf>(line, c, w);
#pragma GCC unroll 4
    for (int s = 0; s < kSteps; ++s) sums.add(c, w[s], x + s * 16);
  }
}

// The first `left` columns of a chunk, at most the whole of it. Returns the line behind them.
template <typename Codes, typename Sums>
TSQ_INLINE const uint8_t* fusedChunk(const Codes& codes, const uint8_t* line, const uint8_t* x, int64_t left,
                                     Sums& sums) {
  constexpr int64_t kUnits = kStepsPerChunk / Codes::kSteps;
  // A step of more rows is long enough as it is.
  constexpr bool kUnrolled = Codes::kUnrolled && Sums::kCount <= 2;
  if (kUnrolled && left >= kUnits * Codes::kColumns) {
#pragma GCC unroll 4
    for (int64_t u = 0; u < kUnits; ++u) {
      fusedUnit<false>(codes, line + u * Codes::kBytes, x + u * Codes::kSteps * 16, sums);
    }
    return line + kUnits * Codes::kBytes;
  }
#pragma GCC unroll 1
  for (; left >= Codes::kColumns; left -= Codes::kColumns, line += Codes::kBytes, x += Codes::kSteps * 16) {
    fusedUnit<false>(codes, line, x, sums);
  }
  if constexpr (Codes::kHalves) {
    if (left > 0) {
      fusedUnit<true>(codes, line, x, sums);
      line += Codes::kBytes / 2;
    }
  }
  return line;
}

// The bias of a panel's outputs, zero where there is none.
__attribute__((noinline)) void readBias(const DotCall& call, int64_t panel, float* out) {
  const int64_t column = panel * layout::kPanel, count = call.w->shape.n - column;
  for (int64_t i = 0; i < layout::kPanel; ++i) out[i] = call.bias != nullptr && i < count ? call.bias[column + i] : 0;
}
// Totals [row][16] to y.
__attribute__((noinline)) void writePanel(const DotCall& call, int64_t panel, int64_t rows, const float* totals) {
  const int64_t column = panel * layout::kPanel, count = call.w->shape.n - column;
  for (int64_t r = 0; r < rows; ++r, totals += layout::kPanel) {
    float* y = call.y + r * call.ldy + column;
    if (count >= layout::kPanel) {
      store(y, load(totals));
    } else {
      storePartial(y, load(totals), count);
    }
  }
}

// One panel for a bundle of kRows rows.
template <typename Engine, typename Codes, int kRows>
__attribute__((noinline)) void fusedPanel(const DotCall& call, const Bundle& x, const Codes& shared, int64_t panel) {
  constexpr int64_t kChunkColumns = kStepsPerChunk * Engine::kStep;
  const PackedView& w = *call.w;
  const int64_t apart = call.limbs * kRows * kChunkBytes, groups = layout::groups(w.shape);
  Codes codes = shared;
  alignas(16) float totals[kRows * layout::kPanel];
  readBias(call, panel, totals);
#pragma GCC unroll 4
  for (int r = 1; r < kRows; ++r) store(totals + r * layout::kPanel, load(totals));
  const uint8_t *blockLine = weightLine(w, panel, 0), *blockChunk = x.chunks;
  int64_t index = 0;
  FusedSums<Engine, kRows> sums;
  sums.clear();
  for (layout::BlockWalk block(w.shape); block.p < block.width; block.next(), ++index) {
    const int64_t at = (panel * groups + block.group) * layout::kPanel;
    codes.setGroup(w, at);
    const uint8_t *line = blockLine, *chunk = blockChunk;
    for (int limb = call.limbs - 1; limb >= 0; --limb) {
      line = blockLine;
      chunk = blockChunk + limb * kRows * kChunkBytes;
      for (int64_t left = block.length(); left > 0; left -= kChunkColumns, chunk += apart) {
        line = fusedChunk(codes, line, chunk, left < kChunkColumns ? left : kChunkColumns, sums);
      }
    }
    blockLine = line;
    blockChunk = chunk;  // limb 0 came last
    if (call.byRow && block.p + block.length() < block.width) continue;
    const typename Engine::Terms terms(w, at, Codes::kCenter);
    const RowTerms rowTerms = x.terms.from(call.byRow ? 0 : index * kRows);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < kColumns4; ++c) {
        float* total = totals + r * layout::kPanel + 4 * c;
        vst1q_f32(total, terms.addTo(vld1q_f32(total), sums.total(r, c), c, rowTerms, r));
      }
    }
    sums.clear();
  }
  writePanel(call, panel, kRows, totals);
}

template <typename Engine, typename Codes>
void fusedPanels(const DotCall& call, const Bundle& x) {
  const Codes codes(*call.w);
  for (int64_t panel = call.panelBegin; panel < call.panelEnd; ++panel) {
    switch (x.rows) {
      case 1:
        fusedPanel<Engine, Codes, 1>(call, x, codes, panel);
        break;
      case 2:
        fusedPanel<Engine, Codes, 2>(call, x, codes, panel);
        break;
      case 3:
        fusedPanel<Engine, Codes, 3>(call, x, codes, panel);
        break;
      default:
        fusedPanel<Engine, Codes, 4>(call, x, codes, panel);
        break;
    }
  }
}

}  // namespace
}  // namespace tsq
