// The frame of kernels that multiply several k at once (DotKernel). Include after an instruction set's words.h.
//
// Many rows: a slab, the weights of a few hundred k of a few panels, is decoded once to [quads or pairs of
// k][panels][16 outputs] and multiplied with all rows in register tiles; the sums of each block are scaled and added to
// totals in scratch. One to four rows: see dots_fused.h. Both make the same additions in the same order, so an output
// depends neither on the path nor on the rows and panels of the call.
//
// A class `Dot` says what differs: kChunk and kWide, packed k of a chunk and of four bytes; kTileRows and kTilePanels,
// the register tile; kMostLimbs; kRowSums, whether rows have sums of codes (null otherwise); kByRow, whether a call may
// be by row.
// Params holds what read() gives of 16 outputs and a group. Sum belongs to a row and a block: start(), accumulate()
// over the block, finish() adds it to the total. decodedBytes() of a panel.
#pragma once

#include "kernels/generic/slab.h"
#include "kernels/kernels.h"

namespace tsq {
namespace {

// Rows that share a decoded slab: their activations for it, and their totals, stay in the second-level cache.
constexpr int64_t kSharedRows = 256;

// What is asked for while a tile is multiplied, a little with every chunk: all at once would have to wait for memory.
struct Fetch {
  int64_t ahead;        // bytes from a row to the same place of the next tile
  const uint8_t* line;  // packed lines that are decoded next, `apart` bytes from panel to panel
  const uint8_t* end;
  int64_t apart;
  int64_t bytes;  // of each panel with one chunk

  template <int kRows, int kPanels>
  TSQ_METHOD void chunk(const uint8_t* x) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) prefetch(x + ahead + r * layout::kChunkBytes);
    if (line >= end) return;
    for (const uint8_t* stop = line + bytes; line < stop; line += 64) {
#pragma GCC unroll 4
      for (int q = 0; q < kPanels; ++q) prefetchFar(line + q * apart);
    }
  }
};

// Rows of one bundle times one decoded slab.
struct Tile {
  const uint8_t* x;  // the first row, in the slab's first chunk
  int64_t apart;     // bytes from a (chunk, limb) to the next
  Fetch* fetch;
  const float* scales;  // of the first row and block
  const int32_t* sums;
  int64_t step;  // … and from a block to the next
  int limbs;
  layout::WeightKind kind;
  const Slab* slab;
  const uint8_t* weights;  // [step of four bytes of k][panel][16 outputs][4 bytes]; see also accumulate()
  const void* params;      // [block][panel]
  float* totals;           // [row][panel][16]; by row: int32, of products that are not scaled yet
  bool byRow;
};

template <class Dot, int kRows, int kPanels>
TSQ_INLINE void loadSums(const float* totals, typename Dot::Sum (&sums)[kRows][kPanels]) {
  if constexpr (Dot::kByRow) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int q = 0; q < kPanels; ++q) sums[r][q] = loadWords(totals + (r * kPanels + q) * layout::kPanel);
    }
  }
}
template <class Dot, int kRows, int kPanels>
TSQ_INLINE void storeSums(const typename Dot::Sum (&sums)[kRows][kPanels], float* totals) {
  if constexpr (Dot::kByRow) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int q = 0; q < kPanels; ++q) storeWords(totals + (r * kPanels + q) * layout::kPanel, sums[r][q]);
    }
  }
}

template <class Dot, int kRows, int kPanels>
__attribute__((noinline)) void tile(const Tile& t) {
  // Copies: nothing that is stored below can change them.
  const int limbs = Dot::kMostLimbs > 1 ? t.limbs : 1;
  const layout::WeightKind kind = t.kind;
  const int64_t apart = t.apart, step = t.step;
  const uint8_t* x = t.x;
  const uint8_t* weights = t.weights;
  const auto* params = static_cast<const typename Dot::Params*>(t.params);
  const float* scales = t.scales;
  const int32_t* inputSums = t.sums;
  const int32_t* length = t.slab->lengths;
  for (const int32_t* const end = length + t.slab->blocks; length < end; ++length) {
    for (int limb = 0; limb < limbs; ++limb) {
      typename Dot::Sum sums[kRows][kPanels];
      if (Dot::kByRow && t.byRow) {
        loadSums<Dot, kRows, kPanels>(t.totals, sums);
      } else {
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
          for (int q = 0; q < kPanels; ++q) sums[r][q] = Dot::start(params[q], inputSums, r);
        }
      }
      Dot::template accumulate<kRows, kPanels>(sums, kind, weights, x + limb * apart, limbs * apart,
                                               *length / Dot::kWide, *t.fetch);
      float* total = t.totals;
      // Else the compiler would carry all totals from block to block, on the stack and in the way of the sums.
      __asm__("" : "+r"(total));
      if (Dot::kByRow && t.byRow) {
        storeSums<Dot, kRows, kPanels>(sums, total);
        continue;
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Lanes rowScale = Dot::rowScale(scales, r);
#pragma GCC unroll 4
        for (int q = 0; q < kPanels; ++q, total += layout::kPanel) {
          store(total, Dot::finish(params[q], sums[r][q], rowScale, load(total)));
        }
      }
    }
    weights += Dot::decodedBytes(kind, *length) * kPanels;
    x += layout::divideUp(*length, Dot::kChunk) * limbs * apart;
    params += kPanels;
    scales += step;
    if constexpr (Dot::kRowSums) inputSums += step;
  }
}

// Sums that take one instruction a vector of weights. Steps of four bytes of k come in twos, and there are some: with
// loops that run at least once the compiler keeps every sum in one register.
template <class Dot, int kRows, int kPanels>
TSQ_INLINE void accumulateDirect(typename Dot::Sum (&sums)[kRows][kPanels], const uint8_t* weights, const uint8_t* x,
                                 int64_t apart, int64_t steps, Fetch& fetch) {
  do {
    fetch.chunk<kRows, kPanels>(x);
    const uint8_t* at = x;
    const uint8_t* end = x + 4 * least(steps, 16);
    do {
#pragma GCC unroll 2
      for (int s = 0; s < 2; ++s) {
        Words w[kPanels];
#pragma GCC unroll 4
        for (int q = 0; q < kPanels; ++q) w[q] = loadWords(weights + (s * kPanels + q) * 64);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const Words value = broadcastWord(at + r * layout::kChunkBytes + s * 4);
#pragma GCC unroll 4
          for (int q = 0; q < kPanels; ++q) sums[r][q] = Dot::dot(sums[r][q], w[q], value);
        }
      }
      at += 8;
      weights += 2 * kPanels * 64;
    } while (at < end);
    steps -= 16;
    x += apart;
  } while (steps > 0);
}

template <class Dot, int kPanels, int kRows = Dot::kTileRows>
TSQ_INLINE void tileOf(int64_t rows, const Tile& t) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return tileOf<Dot, kPanels, kRows - 1>(rows, t);
  }
  tile<Dot, kRows, kPanels>(t);
}

// All rows of the bundles against one decoded slab of kPanels panels. Bundles are cut evenly: 16 rows are 6 + 5 + 5
// where a tile has 6.
template <class Dot, int kPanels>
__attribute__((noinline)) void multiplySlab(const DotCall& call, int64_t firstRow, int64_t rows, Tile t) {
  const layout::Shape& shape = call.w->shape;
  const int64_t bytes = layout::rowBytes(shape, Dot::kChunk, call.limbs);
  const int64_t blocks = call.byRow ? 1 : layout::blocks(shape), firstBlock = call.byRow ? 0 : t.slab->block;
  const int64_t firstChunk = t.slab->chunk;
  for (int64_t row = firstRow; row < firstRow + rows; row += layout::kBundle) {
    const int64_t bundle = least(layout::kBundle, call.rows - row);
    t.apart = bundle * layout::kChunkBytes;
    t.step = call.byRow ? 0 : bundle;
    t.x = call.chunks + row * bytes + firstChunk * call.limbs * t.apart;
    t.scales = call.scales + row * blocks + firstBlock * bundle;
    if constexpr (Dot::kRowSums) t.sums = call.sums + row * blocks + firstBlock * bundle;
    // The next bundle, unless this is the last.
    const uint8_t* next = row + layout::kBundle < firstRow + rows ? t.x + layout::kBundle * bytes : t.x;
    int64_t left = bundle;
    for (int64_t tiles = layout::divideUp(bundle, Dot::kTileRows); tiles > 0; --tiles) {
      const int64_t here = layout::divideUp(left, tiles);
      t.fetch->ahead = tiles > 1 ? here * layout::kChunkBytes : next - t.x;
      tileOf<Dot, kPanels>(here, t);
      t.x += here * layout::kChunkBytes;
      t.scales += here;
      if constexpr (Dot::kRowSums) t.sums += here;
      t.totals += here * kPanels * layout::kPanel;
      left -= here;
    }
  }
}

// Totals [row][panel][16] to y.
[[maybe_unused]] __attribute__((noinline)) void writePanels(const DotCall& call, int64_t row, int64_t rows,
                                                            int64_t panel, int64_t panels, const float* totals) {
  for (int64_t q = 0; q < panels; ++q) {
    const int64_t column = (panel + q) * layout::kPanel, count = call.w->shape.n - column;
    const bool whole = count >= layout::kPanel;
    const Lanes bias = call.bias == nullptr ? zeros()
                       : whole              ? load(call.bias + column)
                                            : loadPartial(call.bias + column, count);
    for (int64_t r = 0; r < rows; ++r) {
      const Lanes total = add(load(totals + (r * panels + q) * layout::kPanel), bias);
      float* y = call.y + (row + r) * call.ldy + column;
      if (whole) {
        store(y, total);
      } else {
        storePartial(y, total, count);
      }
    }
  }
}

// Totals of a call by row: from sums of products to f32.
template <class Dot>
__attribute__((noinline)) void scaleRows(const DotCall& call, int64_t row, int64_t rows, int64_t panel, int64_t panels,
                                         float* totals) {
  for (int64_t q = 0; q < panels; ++q) {
    const auto params = Dot::read(*call.w, (panel + q) * layout::kPanel);
    for (int64_t r = 0; r < rows; ++r) {
      float* total = totals + (r * panels + q) * layout::kPanel;
      const Words sum = addWords(loadWords(total), Dot::startByRow(*call.w, panel + q, call.sums[row + r]));
      store(total, Dot::finish(params, sum, set1(call.scales[row + r]), zeros()));
    }
  }
}

template <class Dot>
int64_t dotScratchBytes(const layout::Shape&, int64_t rows, int64_t) {
  return 2 * kSlabBytes + kSlabBlocks * Dot::kTilePanels * static_cast<int64_t>(sizeof(typename Dot::Params)) +
         layout::roundUp(least(rows, kSharedRows), layout::kBundle) * Dot::kTilePanels * layout::kPanel * 4;
}

// Rows [row, row + rows) of the call, beginning with a bundle, and kPanels panels: one pass over k.
template <class Dot, int kPanels>
__attribute__((noinline)) void multiplyPass(const DotCall& call, DecodeSlab<Dot> decode, int64_t row, int64_t rows,
                                            int64_t panel) {
  const layout::Shape& shape = call.w->shape;
  const int64_t blocks = layout::blocks(shape), bytes = layout::panelBytes(shape);
  const int64_t bytesOf8 = bytes / (layout::packedK(shape) / 8);  // packed k
  uint8_t* weights = call.scratch;
  auto* params = reinterpret_cast<typename Dot::Params*>(weights + 2 * kSlabBytes);
  float* totals = reinterpret_cast<float*>(params + kSlabBlocks * Dot::kTilePanels);
  for (int64_t i = 0; i < rows * kPanels; ++i) store(totals + i * layout::kPanel, zeros());
  Slab slab;
  Fetch fetch{};
  fetch.apart = bytes;
  Tile t{};
  t.limbs = call.limbs;
  t.kind = shape.kind;
  t.slab = &slab;
  t.weights = weights;
  t.params = params;
  t.totals = totals;
  t.fetch = &fetch;
  t.byRow = call.byRow;
  const int64_t tiles = layout::divideUp(rows, layout::kBundle) * layout::divideUp(layout::kBundle, Dot::kTileRows);
  for (int64_t block = 0; block < blocks; block += slab.blocks) {
    findSlab(shape, block, slabLength<Dot>(shape.kind), Dot::kChunk, &slab);
    decode(*call.w, slab, panel, kPanels, weights, params);
    // Next come these panels' next slab, or the next panels.
    const bool last = block + slab.blocks == blocks;
    const int64_t next = slab.length / 8 * bytesOf8;
    fetch.line = static_cast<const uint8_t*>(call.w->data) + (last ? panel + kPanels : panel) * bytes +
                 (last ? 0 : (slab.p + slab.length) / 8 * bytesOf8);
    fetch.end = fetch.line + next;
    fetch.bytes = layout::roundUp(layout::divideUp(next, tiles * slab.chunks), 64);
    multiplySlab<Dot, kPanels>(call, row, rows, t);
  }
  if constexpr (Dot::kByRow) {
    if (call.byRow) scaleRows<Dot>(call, row, rows, panel, kPanels, totals);
  }
  writePanels(call, row, rows, panel, kPanels, totals);
}

template <class Dot, class Codes>
void multiplyMany(const DotCall& call) {
  const int64_t bundles = layout::divideUp(call.rows, layout::kBundle),
                parts = layout::divideUp(call.rows, kSharedRows);
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t row = bundles * part / parts * layout::kBundle;
    const int64_t rows = least(bundles * (part + 1) / parts * layout::kBundle, call.rows) - row;
    int64_t panel = call.panelBegin;
    for (; panel + Dot::kTilePanels <= call.panelEnd; panel += Dot::kTilePanels) {
      multiplyPass<Dot, Dot::kTilePanels>(call, decodeSlab<Dot, Codes>, row, rows, panel);
    }
    for (; panel < call.panelEnd; ++panel) multiplyPass<Dot, 1>(call, decodeSlab<Dot, Codes>, row, rows, panel);
  }
}

}  // namespace
}  // namespace tsq
