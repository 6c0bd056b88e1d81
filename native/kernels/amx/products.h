// y = x W^T over tiles. Two paths: *few* rows, whose limbs all fit one activation tile, take the weights as they come
// from memory, four panels side by side; *many* rows share a decoded block of two panels.
#pragma once

#include "kernels/amx/decode.h"
#include "kernels/amx/tiles.h"
#include "kernels/kernels.h"

namespace tsq {
namespace {

using layout::kBundle;
using layout::kPanel;

constexpr int kFewPanels = 4;
constexpr int kManyPanels = 2;

TSQ_INLINE int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// Exact products: bf16 parts of the activations with codes less zero points, scaled by the group.
template <typename PairCodes>
struct TilePairs {
  using Codes = PairCodes;
  static constexpr int64_t kChunk = layout::kPairChunk;

  template <int kSums, int kX, int kW>
  TSQ_METHOD static void multiply() {
    tilePairs<kSums, kX, kW>();
  }
  // What the sums of a block add to the totals of one row, for 16 outputs of a group. `at`: of their first scale.
  struct Finish {
    Lanes scale;
    TSQ_METHOD Finish(const PackedView& w, int64_t at) : scale(Codes::kScaled ? loadScales(w, at) : zeros()) {}
    TSQ_METHOD Lanes operator()(const uint8_t* sums, const float*, const int32_t*, Lanes total) const {
      const Lanes sum = load(reinterpret_cast<const float*>(sums));
      return Codes::kScaled ? fma(scale, sum, total) : add(total, sum);
    }
  };
};

// Activations of 8 bits with codes as they are.
template <typename QuadCodes>
struct TileQuads {
  using Codes = QuadCodes;
  static constexpr int64_t kChunk = layout::kQuadChunk;

  template <int kSums, int kX, int kW>
  TSQ_METHOD static void multiply() {
    tileQuads<kSums, kX, kW>();
  }
  struct Finish {
    Lanes scale, zero;
    TSQ_METHOD Finish(const PackedView& w, int64_t at) : scale(loadScales(w, at)), zero(loadZeros(w, at)) {}
    // Sums of codes, and their products with zero points, are below 2^24: exact in f32.
    TSQ_METHOD Lanes operator()(const uint8_t* sums, const float* rowScale, const int32_t* rowSum, Lanes total) const {
      const Lanes dot = fmaNegated(zero, set1(static_cast<float>(*rowSum)), floats(loadWords(sums)));
      return fma(mul(scale, set1(*rowScale)), dot, total);
    }
  };
};

// Where a block begins in the packed panel and in the activations.
template <typename Engine>
struct BlockPlace {
  layout::Block block;
  const uint8_t* lines;  // panel 0
  int64_t chunk;         // its first chunk
  TSQ_METHOD BlockPlace(const PackedView& w, int64_t index)
      : block(layout::blockAt(w.shape, index)),
        lines(static_cast<const uint8_t*>(w.data) + lineBytes<Engine::Codes::kKind>(block.p)),
        chunk(layout::firstChunk(w.shape, index, Engine::kChunk)) {}
};

TSQ_INLINE void writeRow(const DotCall& call, int64_t row, int64_t panel, Lanes total) {
  const int64_t column = panel * kPanel, count = call.w->shape.n - column;
  float* y = call.y + row * call.ldy + column;
  if (count >= kPanel) {
    store(y, call.bias != nullptr ? add(total, load(call.bias + column)) : total);
  } else {
    storePartial(y, call.bias != nullptr ? add(total, loadPartial(call.bias + column, count)) : total, count);
  }
}

// --- few rows ------------------------------------------------------------------------------------------------------

// Chunks that are decoded ahead of the multiplication. Tiles are not forwarded from the store buffer: a chunk must have
// left it, and stores leave in order, behind the multiplications before them.
constexpr int kAhead = 3;

// Working space of the few-rows path: decoded chunks in a ring, sums, totals.
struct alignas(64) FewSpace {
  uint8_t weights[kAhead + 1][kFewPanels][kTileBytes];
  uint8_t sums[kFewPanels][kTileBytes];
  float totals[kFewPanels][kBundle][kPanel];
};

// One weight tile against the activations in tile 4, for panel q: sums in tile q.
template <typename Engine>
TSQ_INLINE void fewStep(const uint8_t (&weights)[kFewPanels][kTileBytes], int panels) {
  tileLoad<6>(weights[0]);
  Engine::template multiply<0, 4, 6>();
  if (panels > 1) {
    tileLoad<7>(weights[1]);
    Engine::template multiply<1, 4, 7>();
  }
  if (panels > 2) {
    tileLoad<6>(weights[2]);
    Engine::template multiply<2, 4, 6>();
  }
  if (panels > 3) {
    tileLoad<7>(weights[3]);
    Engine::template multiply<3, 4, 7>();
  }
}

TSQ_INLINE void storeSums(FewSpace& space, int panels) {
  tileStore<0>(space.sums[0]);
  if (panels > 1) tileStore<1>(space.sums[1]);
  if (panels > 2) tileStore<2>(space.sums[2]);
  if (panels > 3) tileStore<3>(space.sums[3]);
}

TSQ_INLINE void clearSums() {
  tileZero<0>();
  tileZero<1>();
  tileZero<2>();
  tileZero<3>();
}

// Goes through the chunks of `panels` neighbouring panels and decodes them.
template <typename Engine>
struct ChunkReader {
  using Codes = typename Engine::Codes;
  const PackedView& w;
  const int64_t panel, bytes, blocks, groups;
  Codes codes[kFewPanels];
  int64_t index = -1, rest = 0;    // block; packed columns of it that are left
  const uint8_t* lines = nullptr;  // panel 0

  TSQ_METHOD ChunkReader(const DotCall& call, int64_t firstPanel)
      : w(*call.w),
        panel(firstPanel),
        bytes(layout::panelBytes(w.shape)),
        blocks(layout::blocks(w.shape)),
        groups(layout::groups(w.shape)),
        codes{Codes(*call.w), Codes(*call.w), Codes(*call.w), Codes(*call.w)} {}

  TSQ_METHOD void next(int panels, uint8_t (&out)[kFewPanels][kTileBytes]) {
    if (rest <= 0) {
      if (++index >= blocks) return;
      const BlockPlace<Engine> place(w, index);
      lines = place.lines + panel * bytes;
      rest = place.block.length;
      for (int q = 0; q < panels; ++q) codes[q].setGroup(w, ((panel + q) * groups + place.block.group) * kPanel);
    }
    const int64_t length = smaller(Engine::kChunk, rest);
    for (int q = 0; q < panels; ++q) decodeChunk<Codes, Engine::kChunk>(codes[q], lines + q * bytes, length, 0, out[q]);
    rest -= Engine::kChunk;
    lines += lineBytes<Codes::kKind>(Engine::kChunk);
  }
};

// kPanels neighbouring panels; every row of every limb is a row of the activation tile.
template <typename Engine, int kPanels>
__attribute__((noinline)) void fewPanels(const DotCall& call, int64_t panel, FewSpace& space) {
  constexpr int panels = kPanels;
  const PackedView& w = *call.w;
  const int64_t blocks = layout::blocks(w.shape), groups = layout::groups(w.shape);
  const int64_t tileRows = call.rows * call.limbs;
  ChunkReader<Engine> reader(call, panel);
  for (int q = 0; q < panels; ++q) {
    for (int64_t row = 0; row < call.rows; ++row) store(space.totals[q][row], zeros());
  }
  const uint8_t* activations = call.chunks;
  for (int i = 0; i < kAhead; ++i) reader.next(panels, space.weights[i]);
  int now = 0;
  for (int64_t index = 0; index < blocks; ++index) {
    const layout::Block block = layout::blockAt(w.shape, index);
    clearSums();
    for (int64_t begin = 0; begin < block.length; begin += Engine::kChunk) {
      reader.next(panels, space.weights[(now + kAhead) % (kAhead + 1)]);
      tileLoad<4>(activations);
      activations += tileRows * kTileRowBytes;
      fewStep<Engine>(space.weights[now], panels);
      now = (now + 1) % (kAhead + 1);
    }
    storeSums(space, panels);
    for (int q = 0; q < panels; ++q) {
      const typename Engine::Finish finish(w, ((panel + q) * groups + block.group) * kPanel);
      for (int64_t row = 0; row < call.rows; ++row) {
        Lanes total = load(space.totals[q][row]);
        for (int64_t limb = 0; limb < call.limbs; ++limb) {
          const int64_t scale = index * call.rows + row;
          total = finish(space.sums[q] + (limb * call.rows + row) * kTileRowBytes, call.scales + scale,
                         call.sums + scale, total);
        }
        store(space.totals[q][row], total);
      }
    }
  }
  for (int q = 0; q < panels; ++q) {
    for (int64_t row = 0; row < call.rows; ++row) writeRow(call, row, panel + q, load(space.totals[q][row]));
  }
}

template <typename Engine>
void fewRows(const DotCall& call) {
  FewSpace& space = *reinterpret_cast<FewSpace*>(call.scratch);
  const TileSession session(static_cast<int>(call.rows * call.limbs));
  int64_t panel = call.panelBegin;
  for (; panel + kFewPanels <= call.panelEnd; panel += kFewPanels) fewPanels<Engine, kFewPanels>(call, panel, space);
  for (; panel < call.panelEnd; ++panel) fewPanels<Engine, 1>(call, panel, space);
}

// --- many rows -----------------------------------------------------------------------------------------------------

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
  clearSums();
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
      // Panels lie far apart and only a piece of each is read: fetch the same piece of the next but one.
      decodeChunk<typename Engine::Codes, Engine::kChunk>(codes, lines, smaller(Engine::kChunk, rest), 2 * bytes, out);
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
    const TileSession session(static_cast<int>(kTileHeight));
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

template <typename Engine>
TSQ_INLINE void product(const DotCall& call) {
  if (call.rows * call.limbs <= kTileHeight) return fewRows<Engine>(call);
  manyRows<Engine>(call);
}

int64_t tileScratch(const layout::Shape&, int64_t rows, int64_t panels) {
  const int64_t pairs = layout::divideUp(panels, kManyPanels);
  const int64_t many = static_cast<int64_t>(sizeof(ManySpace)) + pairs * rows * 2 * kPanel * 4;
  const int64_t few = static_cast<int64_t>(sizeof(FewSpace));
  return many > few ? many : few;
}

}  // namespace
}  // namespace tsq
