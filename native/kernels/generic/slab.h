// Weights decoded for several rows: the neighbouring blocks that fit the first-level cache, as [quads or pairs of
// k][panels][16 outputs], with what scales them. Include after an instruction set's words.h. `Dot`: see dots.h.
#pragma once

#include "kernels/generic/codes.h"
#include "layout/activations.h"

namespace tsq {
namespace {

constexpr int64_t kShortestBlock = 8;  // packed k
constexpr int64_t kSlabBlocks = 64;    // at most
constexpr int64_t kSlabBytes = 16384;  // decoded, of kTilePanels; twice that where one block has more

TSQ_INLINE int64_t least(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// Packed k that are decoded together.
template <class Dot>
TSQ_INLINE int64_t slabLength(layout::WeightKind kind) {
  const int64_t room = kSlabBytes / (Dot::decodedBytes(kind, 1) * Dot::kTilePanels);
  return room < layout::kBlock ? layout::kBlock : least(room, kShortestBlock * kSlabBlocks);
}

// Neighbouring blocks that are decoded together.
struct Slab {
  int64_t block, p, chunk;         // the first one: its number, packed column and chunk
  int64_t blocks, length, chunks;  // of all
  int32_t lengths[kSlabBlocks];    // packed k of each
};
// The one that begins with block `block`.
[[maybe_unused]] __attribute__((noinline)) void findSlab(const layout::Shape& shape, int64_t block, int64_t most,
                                                         int64_t chunk, Slab* slab) {
  const int64_t count = layout::blocks(shape);
  slab->block = block;
  slab->p = layout::blockAt(shape, block).p;
  slab->chunk = layout::firstChunk(shape, block, chunk);
  slab->blocks = slab->length = slab->chunks = 0;
  for (; block < count && slab->blocks < kSlabBlocks; ++block) {
    const int64_t length = layout::blockAt(shape, block).length;
    if (slab->length > 0 && slab->length + length > most) break;
    slab->lengths[slab->blocks++] = static_cast<int32_t>(length);
    slab->length += length;
    slab->chunks += layout::divideUp(length, chunk);
  }
}

template <class Codes, int kTerm = 0>
TSQ_INLINE void storeTerms(const Codes& codes, const Words (&lines)[Codes::kLines], uint8_t* out, int64_t apart,
                           int64_t planeApart) {
  const int64_t at = kTerm / Codes::kPlanes * apart + kTerm % Codes::kPlanes * planeApart;
  storeWords(out + at, codes.template term<kTerm>(lines));
  if constexpr (kTerm + 1 < Codes::kTerms) storeTerms<Codes, kTerm + 1>(codes, lines, out, apart, planeApart);
}
// Decodes a slab of `panels` panels. Codes: QuadCodes or PairCodes.
template <class Dot>
using DecodeSlab = void (*)(const PackedView& w, const Slab& slab, int64_t panel, int64_t panels, uint8_t* weights,
                            typename Dot::Params* params);
template <class Dot, class Codes>
__attribute__((noinline)) void decodeSlab(const PackedView& w, const Slab& slab, int64_t panel, int64_t panels,
                                          uint8_t* weights, typename Dot::Params* params) {
  constexpr int64_t kStepBytes = Codes::kLines * 64, kVectors = Codes::kTerms / Codes::kPlanes;
  const int64_t groups = layout::groups(w.shape), perGroup = layout::blocksPerGroup(w.shape), apart = panels * 64;
  Codes codes(w);
  for (int64_t q = 0; q < panels; ++q) {
    const uint8_t* line = static_cast<const uint8_t*>(w.data) + (panel + q) * layout::panelBytes(w.shape) +
                          slab.p / Codes::kStep * kStepBytes;
    uint8_t* out = weights + q * 64;
    for (int64_t b = 0; b < slab.blocks; ++b) {
      const int64_t at = ((panel + q) * groups + (slab.block + b) / perGroup) * layout::kPanel;
      params[b * panels + q] = Dot::read(w, at);
      codes.setGroup(w, at);
      // Both planes of a run follow each other.
      for (int64_t steps = slab.lengths[b] / Codes::kStep; steps > 0;) {
        const int64_t run = Codes::kPlanes > 1 ? least(steps, Dot::kRun / kVectors) : steps;
        for (int64_t i = 0; i < run; ++i, line += kStepBytes, out += kVectors * apart) {
          Words lines[Codes::kLines];
#pragma GCC unroll 4
          for (int l = 0; l < Codes::kLines; ++l) lines[l] = loadWords(line + l * 64);
          storeTerms(codes, lines, out, apart, run * kVectors * apart);
        }
        out += (Codes::kPlanes - 1) * run * kVectors * apart;
        steps -= run;
      }
    }
  }
}

}  // namespace
}  // namespace tsq
