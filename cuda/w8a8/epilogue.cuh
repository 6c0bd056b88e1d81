// From sums to y: scales, zero points, bias.
#pragma once
#include "cuda/w4a16/totals.cuh"
#include "cuda/w8a8/gemm_parameters.cuh"

namespace tsq::cuda::w8a8 {

TSQ_DEVICE float toFloat(uint16_t bits, bool bf16) {
  return bf16 ? cuda::toFloat<Type::kBF16>(bits) : cuda::toFloat<Type::kF16>(bits);
}
TSQ_DEVICE uint16_t fromFloat(float value, bool bf16) {
  return bf16 ? cuda::fromFloat<Type::kBF16>(value) : cuda::fromFloat<Type::kF16>(value);
}

// The outputs of a warp, on their way to y, eight tokens at a time. With codes q of activations and w of weights,
// scales s and t, the zero point z of a token:
//   y = s t (sum q w - z sum w) + bias
// of which the bracket is exact for integers. Where blocks have scales, the sums have them already.
template <int kSlices, typename Vector>
class Outputs {
  static constexpr bool kIntegers = std::is_same_v<Vector, Integers>;
  static constexpr int kCount = 2 * kSlices;  // of a lane

 public:
  // Slices of 16 outputs from `first` on, `apart` from each other; tokens from `token` on.
  TSQ_DEVICE Outputs(const Gemm& gemm, int64_t first, int apart, int64_t token)
      : p(gemm),
        begin(first + threadIndex() % 32 / 4),
        apart(apart),
        row(static_cast<int>(token) + threadIndex() % 4 * 2),
        to(p.y + (row * p.strideY + begin)),
        scalesX(p.scalesX + row) {
    TSQ_UNROLL for (int i = 0; i < kCount; ++i) {
      const bool inside = output(i) < p.shape.n;
      scale[i] = inside && p.scalesW ? load(p.scalesW + output(i)) : 1.0f;
      bias[i] = inside && p.bias ? toFloat(load(p.bias + output(i)), p.bf16) : 0.0f;
      sum[i] = kIntegers && inside && p.zerosX ? load(p.sumsW + output(i)) : 0;
    }
  }

  // The next eight tokens, of which a lane has two.
  TSQ_DEVICE void write(const Vector (&sums)[kSlices]) {
    TSQ_UNROLL for (int j = 0; j < 2; ++j) {
      const bool exists = row < p.m;
      const float scaleX = exists && p.scalesW ? load(scalesX) : 1.0f;
      const int32_t zero = kIntegers && exists && p.zerosX ? load(p.zerosX + row) : 0;
      TSQ_UNROLL for (int i = 0; i < kCount; ++i) {
        if (!exists || output(i) >= p.shape.n) continue;
        const float value = shifted(sums[i / 2].v[i % 2 * 2 + j], zero, sum[i]) * scaleX;
        store(to + (output(i) - begin), fromFloat(fusedMultiplyAdd(value, scale[i], bias[i]), p.bf16));
      }
      // Row by row: the addresses of one are all that registers need hold.
      const int step = j == 0 ? 1 : 7;
      row += step;
      to = to + step * p.strideY;
      scalesX = scalesX + step;
      hideOrigin(to);
      hideOrigin(scalesX);
    }
  }

 private:
  TSQ_DEVICE int64_t output(int i) const { return begin + i / 2 * apart + i % 2 * 8; }
  TSQ_DEVICE static float shifted(float value, int32_t, int32_t) { return value; }
  // Unsigned: what overflows on the way comes back.
  TSQ_DEVICE static float shifted(int32_t value, int32_t zero, int32_t sum) {
    const uint32_t off = static_cast<uint32_t>(zero) * static_cast<uint32_t>(sum);
    return static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(value) - off));
  }

  const Gemm& p;
  const int64_t begin;
  const int apart;
  int row;
  Global<uint16_t> to;
  Global<const float> scalesX;
  float scale[kCount], bias[kCount];
  int32_t sum[kCount];
};

// The parts of a column that several blocks share, one of each block from `first` to `last`, in the order of k; of what
// the warp number `writer` of the `writers` of a block has of them.
template <typename Sums>
struct Parts {
  using Vector = typename Sums::Four;
  Global<Vector> all;
  const w4a16::Work& work;
  const int slab, first, last, writer, writers;

  TSQ_DEVICE Parts(const Gemm& p, const w4a16::Work& shared, int column, int slab, int writer, int writers)
      : all{reinterpret_cast<Vector*>(p.partials.pointer)},
        work(shared),
        slab(slab),
        first(work.owner(column * work.steps)),
        last(work.owner(column * work.steps + work.steps - 1)),
        writer(writer),
        writers(writers) {}

  // A run has at most two parts: of a column that began before, and of one that it begins.
  TSQ_DEVICE Global<Vector> of(int owner, bool begins) const {
    const int64_t slot = (int64_t{slab} * work.blocks + owner) * w4a16::kPartialSlots + (begins ? 1 : 0);
    return all + (slot * writers + writer) * Sums::kFloats;
  }
  TSQ_DEVICE Global<Vector> of(int owner) const { return of(owner, owner == first); }
};

// Leaves the part of a column that this block has, for the first kThreads threads of the block, or for all: true where
// the parts of all blocks are there now. Of the warps, those with 0 <= writer < writers hold sums.
template <int kThreads, typename Sums>
TSQ_DEVICE bool leavePart(const Gemm& p, const Parts<Sums>& parts, const w4a16::Walk& walk, int slab, int block,
                          const Sums& sums, Shared<int> flag) {
  const auto sync = [] {
    if constexpr (kThreads == 0) {
      syncThreads();
    } else {
      syncSome(1, kThreads);
    }
  };
  const auto counter = p.counters + (int64_t{slab} * parts.work.columns + walk.column);
  if (parts.writer >= 0 && parts.writer < parts.writers) sums.put(parts.of(block, walk.first == 0));
  sync();
  if (threadIndex() == 0) store(flag, atomicAddSync(counter, 1));
  sync();
  if (load(flag) != parts.last - parts.first) return false;
  if (threadIndex() == 0) store(counter, 0);
  return true;
}

// The end of a segment, for the first kThreads threads of the block, or for all: the column goes to y where it is
// whole. Sums pass through `scratch`, of kScratchTiles tiles for each warp that writes: y takes many instructions a
// sum, which then are few in a loop, not many in a row that hold all sums in registers.
template <int kThreads, int kScratchTiles, int kSlices, int kTiles, typename Vector>
TSQ_DEVICE void finishColumn(const Gemm& p, const w4a16::Work& work, const w4a16::Walk& walk, int slab, int block,
                             const w4a16::Totals<kSlices, kTiles, Vector>& sums, int writer, int writers,
                             Shared<int> flag, Shared<Vector> scratch, int64_t first, int apart) {
  static_assert(kTiles % kScratchTiles == 0);
  const int lane = threadIndex() % 32;
  const bool writes = writer >= 0 && writer < writers, whole = walk.count == work.steps;
  const Parts<w4a16::Totals<kSlices, kTiles, Vector>> parts(p, work, walk.column, slab, writer, writers);
  if (!whole && !leavePart<kThreads>(p, parts, walk, slab, block, sums, flag)) return;
  if (!writes) return;
  Outputs<kSlices, Vector> outputs(p, first, apart, int64_t{slab} * kTiles * 8);
  Vector tile[kSlices];
  if (whole) {
    const auto own = scratch + (writer * kScratchTiles * kSlices * 32 + lane);
    TSQ_UNROLL for (int begin = 0; begin < kTiles; begin += kScratchTiles) {
      TSQ_UNROLL for (int i = 0; i < kScratchTiles * kSlices; ++i) {
        const auto& v = sums.v[i % kSlices][begin + i / kSlices];
        store(own + i * 32, Vector{{v[0], v[1], v[2], v[3]}});
      }
      TSQ_UNROLL_BY(1) for (int j = 0; j < kScratchTiles; ++j) {
        TSQ_UNROLL for (int slice = 0; slice < kSlices; ++slice) tile[slice] = load(own + (j * kSlices + slice) * 32);
        outputs.write(tile);
      }
    }
    return;
  }
  TSQ_UNROLL_BY(1) for (int j = 0; j < kTiles; ++j) {
    TSQ_UNROLL for (int slice = 0; slice < kSlices; ++slice) tile[slice] = {};
    for (int owner = parts.first; owner <= parts.last; ++owner) {
      TSQ_UNROLL for (int slice = 0; slice < kSlices; ++slice) {
        const Vector part = load(parts.of(owner) + ((slice * kTiles + j) * 32 + lane));
        TSQ_UNROLL for (int i = 0; i < 4; ++i) tile[slice].v[i] += part.v[i];
      }
    }
    outputs.write(tile);
  }
}

}  // namespace tsq::cuda::w8a8
