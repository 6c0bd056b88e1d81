// The tiled half of neon/dots.h, and the whole call.
//
//   rows      up to kTiledRows at once                       y += x block * weight block, tile by tile:
//   block     of k: activations stay in L2                   kTileRows rows x kTileColumns registers of 4 outputs
//   panels    weight block decoded into L1: [step][16 registers]
//
// Registers of a decoded step, for "by element": [4 outputs][quad or pair]. For matrix instructions, which take 8 bytes
// of k of 2 outputs: [8 outputs][half of the step][2 outputs].
#pragma once

#include "kernels/neon/dots.h"

namespace tsq {
namespace {

constexpr int64_t kTiledRows = blocking::kRows;
constexpr int64_t kStepBytes = 16 * 16;                // of a decoded panel
constexpr int64_t kPairsOfRows = layout::kBundle / 2;  // in an arranged bundle
constexpr int64_t kArrangedStep = 2 * kPairsOfRows * 16;
static_assert(kTiledRows % layout::kBundle == 0);

TSQ_INLINE uint8x16_t zipWords(uint8x16_t a, uint8x16_t b, bool upper) {
  const uint32x4_t x = vreinterpretq_u32_u8(a), y = vreinterpretq_u32_u8(b);
  return vreinterpretq_u8_u32(upper ? vzip2q_u32(x, y) : vzip1q_u32(x, y));
}

// One block of one panel.
template <typename Engine, typename Codes>
__attribute__((noinline)) void decodeBlock(const Codes& codes, const uint8_t* line, int64_t length, uint8_t* out) {
  constexpr int kSteps = Codes::kSteps;
  for (int64_t left = length; left > 0; left -= Codes::kColumns, line += Codes::kBytes, out += kSteps * kStepBytes) {
#pragma GCC unroll 8
    for (int64_t b = 0; b < Codes::kBytes; b += kLineBytes) prefetch(line + b + kPrefetchBytes);
#pragma GCC unroll 4
    for (int c = 0; c < kColumns4; ++c) {
      uint8x16_t w[kSteps][4];
      bool half = false;
      if constexpr (Codes::kHalves) half = left < Codes::kColumns;
      if (half) {
        codes.template load<Codes::kHalves>(line, c, w);
      } else {
        codes.template load<false>(line, c, w);
      }
#pragma GCC unroll 4
      for (int s = 0; s < kSteps; ++s) {
        uint8_t* step = out + s * kStepBytes;
        if constexpr (Engine::kMatrix) {
          uint8_t* at = step + c / 2 * 128 + c % 2 * 32;
          vst1q_u8(at, zipWords(w[s][0], w[s][1], false));
          vst1q_u8(at + 16, zipWords(w[s][0], w[s][1], true));
          vst1q_u8(at + 64, zipWords(w[s][2], w[s][3], false));
          vst1q_u8(at + 80, zipWords(w[s][2], w[s][3], true));
        } else {
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) vst1q_u8(step + c * 64 + i * 16, w[s][i]);
        }
      }
    }
  }
}

template <typename Engine>
struct Tile {
  const uint8_t* w;  // decoded block: the tile's first register
  int64_t steps;
  const uint8_t* x;    // first row; arranged bundle: first pair of rows
  int64_t chunkApart;  // bytes from one chunk of a row to the next
  int64_t limbApart;   // and from one limb to the next
  int limbs;
  const typename Engine::Terms* terms;
  int c;              // the tile's first register of 4 outputs
  RowTerms rowTerms;  // of the first row
  int64_t rows;       // of the tile
  float* y;           // first row, first column
  int64_t ldy;
  int64_t count;      // columns of y from there on
  const float* bias;  // of the first column: y holds nothing yet
  bool first;         // y holds nothing yet
  // Of a call by row: y holds sums of products, as they are, until the last block.
  bool byRow, last;
};

// Adds the sums [t.rows][kTileColumns] of a block of a call by row to those in y. True: it was the last block, and they
// are in `sums`.
template <typename Engine>
TSQ_INLINE bool gatherTile(const Tile<Engine>& t, typename Engine::Sum* sums) {
  if constexpr (Engine::kByRow) {
    for (int64_t r = 0; r < t.rows; ++r) {
      for (int64_t c = 0; c < Engine::kTileColumns; ++c) {
        const int64_t left = t.count - 4 * c, bytes = (left < 4 ? left : 4) * 4;
        if (left <= 0) break;
        typename Engine::Sum& sum = sums[r * Engine::kTileColumns + c];
        float* y = t.y + r * t.ldy + 4 * c;
        if (!t.first) {
          int32_t before[4] = {};
          __builtin_memcpy(before, y, static_cast<size_t>(bytes));
          sum = vaddq_s32(sum, vld1q_s32(before));
        }
        if (t.last) continue;
        int32_t now[4];
        vst1q_s32(now, sum);
        __builtin_memcpy(y, now, static_cast<size_t>(bytes));
      }
    }
  }
  return t.last;
}

// Adds the sums [t.rows][kTileColumns] of a block to y.
template <typename Engine>
__attribute__((noinline)) void finishTile(const Tile<Engine>& t, typename Engine::Sum* sums) {
  constexpr int kColumns = Engine::kTileColumns;
  if (t.byRow && !gatherTile(t, sums)) return;
  const bool first = t.first || t.byRow;
  for (int64_t r = 0; r < t.rows; ++r, sums += kColumns) {
    float* y = t.y + r * t.ldy;
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) {
      const int64_t count = t.count - 4 * c;
      if (count < 4) {
        if (count <= 0) break;
        float rest[4] = {};
        const float* from = first ? t.bias : y;
        if (from != nullptr) __builtin_memcpy(rest, from + 4 * c, static_cast<size_t>(count) * 4);
        vst1q_f32(rest, t.terms->addTo(vld1q_f32(rest), sums[c], t.c + c, t.rowTerms, r));
        __builtin_memcpy(y + 4 * c, rest, static_cast<size_t>(count) * 4);
        break;
      }
      float32x4_t total = vdupq_n_f32(0);
      if (!first) {
        total = vld1q_f32(y + 4 * c);
      } else if (t.bias != nullptr) {
        total = vld1q_f32(t.bias + 4 * c);
      }
      vst1q_f32(y + 4 * c, t.terms->addTo(total, sums[c], t.c + c, t.rowTerms, r));
    }
  }
}

// kRows rows, activations as they come.
template <typename Engine, int kRows>
__attribute__((noinline)) void dotTile(const Tile<Engine>& t) {
  constexpr int kColumns = Engine::kTileColumns;
  DotSums<Engine, kRows, kColumns, 1> sums;
  sums.clear();
  for (int limb = t.limbs - 1; limb >= 0; --limb) {
    const uint8_t* chunk = t.x + limb * t.limbApart;
    const uint8_t* w = t.w;
    for (int64_t left = t.steps; left > 0; left -= kStepsPerChunk, chunk += t.chunkApart) {
      const uint8_t* end = w + (left < kStepsPerChunk ? left : kStepsPerChunk) * kStepBytes;
      for (const uint8_t* x = chunk; w < end; w += kStepBytes, x += 16) {
#pragma GCC unroll 4
        for (int c = 0; c < kColumns; ++c) {
          uint8x16_t weights[4];
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) weights[i] = vld1q_u8(w + c * 64 + i * 16);
          sums.add(c, weights, x);
        }
      }
    }
  }
  finishTile(t, sums.chain[0][0]);
}

// kPairs pairs of rows of an arranged bundle x 8 outputs.
template <typename Engine, int kPairs>
__attribute__((noinline)) void matrixTile(const Tile<Engine>& t) {
  typename Engine::Sum sums[kPairs][4];  // of 2 outputs x 2 rows
#pragma GCC unroll 4
  for (int p = 0; p < kPairs; ++p) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sums[p][i] = Engine::zero();
  }
  for (int limb = t.limbs - 1; limb >= 0; --limb) {
    const uint8_t* x = t.x + limb * t.limbApart;
    const uint8_t* w = t.w;
    for (int64_t s = 0; s < t.steps; ++s, w += kStepBytes, x += kArrangedStep) {
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        uint8x16_t weights[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) weights[i] = vld1q_u8(w + half * 64 + i * 16);
#pragma GCC unroll 4
        for (int p = 0; p < kPairs; ++p) {
          const uint8x16_t rows = vld1q_u8(x + (half * kPairsOfRows + p) * 16);
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) sums[p][i] = Engine::matrix(sums[p][i], weights[i], rows);
        }
      }
    }
  }
  typename Engine::Sum byRow[2 * kPairs][2];
#pragma GCC unroll 4
  for (int p = 0; p < kPairs; ++p) {
#pragma GCC unroll 2
    for (int c = 0; c < 2; ++c) {
      byRow[2 * p][c] = Engine::firstRow(sums[p][2 * c], sums[p][2 * c + 1]);
      byRow[2 * p + 1][c] = Engine::secondRow(sums[p][2 * c], sums[p][2 * c + 1]);
    }
  }
  finishTile(t, byRow[0]);
}

// `units` rows, or pairs of rows, for engines with kMatrix.
template <typename Engine, int kUnits>
TSQ_INLINE void tileOf(int64_t units, const Tile<Engine>& t) {
  if constexpr (kUnits > 1) {
    if (units < kUnits) return tileOf<Engine, kUnits - 1>(units, t);
  }
  if constexpr (Engine::kMatrix) {
    matrixTile<Engine, kUnits>(t);
  } else {
    dotTile<Engine, kUnits>(t);
  }
}

// A bundle against a decoded block; t describes the bundle and the panel. Rows are cut evenly: 9 are 5 + 4 and not
// 8 + 1.
template <typename Engine>
TSQ_INLINE void bundleTiles(Tile<Engine> t) {
  constexpr int kEach = Engine::kMatrix ? 2 : 1, kMost = Engine::kTileRows / kEach;  // rows of a unit, units of a tile
  int64_t rows = t.rows, tiles = layout::divideUp(rows, Engine::kTileRows);
  for (; tiles > 0; --tiles) {
    const int64_t units = layout::divideUp(layout::divideUp(rows, kEach), tiles);
    t.rows = units * kEach < rows ? units * kEach : rows;
    Tile<Engine> part = t;
    for (; part.c < kColumns4 && part.count > 0; part.c += Engine::kTileColumns) {
      tileOf<Engine, kMost>(units, part);
      part.w += Engine::kTileColumns * 64;
      part.y += Engine::kTileColumns * 4;
      part.count -= Engine::kTileColumns * 4;
      if (part.bias != nullptr) part.bias += Engine::kTileColumns * 4;
    }
    t.x += units * (Engine::kMatrix ? 16 : kChunkBytes);
    t.y += t.rows * t.ldy;
    t.rowTerms = t.rowTerms.from(t.rows);
    rows -= t.rows;
  }
}

// The steps of a block of a bundle for matrix instructions: [limb][step][half][pair of rows][2 rows][8 bytes].
TSQ_INLINE void arrangeBlock(const uint8_t* chunks, int64_t rows, int limbs, int64_t steps, uint8_t* out) {
  const int64_t apart = rows * kChunkBytes;
  for (int limb = 0; limb < limbs; ++limb) {
    for (int64_t s = 0; s < steps; ++s, out += kArrangedStep) {
      const uint8_t* x = chunks + (s / kStepsPerChunk * limbs + limb) * apart + s % kStepsPerChunk * 16;
      for (int64_t r = 0; r < rows; r += 2) {
        const uint64x2_t even = vreinterpretq_u64_u8(vld1q_u8(x + r * kChunkBytes));
        const uint64x2_t odd =
            r + 1 < rows ? vreinterpretq_u64_u8(vld1q_u8(x + (r + 1) * kChunkBytes)) : vdupq_n_u64(0);
        vst1q_u8(out + r * 8, vreinterpretq_u8_u64(vzip1q_u64(even, odd)));
        vst1q_u8(out + kPairsOfRows * 16 + r * 8, vreinterpretq_u8_u64(vzip2q_u64(even, odd)));
      }
    }
  }
}

// --- the whole call ----------------------------------------------------------------------------------------------

template <typename Engine>
constexpr int64_t kBlockSteps = layout::kBlock / Engine::kStep;
template <typename Engine>
constexpr int64_t kWeightBytes = kBlockSteps<Engine> * kStepBytes;
template <typename Engine>
constexpr int64_t kArrangedLimb = kBlockSteps<Engine> * kArrangedStep;  // of a bundle

// Decoded weights and arranged activations.
template <typename Engine>
int64_t dotScratch(const layout::Shape&, int64_t rows, int64_t) {
  const int64_t most = rows < kTiledRows ? rows : kTiledRows;
  const int64_t arranged = Engine::kMatrix ? layout::divideUp(most, layout::kBundle) * Engine::kMostLimbs : 0;
  return kWeightBytes<Engine> + arranged * kArrangedLimb<Engine>;
}

// Bundle b of some rows of a call.
struct Bundles {
  const DotCall* call;
  int64_t rows, chunks, blocks;
  __attribute__((always_inline)) Bundle at(int64_t b) const {
    const int64_t first = b * layout::kBundle;
    const int64_t here = rows - first < layout::kBundle ? rows - first : layout::kBundle;
    return {call->chunks + first * chunks * call->limbs * kChunkBytes,
            RowTerms{call->scales, call->sums}.from(first * blocks), here};
  }
};

// The first `rows` rows of a call, of which every bundle but the last is whole.
template <typename Engine, typename Codes>
__attribute__((noinline)) void tiledPanels(const DotCall& call, int64_t rows) {
  const PackedView& w = *call.w;
  const layout::Shape& shape = w.shape;
  constexpr int64_t kChunkColumns = kStepsPerChunk * Engine::kStep;
  const int64_t groups = layout::groups(shape), count = layout::divideUp(rows, layout::kBundle);
  const int64_t arrangedBundle = call.limbs * kArrangedLimb<Engine>;
  const Bundles bundles{&call, rows, layout::chunks(shape, kChunkColumns), call.byRow ? 1 : layout::blocks(shape)};
  uint8_t* weights = call.scratch;
  uint8_t* arranged = weights + kWeightBytes<Engine>;
  Codes codes(w);
  int64_t index = 0, chunk = 0;  // of the block
  for (layout::BlockWalk block(shape); block.p < block.width; block.next(), ++index) {
    const int64_t steps = layout::divideUp(block.length(), Engine::kStep);
    if constexpr (Engine::kMatrix) {
      for (int64_t b = 0; b < count; ++b) {
        const Bundle x = bundles.at(b);
        arrangeBlock(x.chunks + chunk * call.limbs * x.rows * kChunkBytes, x.rows, call.limbs, steps,
                     arranged + b * arrangedBundle);
      }
    }
    for (int64_t panel = call.panelBegin; panel < call.panelEnd; ++panel) {
      const int64_t at = (panel * groups + block.group) * layout::kPanel, column = panel * layout::kPanel;
      codes.setGroup(w, at);
      decodeBlock<Engine>(codes, weightLine(w, panel, block.p), block.length(), weights);
      const typename Engine::Terms terms(w, at, Codes::kCenter);
      for (int64_t b = 0; b < count; ++b) {
        const Bundle x = bundles.at(b);
        Tile<Engine> t;
        t.w = weights;
        t.steps = steps;
        t.limbs = call.limbs;
        if constexpr (Engine::kMatrix) {
          t.x = arranged + b * arrangedBundle;
          t.limbApart = steps * kArrangedStep;
          t.chunkApart = 0;
        } else {
          t.limbApart = x.rows * kChunkBytes;
          t.chunkApart = call.limbs * t.limbApart;
          t.x = x.chunks + chunk * t.chunkApart;
        }
        t.terms = &terms;
        t.c = 0;
        t.rowTerms = x.terms.from(call.byRow ? 0 : index * x.rows);
        t.rows = x.rows;
        t.y = call.y + b * layout::kBundle * call.ldy + column;
        t.ldy = call.ldy;
        t.count = shape.n - column;
        t.bias = call.bias != nullptr ? call.bias + column : nullptr;
        t.first = index == 0;
        t.byRow = call.byRow;
        t.last = block.p + block.length() == block.width;
        bundleTiles(t);
      }
    }
    chunk += layout::divideUp(steps, kStepsPerChunk);
  }
}

// The call with its rows from `row` on alone.
template <typename Engine>
TSQ_INLINE DotCall callFrom(const DotCall& call, int64_t row) {
  const layout::Shape& shape = call.w->shape;
  DotCall part = call;
  part.chunks += row * layout::rowBytes(shape, kStepsPerChunk * Engine::kStep, call.limbs);
  const RowTerms terms = RowTerms{call.scales, call.sums}.from(row * (call.byRow ? 1 : layout::blocks(shape)));
  part.scales = terms.scales;
  part.sums = terms.sums;
  part.y += row * call.ldy;
  part.rows -= row;
  return part;
}

// Fused, Tiled: how codes are read on either path.
template <typename Engine, typename Fused, typename Tiled>
TSQ_INLINE void multiplyBundles(const DotCall& call) {
  const int64_t rest = call.rows % layout::kBundle, whole = rest > blocking::kFusedRows ? call.rows : call.rows - rest;
  for (int64_t row = 0; row < whole; row += kTiledRows) {
    tiledPanels<Engine, Tiled>(callFrom<Engine>(call, row), whole - row < kTiledRows ? whole - row : kTiledRows);
  }
  if (whole == call.rows) return;
  const DotCall part = callFrom<Engine>(call, whole);
  fusedPanels<Engine, Fused>(part, {part.chunks, {part.scales, part.sums}, part.rows});
}

}  // namespace
}  // namespace tsq
