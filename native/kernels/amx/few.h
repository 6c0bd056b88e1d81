// y = x W^T over tiles for few rows: all limbs of all rows fit one or two activation tiles, so that the weights go by
// once, as they come from memory, a few panels side by side.
#pragma once

#include "kernels/amx/engines.h"

namespace tsq {
namespace {

constexpr int kSumTiles = 4;
constexpr int64_t kFewStreams = 2 * kTileHeight;  // rows x limbs

// Chunks that are decoded ahead of the multiplication. Tiles are not forwarded from the store buffer: a chunk must have
// left it, and stores leave in order, behind the multiplications before them.
constexpr int kAhead = 3;

// Working space.
struct alignas(64) FewSpace {
  uint8_t weights[kAhead + 1][kSumTiles][kTileBytes];
  uint8_t sums[2][kSumTiles][kTileBytes];  // of two blocks in turn, [panel][limb][row]
  float totals[kSumTiles][layout::kBundle][layout::kPanel];
};

template <int kTiles, int kTile = 0>
TSQ_INLINE void storeTiles(uint8_t (&out)[kSumTiles][kTileBytes]) {
  tileStore<kTile>(out[kTile]);
  if constexpr (kTile + 1 < kTiles) storeTiles<kTiles, kTile + 1>(out);
}

// A chunk of every panel against the activations in tiles 4 and 5.
template <typename Engine, int kPanels, int kHalves, int kIndex = 0>
TSQ_INLINE void multiplyChunk(const uint8_t (&weights)[kSumTiles][kTileBytes]) {
  constexpr int kWeights = 6 + kIndex % 2;
  tileLoad<kWeights>(weights[kIndex]);
  Engine::template multiply<kIndex * kHalves, 4, kWeights>();
  if constexpr (kHalves == 2) Engine::template multiply<kIndex * kHalves + 1, 5, kWeights>();
  if constexpr (kIndex + 1 < kPanels) multiplyChunk<Engine, kPanels, kHalves, kIndex + 1>(weights);
}

// Goes through the chunks of kPanels neighbouring panels and decodes them.
template <typename Engine, int kPanels>
struct ChunkReader {
  using Codes = typename Engine::Codes;
  const PackedView& w;
  const int64_t panel, bytes, blocks, groups;
  Codes codes[kPanels];
  int64_t index = -1, rest = 0;    // block; packed columns of it that are left
  const uint8_t* lines = nullptr;  // panel 0

  TSQ_METHOD ChunkReader(const PackedView& weight, int64_t firstPanel)
      : w(weight),
        panel(firstPanel),
        bytes(layout::panelBytes(weight.shape)),
        blocks(layout::blocks(weight.shape)),
        groups(layout::groups(weight.shape)) {
    for (int q = 0; q < kPanels; ++q) codes[q] = Codes(weight);
  }

  TSQ_METHOD void next(uint8_t (&out)[kSumTiles][kTileBytes]) {
    if (rest <= 0) {
      if (++index >= blocks) return;
      const BlockPlace<Engine> place(w, index);
      lines = place.lines + panel * bytes;
      rest = place.block.length;
      for (int q = 0; q < kPanels; ++q) codes[q].setGroup(w, ((panel + q) * groups + place.block.group) * kPanel);
    }
    const int64_t length = smaller(Engine::kChunk, rest);
    const Ahead ahead(lines - static_cast<const uint8_t*>(w.data) - panel * bytes, bytes, kPanels);
#pragma GCC unroll 4
    for (int q = 0; q < kPanels; ++q) {
      decodeChunk<Codes, Engine::kChunk>(codes[q], lines + q * bytes, length, ahead, out[q]);
    }
    rest -= Engine::kChunk;
    lines += lineBytes<Codes::kKind>(Engine::kChunk);
  }
};

// Adds the sums of one block to the totals. firstScale: of the block's group in panel 0. rowScales, rowSums: of the
// block.
template <typename Engine, int kPanels, int kHalves>
__attribute__((noinline)) void addSums(const PackedView& w, int64_t rows, int64_t limbs, int64_t firstScale,
                                       int64_t scalesOfPanel, const float* rowScales, const int32_t* rowSums,
                                       const uint8_t (&sums)[kSumTiles][kTileBytes], FewSpace& space) {
  for (int q = 0; q < kPanels; ++q) {
    const typename Engine::Finish finish(w, firstScale + q * scalesOfPanel);
    for (int64_t row = 0; row < rows; ++row) {
      const uint8_t* sum = sums[q * kHalves] + row * kTileRowBytes;
      Lanes total = load(space.totals[q][row]);
      for (int64_t limb = 0; limb < limbs; ++limb) {
        total = finish(sum + limb * rows * kTileRowBytes, rowScales + row, rowSums + row, total);
      }
      store(space.totals[q][row], total);
    }
  }
}

// kPanels neighbouring panels.
template <typename Engine, int kPanels, int kHalves>
__attribute__((noinline)) void fewPanels(const DotCall& call, int64_t panel, FewSpace& space) {
  const PackedView& w = *call.w;
  const int64_t rows = call.rows, limbs = call.limbs, streams = rows * limbs;
  const int64_t blocks = layout::blocks(w.shape), scalesOfPanel = layout::groups(w.shape) * kPanel;
  ChunkReader<Engine, kPanels> reader(w, panel);
  for (int q = 0; q < kPanels; ++q) {
    for (int64_t row = 0; row < rows; ++row) store(space.totals[q][row], zeros());
  }
  for (int i = 0; i < kAhead; ++i) reader.next(space.weights[i]);
  const uint8_t* activations = call.chunks;
  const float* rowScales = call.scales;
  const int32_t* rowSums = call.sums;
  int64_t before = -1;  // scales of the last block, whose sums are added while the next is multiplied
  int now = 0;
  layout::BlockWalk walk(w.shape);
  for (int64_t index = 0; index < blocks; ++index, walk.next()) {
    clearTiles<kPanels * kHalves>();
    for (int64_t rest = walk.length(); rest > 0; rest -= Engine::kChunk) {
      reader.next(space.weights[(now + kAhead) % (kAhead + 1)]);
      tileLoad<4>(activations);
      if constexpr (kHalves == 2) tileLoad<5>(activations + kTileBytes);
      activations += streams * kTileRowBytes;
      multiplyChunk<Engine, kPanels, kHalves>(space.weights[now]);
      now = (now + 1) % (kAhead + 1);
    }
    storeTiles<kPanels * kHalves>(space.sums[index % 2]);
    if (before >= 0) {
      addSums<Engine, kPanels, kHalves>(w, rows, limbs, before, scalesOfPanel, rowScales, rowSums,
                                        space.sums[(index + 1) % 2], space);
      rowScales += rows;
      rowSums += rows;
    }
    before = panel * scalesOfPanel + walk.group * kPanel;
  }
  addSums<Engine, kPanels, kHalves>(w, rows, limbs, before, scalesOfPanel, rowScales, rowSums,
                                    space.sums[(blocks + 1) % 2], space);
  for (int q = 0; q < kPanels; ++q) {
    for (int64_t row = 0; row < rows; ++row) writeRow(call, row, panel + q, load(space.totals[q][row]));
  }
}

template <typename Engine, int kHalves>
TSQ_INLINE void fewOf(const DotCall& call, FewSpace& space) {
  constexpr int kPanels = kSumTiles / kHalves;
  int64_t panel = call.panelBegin;
  for (; panel + kPanels <= call.panelEnd; panel += kPanels) {
    fewPanels<Engine, kPanels, kHalves>(call, panel, space);
  }
  for (; panel < call.panelEnd; ++panel) fewPanels<Engine, 1, kHalves>(call, panel, space);
}

// For up to 16 rows and kFewStreams rows x limbs.
template <typename Engine>
__attribute__((noinline)) void fewRows(const DotCall& call) {
  FewSpace& space = *reinterpret_cast<FewSpace*>(call.scratch);
  const int streams = static_cast<int>(call.rows * call.limbs);
  if (streams <= kTileHeight) {
    const TileSession session(streams, streams);
    fewOf<Engine, 1>(call, space);
  } else {
    const TileSession session(kTileHeight, streams - kTileHeight);
    fewOf<Engine, 2>(call, space);
  }
}

}  // namespace
}  // namespace tsq
