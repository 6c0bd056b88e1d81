// y = x W^T over tiles for many rows, which share a decoded block of two panels.
#pragma once

#include "kernels/amx/engines.h"

namespace tsq {
namespace {

constexpr int kManyPanels = 2;

// Chunks that the many-rows path takes at a time: those of two panels of weights, decoded, stay in the first-level
// cache while the activations of all rows pass by. A block has no more.
constexpr int64_t kMostChunks = layout::kBlock / layout::kPairChunk;

// Blocks whose sums are added to the totals together.
constexpr int kTogether = 2;

// Working space of the many-rows path. Behind it: the totals, [pair of panels][row][32] f32.
struct alignas(64) ManySpace {
  uint8_t weights[kManyPanels][kMostChunks][kTileBytes];
  uint8_t sums[2][kTogether][4][kTileBytes];  // in turn; [block][bundle * 2 + panel]
};
// The sums of a few blocks of up to two bundles and panels, waiting to be added to the totals while the tiles go on.
struct Waiting {
  const uint8_t (*sums)[4][kTileBytes];
  int blocks = 0;
  float* totals;  // of the first row: [row][32]
  int64_t rows;
  const float* scales[kTogether][2];  // quads: of each bundle's rows
  const int32_t* rowSums[kTogether][2];
  int64_t group[kTogether][2];  // index of each panel's scales
};

template <typename Engine, int kBlocks>
TSQ_INLINE void settleBlocks(const PackedView& w, const Waiting& waiting, int panels) {
  for (int q = 0; q < panels; ++q) {
    const typename Engine::Finish first(w, waiting.group[0][q]), last(w, waiting.group[kBlocks - 1][q]);
    for (int64_t bundle = 0; bundle * kBundle < waiting.rows; ++bundle) {
      const int64_t rows = smaller(kBundle, waiting.rows - bundle * kBundle), tile = bundle * 2 + q;
      float* total = waiting.totals + bundle * kBundle * 2 * kPanel + q * kPanel;
#pragma GCC unroll 4
      for (int64_t row = 0; row < rows; ++row, total += 2 * kPanel) {
        const int64_t at = row * kTileRowBytes;
        Lanes sum = first(waiting.sums[0][tile] + at, waiting.scales[0][bundle] + row, waiting.rowSums[0][bundle] + row,
                          load(total));
        if constexpr (kBlocks == 2) {
          sum =
              last(waiting.sums[1][tile] + at, waiting.scales[1][bundle] + row, waiting.rowSums[1][bundle] + row, sum);
        }
        store(total, sum);
      }
    }
  }
}

template <typename Engine>
__attribute__((noinline)) void settle(const PackedView& w, const Waiting& waiting, int panels) {
  if (waiting.blocks == 1) settleBlocks<Engine, 1>(w, waiting, panels);
  if (waiting.blocks == 2) settleBlocks<Engine, 2>(w, waiting, panels);
}

// One block: kBundles x panels tiles of sums over all chunks and limbs. a: activations of each bundle.
template <typename Engine, int kBundles>
__attribute__((noinline)) void multiplyBlock(const uint8_t* const (&a)[2], const int64_t (&apart)[2], int64_t chunks,
                                             int limbs, const uint8_t* weights0, const uint8_t* weights1, int panels,
                                             uint8_t (*sums)[kTileBytes]) {
  clearTiles<4>();
  const uint8_t *a0 = a[0], *a1 = a[1];
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    tileLoad<6>(weights0 + chunk * kTileBytes);
    if (panels > 1) tileLoad<7>(weights1 + chunk * kTileBytes);
    for (int limb = 0; limb < limbs; ++limb) {
      tileLoad<4>(a0);
      a0 += apart[0];
      Engine::template multiply<0, 4, 6>();
      if (panels > 1) Engine::template multiply<1, 4, 7>();
      if constexpr (kBundles == 2) {
        tileLoad<5>(a1);
        a1 += apart[1];
        Engine::template multiply<2, 5, 6>();
        if (panels > 1) Engine::template multiply<3, 5, 7>();
      }
    }
  }
  tileStore<0>(sums[0]);
  if (panels > 1) tileStore<1>(sums[1]);
  if constexpr (kBundles == 2) {
    tileStore<2>(sums[2]);
    if (panels > 1) tileStore<3>(sums[3]);
  }
}

// What the loops need of the weight's shape, divided out once.
struct Geometry {
  int64_t blocks, groups, perGroup;  // perGroup: blocks
  int64_t bundleBytes;               // of 16 rows of activations
};

// Neighbouring blocks.
struct Stretch {
  int64_t first, last;         // blocks
  int64_t chunk;               // the first one's first chunk
  int64_t count[kMostChunks];  // chunks of each
};
template <typename Engine>
TSQ_INLINE Stretch stretchFrom(const layout::Shape& shape, int64_t first) {
  Stretch stretch{first, first, layout::firstChunk(shape, first, Engine::kChunk), {}};
  const int64_t blocks = layout::blocks(shape);
  for (int64_t chunks = 0; stretch.last < blocks; ++stretch.last) {
    const int64_t count = layout::divideUp(layout::blockAt(shape, stretch.last).length, Engine::kChunk);
    if (stretch.last > first && chunks + count > kMostChunks) break;
    stretch.count[stretch.last - first] = count;
    chunks += count;
  }
  return stretch;
}

template <typename Engine>
__attribute__((noinline)) void decodeStretch(typename Engine::Codes& codes, const DotCall& call, const Stretch& stretch,
                                             int64_t panel, uint8_t* out) {
  const layout::Shape& shape = call.w->shape;
  const int64_t bytes = layout::panelBytes(shape);
  for (int64_t index = stretch.first; index < stretch.last; ++index) {
    const BlockPlace<Engine> place(*call.w, index);
    codes.setGroup(*call.w, (panel * layout::groups(shape) + place.block.group) * kPanel);
    const uint8_t* lines = place.lines + panel * bytes;
    for (int64_t rest = place.block.length; rest > 0; rest -= Engine::kChunk, out += kTileBytes) {
      decodeChunk<typename Engine::Codes, Engine::kChunk>(codes, lines, smaller(Engine::kChunk, rest),
                                                          NextPanels{2 * bytes}, out);
      lines += lineBytes<Engine::Codes::kKind>(Engine::kChunk);
    }
  }
}

// Up to two bundles, from `row` on, against the stretch of one pair of panels.
template <typename Engine, int kBundles>
TSQ_INLINE void pairStretch(const DotCall& call, const Geometry& g, const Stretch& stretch, int64_t row, int64_t panel,
                            int panels, ManySpace& space, float* totals, int& turn, Waiting& waiting) {
  const int64_t rows = smaller(2 * kBundle, call.rows - row), bundle = row / kBundle;
  const int64_t rows0 = smaller(kBundle, rows), rows1 = rows - rows0;
  const int64_t apart[2] = {rows0 * kTileRowBytes, rows1 * kTileRowBytes};
  const uint8_t* a[2] = {call.chunks + bundle * g.bundleBytes + stretch.chunk * call.limbs * apart[0],
                         call.chunks + (bundle + 1) * g.bundleBytes + stretch.chunk * call.limbs * apart[1]};
  int64_t chunk = 0;
  for (int64_t index = stretch.first; index < stretch.last;) {
    Waiting next;
    next.sums = space.sums[turn];
    next.totals = totals + row * 2 * kPanel;
    next.rows = rows;
    for (; next.blocks < kTogether && index < stretch.last; ++index, ++next.blocks) {
      const int64_t count = stretch.count[index - stretch.first];
      multiplyBlock<Engine, kBundles>(a, apart, count, call.limbs, space.weights[0][chunk], space.weights[1][chunk],
                                      panels, space.sums[turn][next.blocks]);
      const int64_t group = g.perGroup == 1 ? index : index / g.perGroup;
      const int64_t at0 = bundle * kBundle * g.blocks + index * rows0;
      const int64_t at1 = (bundle + 1) * kBundle * g.blocks + index * rows1;
      next.scales[next.blocks][0] = call.scales + at0;
      next.scales[next.blocks][1] = call.scales + at1;
      next.rowSums[next.blocks][0] = call.sums + at0;
      next.rowSums[next.blocks][1] = call.sums + at1;
      next.group[next.blocks][0] = (panel * g.groups + group) * kPanel;
      next.group[next.blocks][1] = ((panel + 1) * g.groups + group) * kPanel;
      chunk += count;
      a[0] += count * call.limbs * apart[0];
      a[1] += count * call.limbs * apart[1];
    }
    settle<Engine>(*call.w, waiting, panels);
    waiting = next;
    turn ^= 1;
  }
}

// All rows of the call against the stretch of one pair of panels.
template <typename Engine>
TSQ_INLINE void pairRows(typename Engine::Codes& codes, const DotCall& call, const Geometry& g, const Stretch& stretch,
                         int64_t panel, int panels, ManySpace& space, float* totals) {
  for (int q = 0; q < panels; ++q) decodeStretch<Engine>(codes, call, stretch, panel + q, space.weights[q][0]);
  Waiting waiting;
  int turn = 0;
  for (int64_t row = 0; row < call.rows; row += 2 * kBundle) {
    if (call.rows - row > kBundle) {
      pairStretch<Engine, 2>(call, g, stretch, row, panel, panels, space, totals, turn, waiting);
    } else {
      pairStretch<Engine, 1>(call, g, stretch, row, panel, panels, space, totals, turn, waiting);
    }
  }
  settle<Engine>(*call.w, waiting, panels);
}

template <typename Engine>
__attribute__((noinline)) void manyRows(const DotCall& call) {
  ManySpace& space = *reinterpret_cast<ManySpace*>(call.scratch);
  float* totals = reinterpret_cast<float*>(call.scratch + sizeof(ManySpace));
  const int64_t pairFloats = call.rows * 2 * kPanel;
  const int64_t pairs = layout::divideUp(call.panelEnd - call.panelBegin, kManyPanels);
  for (int64_t i = 0; i < pairs * pairFloats; i += kPanel) store(totals + i, zeros());

  const layout::Shape& shape = call.w->shape;
  const Geometry g{layout::blocks(shape), layout::groups(shape), layout::blocksPerGroup(shape),
                   layout::rowBytes(shape, Engine::kChunk, call.limbs) * kBundle};
  typename Engine::Codes codes(*call.w);
  {
    const TileSession session(kTileHeight, kTileHeight);
    Stretch stretch{};
    while (stretch.last < g.blocks) {
      stretch = stretchFrom<Engine>(shape, stretch.last);
      for (int64_t pair = 0; pair < pairs; ++pair) {
        const int64_t panel = call.panelBegin + pair * kManyPanels;
        const int panels = panel + 1 < call.panelEnd ? 2 : 1;
        pairRows<Engine>(codes, call, g, stretch, panel, panels, space, totals + pair * pairFloats);
      }
    }
  }
  for (int64_t panel = call.panelBegin; panel < call.panelEnd; ++panel) {
    const int64_t index = panel - call.panelBegin;
    const float* total = totals + index / 2 * pairFloats + index % 2 * kPanel;
    for (int64_t row = 0; row < call.rows; ++row) writeRow(call, row, panel, load(total + row * 2 * kPanel));
  }
}

int64_t manyScratch(int64_t rows, int64_t panels) {
  const int64_t pairs = layout::divideUp(panels, kManyPanels);
  return static_cast<int64_t>(sizeof(ManySpace)) + pairs * rows * 2 * kPanel * 4;
}

}  // namespace
}  // namespace tsq
