// y = x W^T over tiles for calls by row (DotCall::byRow): int8 activations and sums over all k, scaled once. Codes of 8
// bits are tiles as they lie in memory, since a line is a quad of k of sixteen outputs; others are decoded to such.
#pragma once

#include "kernels/amx/engines.h"
#include "kernels/amx/few.h"

namespace tsq {
namespace {

// Chunks of k that are taken together: those of two panels stay in the first-level cache while all rows pass by. Twice
// as many halve the loads and stores of sums, and are slower: tiles of activations then come from the second level as
// often as those of weights.
constexpr int64_t kPieceChunks = 8;
// Bytes of activations that stay in the second-level cache beside the weights.
constexpr int64_t kStayingBytes = 1 << 20;

// Working space. Behind it: sums of earlier pieces, [pair of panels][pair of bundles][bundle * 2 + panel] tiles.
struct alignas(64) PieceSpace {
  uint8_t weights[2][kPieceChunks][kTileBytes];  // of each panel, where they are not used from where they lie
  uint8_t sums[2][4][kTileBytes];                // in turn
};

// Whole chunks of 8-bit codes need no decoding.
template <typename Engine>
constexpr bool kLieAsTiles = Engine::Codes::kKind == layout::WeightKind::kU8;

// Of a panel.
struct RowFinish {
  Lanes scale;
  Words zero;
  TSQ_METHOD RowFinish(const PackedView& w, int64_t panel)
      : scale(loadScales(w, panel * kPanel)),
        zero(w.zeros != nullptr ? widenBytes(w.zeros + panel * kPanel) : everyWord(w.zero)) {}
  // Products of zero points wrap around; what remains fits.
  TSQ_METHOD Lanes operator()(const uint8_t* sums, float rowScale, int32_t rowSum) const {
    const Words dot = subWords(loadWords(sums), mulWords(zero, everyWord(rowSum)));
    return fma(mul(scale, set1(rowScale)), floats(dot), zeros());
  }
};

// Sums of up to two bundles and panels that are complete, waiting to be written while the tiles go on.
struct Complete {
  const uint8_t (*sums)[kTileBytes] = nullptr;
  int64_t row, rows, panel;
  int panels;
};

__attribute__((noinline)) void writeComplete(const DotCall& call, const Complete& c) {
  for (int q = 0; q < c.panels; ++q) {
    const RowFinish finish(*call.w, c.panel + q);
    for (int64_t r = 0; r < c.rows; ++r) {
      const uint8_t* sums = c.sums[r / kBundle * 2 + q] + r % kBundle * kTileRowBytes;
      writeRow(call, c.row + r, c.panel + q, finish(sums, call.scales[c.row + r], call.sums[c.row + r]));
    }
  }
}

// Lines of two panels that are asked for while others are multiplied, some with every chunk.
struct PanelFetch {
  const uint8_t* line;
  int64_t apart;  // from panel to panel
  int64_t lines;  // that are left of each
  int64_t each;   // with a chunk
  TSQ_METHOD void chunk() {
    const int64_t now = smaller(each, lines);
    for (int64_t i = 0; i < now; ++i, line += 64) {
      prefetchFar(line);
      prefetchFar(line + apart);
    }
    lines -= now;
  }
};

// Up to two bundles and panels against `chunks` chunks of k. sums: of the pieces before, or null.
template <int kBundles, int kPanels>
__attribute__((noinline)) void multiplyPiece(const uint8_t* a0, const uint8_t* a1, const int64_t (&apart)[2],
                                             int64_t chunks, const uint8_t* w0, const uint8_t* w1,
                                             const uint8_t (*before)[kTileBytes], uint8_t (*sums)[kTileBytes],
                                             PanelFetch& fetch) {
  if (before == nullptr) {
    clearTiles<4>();
  } else {
    tileLoad<0>(before[0]);
    if constexpr (kPanels == 2) tileLoad<1>(before[1]);
    if constexpr (kBundles == 2) tileLoad<2>(before[2]);
    if constexpr (kBundles == 2 && kPanels == 2) tileLoad<3>(before[3]);
  }
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    tileLoad<6>(w0);
    tileLoad<4>(a0);
    tileQuads<0, 4, 6>();
    if constexpr (kPanels == 2) {
      tileLoad<7>(w1);
      tileQuads<1, 4, 7>();
    }
    if constexpr (kBundles == 2) {
      tileLoad<5>(a1);
      tileQuads<2, 5, 6>();
      if constexpr (kPanels == 2) tileQuads<3, 5, 7>();
    }
    w0 += kTileBytes;
    w1 += kTileBytes;
    a0 += apart[0];
    a1 += apart[1];
    fetch.chunk();
  }
  tileStore<0>(sums[0]);
  if constexpr (kPanels == 2) tileStore<1>(sums[1]);
  if constexpr (kBundles == 2) tileStore<2>(sums[2]);
  if constexpr (kBundles == 2 && kPanels == 2) tileStore<3>(sums[3]);
}

// Pieces of k of pairs of panels, in the order in which they are taken.
struct PieceOrder {
  int64_t chunks, pieces, pairs;
  bool pairByPair;  // else piece by piece, so that activations of a piece stay near
  TSQ_METHOD PieceOrder(const DotCall& call)
      : chunks(layout::chunks(call.w->shape, layout::kQuadChunk)),
        pieces(layout::divideUp(chunks, kPieceChunks)),
        pairs(layout::divideUp(call.panelEnd - call.panelBegin, 2)),
        pairByPair(call.rows * chunks * kTileRowBytes <= kStayingBytes) {}
  TSQ_METHOD int64_t piece(int64_t step) const { return pairByPair ? step % pieces : step / pairs; }
  TSQ_METHOD int64_t pair(int64_t step) const { return pairByPair ? step / pieces : step % pairs; }
  TSQ_METHOD int64_t firstChunk(int64_t piece) const { return chunks * piece / pieces; }
};

// A piece of one panel as tiles, in memory of its own unless they lie there.
template <typename Engine>
TSQ_INLINE const uint8_t* pieceTiles(const typename Engine::Codes& codes, const PackedView& w, int64_t panel,
                                     int64_t chunk, int64_t chunks, uint8_t* room) {
  const int64_t width = layout::packedK(w.shape), begin = chunk * Engine::kChunk;
  const uint8_t* lines = static_cast<const uint8_t*>(w.data) + panel * layout::panelBytes(w.shape) +
                         lineBytes<Engine::Codes::kKind>(begin);
  if (kLieAsTiles<Engine> && begin + chunks * Engine::kChunk <= width) return lines;
  for (int64_t i = 0; i < chunks; ++i) {
    decodeChunk<typename Engine::Codes, Engine::kChunk>(
        codes, lines, smaller(Engine::kChunk, width - begin - i * Engine::kChunk),
        NextPanels{2 * layout::panelBytes(w.shape)}, room + i * kTileBytes);
    lines += lineBytes<Engine::Codes::kKind>(Engine::kChunk);
  }
  return room;
}

template <typename Engine>
__attribute__((noinline)) void manyPieces(const DotCall& call) {
  PieceSpace& space = *reinterpret_cast<PieceSpace*>(call.scratch);
  auto* totals = reinterpret_cast<uint8_t(*)[kTileBytes]>(call.scratch + sizeof(PieceSpace));
  const PackedView& w = *call.w;
  const PieceOrder order(call);
  const int64_t panelBytes = layout::panelBytes(w.shape), rowBytes = order.chunks * kTileRowBytes;
  const int64_t rowPairs = layout::divideUp(call.rows, 2 * kBundle), steps = order.pairs * order.pieces;
  const typename Engine::Codes codes(w);
  Complete waiting;
  int turn = 0;
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t piece = order.piece(step), pair = order.pair(step), panel = call.panelBegin + 2 * pair;
    const int64_t chunk = order.firstChunk(piece), chunks = order.firstChunk(piece + 1) - chunk;
    const int panels = panel + 1 < call.panelEnd ? 2 : 1;
    const uint8_t* w0 = pieceTiles<Engine>(codes, w, panel, chunk, chunks, space.weights[0][0]);
    const uint8_t* w1 = panels == 1 ? w0 : pieceTiles<Engine>(codes, w, panel + 1, chunk, chunks, space.weights[1][0]);
    const int64_t nextPiece = step + 1 < steps ? order.piece(step + 1) : 0;
    const int64_t nextPair = step + 1 < steps ? order.pair(step + 1) : order.pairs;
    PanelFetch fetch{};
    fetch.line = static_cast<const uint8_t*>(w.data) + (call.panelBegin + 2 * nextPair) * panelBytes +
                 lineBytes<Engine::Codes::kKind>(order.firstChunk(nextPiece) * Engine::kChunk);
    fetch.apart = panelBytes;
    fetch.lines = lineBytes<Engine::Codes::kKind>(chunks * Engine::kChunk) / 64;
    fetch.each = layout::divideUp(fetch.lines, rowPairs * chunks);
    for (int64_t row = 0; row < call.rows; row += 2 * kBundle, turn ^= 1) {
      const int64_t rows = smaller(2 * kBundle, call.rows - row), rows0 = smaller(kBundle, rows);
      const int64_t apart[2] = {rows0 * kTileRowBytes, (rows - rows0) * kTileRowBytes};
      const uint8_t* a0 = call.chunks + row * rowBytes + chunk * apart[0];
      const uint8_t* a1 = call.chunks + (row + rows0) * rowBytes + chunk * apart[1];
      auto* total = totals + ((order.pairByPair ? 0 : pair) * rowPairs + row / (2 * kBundle)) * 4;
      const auto* before = piece == 0 ? nullptr : total;
      const bool last = piece + 1 == order.pieces;
      auto* sums = last ? space.sums[turn] : total;
      if (rows > kBundle) {
        if (panels == 2) {
          multiplyPiece<2, 2>(a0, a1, apart, chunks, w0, w1, before, sums, fetch);
        } else {
          multiplyPiece<2, 1>(a0, a1, apart, chunks, w0, w1, before, sums, fetch);
        }
      } else if (panels == 2) {
        multiplyPiece<1, 2>(a0, a0, apart, chunks, w0, w1, before, sums, fetch);
      } else {
        multiplyPiece<1, 1>(a0, a0, apart, chunks, w0, w1, before, sums, fetch);
      }
      if (waiting.sums != nullptr) writeComplete(call, waiting);
      waiting = {};
      if (last) waiting = {sums, row, rows, panel, panels};
    }
  }
  if (waiting.sums != nullptr) writeComplete(call, waiting);
}

// A chunk of every panel, from where the codes lie.
template <int kPanels, int kIndex = 0>
TSQ_INLINE void multiplyLines(const uint8_t* lines, int64_t bytes) {
  constexpr int kWeights = 6 + kIndex % 2;
  tileLoad<kWeights>(lines);
  tileQuads<kIndex, 4, kWeights>();
  if constexpr (kIndex + 1 < kPanels) multiplyLines<kPanels, kIndex + 1>(lines + bytes, bytes);
}

// Up to 16 rows, kPanels neighbouring panels: weights go by once, as they come from memory.
template <typename Engine, int kPanels>
__attribute__((noinline)) void fewPanelsByRow(const DotCall& call, int64_t panel, FewSpace& space) {
  const PackedView& w = *call.w;
  const int64_t bytes = layout::panelBytes(w.shape), chunks = layout::chunks(w.shape, Engine::kChunk);
  const uint8_t* activations = call.chunks;
  clearTiles<kPanels>();
  if constexpr (kLieAsTiles<Engine>) {
    const uint8_t* begin = static_cast<const uint8_t*>(w.data) + panel * bytes;
    const int64_t whole = layout::packedK(w.shape) / Engine::kChunk;
    for (int64_t chunk = 0; chunk < whole; ++chunk, activations += call.rows * kTileRowBytes) {
      const uint8_t* lines = begin + chunk * kTileBytes;
      const Ahead ahead(chunk * kTileBytes, bytes, kPanels);
      for (int q = 0; q < kPanels; ++q) {
#pragma GCC unroll 16
        for (int i = 0; i < kTileHeight; ++i) ahead.fetch(lines + q * bytes + i * kTileRowBytes);
      }
      tileLoad<4>(activations);
      multiplyLines<kPanels>(lines, bytes);
    }
    if (whole < chunks) {
      const typename Engine::Codes codes(w);
      for (int q = 0; q < kPanels; ++q) {
        pieceTiles<Engine>(codes, w, panel + q, whole, 1, space.weights[0][q]);
      }
      tileLoad<4>(activations);
      multiplyLines<kPanels>(space.weights[0][0], kTileBytes);
    }
  } else {
    ChunkReader<Engine, kPanels> reader(w, panel);
    for (int i = 0; i < kAhead; ++i) reader.next(space.weights[i]);
    for (int64_t chunk = 0; chunk < chunks; ++chunk, activations += call.rows * kTileRowBytes) {
      reader.next(space.weights[(chunk + kAhead) % (kAhead + 1)]);
      tileLoad<4>(activations);
      multiplyLines<kPanels>(space.weights[chunk % (kAhead + 1)][0], kTileBytes);
    }
  }
  storeTiles<kPanels>(space.sums[0]);
  for (int q = 0; q < kPanels; ++q) {
    const RowFinish finish(w, panel + q);
    for (int64_t row = 0; row < call.rows; ++row) {
      writeRow(call, row, panel + q, finish(space.sums[0][q] + row * kTileRowBytes, call.scales[row], call.sums[row]));
    }
  }
}

template <typename Engine>
__attribute__((noinline)) void fewByRow(const DotCall& call) {
  FewSpace& space = *reinterpret_cast<FewSpace*>(call.scratch);
  const int rows = static_cast<int>(call.rows);
  const TileSession session(rows, rows);
  int64_t panel = call.panelBegin;
  for (; panel + kSumTiles <= call.panelEnd; panel += kSumTiles) fewPanelsByRow<Engine, kSumTiles>(call, panel, space);
  for (; panel < call.panelEnd; ++panel) fewPanelsByRow<Engine, 1>(call, panel, space);
}

template <typename Engine>
__attribute__((noinline)) void manyByRow(const DotCall& call) {
  const TileSession session(kTileHeight, kTileHeight);
  manyPieces<Engine>(call);
}

template <typename Engine>
TSQ_INLINE void productByRow(const DotCall& call) {
  if (call.rows <= kBundle) return fewByRow<Engine>(call);
  manyByRow<Engine>(call);
}

int64_t byRowScratch(int64_t rows, int64_t panels) {
  const int64_t pairs = layout::divideUp(panels, 2), rowPairs = layout::divideUp(rows, 2 * kBundle);
  return static_cast<int64_t>(sizeof(PieceSpace)) + pairs * rowPairs * 4 * kTileBytes;
}

}  // namespace
}  // namespace tsq
