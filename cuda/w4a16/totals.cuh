// The sums of a warp: slices of 16 outputs by tiles of 8 tokens, as fragments of the products that make them, and
// their way to y, alone or together with those of other blocks.
#pragma once
#include "cuda/w4a16/gemm_parameters.cuh"
#include "cuda/w4a16/work.cuh"

namespace tsq::cuda::w4a16 {

// Four sums of a lane travel as a Vector: Floats, or Integers.
template <int kSlices, int kTiles, typename Vector = Floats>
struct Totals {
  using Four = Vector;

  static constexpr int kPieces = kSlices * kTiles;  // Vectors of a lane
  static constexpr int kFloats = kPieces * 32;      // of the warp
  // Of a slice: four sums of each tile, as products have them.
  using Sum = decltype(Vector::v[0] + 0);
  Sum v[kSlices][kTiles * 4] = {};

  // Those of a tile.
  TSQ_DEVICE Sum (&four(int slice, int tile))[4] { return *reinterpret_cast<Sum(*)[4]>(&v[slice][tile * 4]); }

  TSQ_DEVICE void clear() {
    TSQ_UNROLL for (int slice = 0; slice < kSlices; ++slice) {
      TSQ_UNROLL for (int i = 0; i < kTiles * 4; ++i) v[slice][i] = 0;
    }
  }

  // Sums travel as they lie in registers: a piece of a lane is 16 bytes, those of the lanes side by side.
  template <typename Memory>
  TSQ_DEVICE void put(Memory to) const {
    TSQ_UNROLL for (int i = 0; i < kPieces; ++i) {
      const auto* t = &v[i / kTiles][i % kTiles * 4];
      store(to + (i * 32 + threadIndex() % 32), Vector{{t[0], t[1], t[2], t[3]}});
    }
  }
  template <typename Memory>
  TSQ_DEVICE void add(Memory from) {
    TSQ_UNROLL for (int i = 0; i < kPieces; ++i) {
      const Vector other = load(from + (i * 32 + threadIndex() % 32));
      TSQ_UNROLL for (int j = 0; j < 4; ++j) v[i / kTiles][i % kTiles * 4 + j] += other.v[j];
    }
  }

  // To y: slices of outputs from `first` on, tokens from `token` on.
  template <Type kType>
  TSQ_DEVICE void write(const Gemm& p, int64_t first, int64_t token) const {
    const int lane = threadIndex() % 32;
    const int64_t n = first + lane / 4;
    float bias[2 * kSlices];
    TSQ_UNROLL for (int i = 0; i < 2 * kSlices; ++i) {
      bias[i] = p.bias && n + 8 * i < p.shape.n ? toFloat<kType>(load(p.bias + (n + 8 * i))) : 0.0f;
    }
    // Row by row: the address of one is all that registers need hold.
    auto to = p.y + ((token + lane % 4 * 2) * p.strideY + n);
    TSQ_UNROLL for (int j = 0; j < 2 * kTiles; ++j) {
      const bool inside = token + j / 2 * 8 + lane % 4 * 2 + j % 2 < p.m;
      TSQ_UNROLL for (int i = 0; i < 2 * kSlices; ++i) {
        if (!inside || n + 8 * i >= p.shape.n) continue;
        store(to + 8 * i, fromFloat<kType>(v[i / 2][j / 2 * 4 + i % 2 * 2 + j % 2] + bias[i]));
      }
      to = to + (j % 2 == 0 ? p.strideY : 7 * p.strideY);
      hideOrigin(to);
    }
  }
};

constexpr int kPartialSlots = 2;  // a run has at most two unfinished columns: its first and its last

// Adds up the sums of two or four warps along k, always in the same order, into those of the first. For every thread of
// the block; slot(0) and slot(1) are room for sums, of these warps alone.
template <int kWarps, typename Sums, typename Slot>
TSQ_DEVICE void addAlongK(Sums& sums, int warp, Slot slot) {
  static_assert(kWarps == 2 || kWarps == 4);
  if (kWarps == 4) {
    if (warp >= 2) sums.put(slot(warp - 2));
    syncThreads();
    if (warp < 2) sums.add(slot(warp));
  }
  if (warp == 1) sums.put(slot(1));  // which only this warp read
  syncThreads();
  if (warp == 0) sums.add(slot(1));
}

// The end of a segment, for every thread of the block, or the first `threads`, the block's others left out: true for
// the warps that now hold the sums of the whole column and are to write them. Of the warps, those with 0 <= writer <
// writers hold sums of the block. Where several blocks share the column, the last to come adds up what all left, in the
// order of k.
template <typename Sums>
TSQ_DEVICE bool completeColumn(const Gemm& p, const Work& work, const Walk& walk, int slab, int block, Sums& sums,
                               int writer, int writers, Shared<int> flag, int threads) {
  const bool writes = writer >= 0 && writer < writers;
  if (walk.count == work.steps) return writes;
  const auto partial = [&](int owner, bool begins) {
    const int64_t slot = (int64_t{slab} * work.blocks + owner) * kPartialSlots + (begins ? 1 : 0);
    return p.partials + (slot * writers + writer) * Sums::kFloats;
  };
  const auto counter = p.counters + (int64_t{slab} * work.columns + walk.column);
  const int begin = (walk.column - work.whole) * work.steps;
  const int first = work.owner(begin), last = work.owner(begin + work.steps - 1);
  if (writes) sums.put(partial(block, walk.first == 0));
  syncSome(1, threads);
  if (threadIndex() == 0) store(flag, atomicAddSync(counter, 1));
  syncSome(1, threads);
  // By a shuffle, so that the compiler sees that warps do not part here.
  if (shuffleFrom(load(flag), 0) != last - first) return false;
  if (threadIndex() == 0) store(counter, 0);
  if (!writes) return false;
  sums.clear();
  for (int owner = first; owner <= last; ++owner) sums.add(partial(owner, work.begin(owner) <= begin));
  return true;
}

}  // namespace tsq::cuda::w4a16
