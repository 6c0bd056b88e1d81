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

// Four values of 16 bits, moved as one.
struct alignas(8) Halves {
  uint16_t v[4];
};

// The outputs of a warp, on their way to y, eight tokens at a time: a lane takes four neighbours of one token in each
// slice, so that the 16 of a slice are 32 bytes in a row. With codes q of activations and w of weights, scales s and t,
// the zero point z of a token:
//   y = s t (sum q w - z sum w) + bias
// of which the bracket is exact for integers. Where blocks have scales, the sums have them already.
template <int kSlices, typename Vector>
class Outputs {
  static constexpr bool kIntegers = std::is_same_v<Vector, Integers>;
  using Sum = std::conditional_t<kIntegers, int32_t, float>;

 public:
  // Slices of 16 outputs from `first` on, `apart` from each other; tokens from `token` on.
  TSQ_DEVICE Outputs(const Gemm& gemm, int64_t first, int apart, int64_t token)
      : p(gemm),
        begin(first + threadIndex() % 4 * 4),
        apart(apart),
        row(static_cast<int>(token) + threadIndex() % 32 / 4) {
    TSQ_UNROLL for (int i = 0; i < 4 * kSlices; ++i) {
      const bool inside = output(i) < p.shape.n;
      scale[i] = inside && p.scalesW ? load(p.scalesW + output(i)) : 1.0f;
      bias[i] = inside && p.bias ? toFloat(load(p.bias + output(i)), p.bf16) : 0.0f;
      sum[i] = kIntegers && inside && p.zerosX ? load(p.sumsW + output(i)) : 0;
    }
  }

  // The next eight tokens, from sums as lanes of products have them: of each slice, that of lane l the l-th.
  TSQ_DEVICE void write(Shared<Sum> sums) {
    if (row < p.m) {
      const int lane = threadIndex() % 32, quarter = lane % 4;
      const float scaleX = p.scalesW ? load(p.scalesX + row) : 1.0f;
      const int32_t zero = kIntegers && p.zerosX ? load(p.zerosX + row) : 0;
      const auto to = p.y + (row * p.strideY + begin);
      TSQ_UNROLL for (int slice = 0; slice < kSlices; ++slice) {
        Halves values;
        TSQ_UNROLL for (int i = 0; i < 4; ++i) {
          // Output 4 quarter + i of the 16, token lane / 4 of the 8: where the fragment of m16n8 has them.
          const int from = (quarter % 2 * 4 + i) * 4 + lane / 8;
          const Sum value = load(sums + ((slice * 32 + from) * 4 + quarter / 2 * 2 + lane / 4 % 2));
          const int at = slice * 4 + i;
          values.v[i] =
              fromFloat(fusedMultiplyAdd(shifted(value, zero, sum[at]) * scaleX, scale[at], bias[at]), p.bf16);
        }
        if (p.vectorY && output(slice * 4 + 3) < p.shape.n) {
          store(Global<Halves>{reinterpret_cast<Halves*>((to + slice * apart).pointer)}, values);
          continue;
        }
        TSQ_UNROLL for (int i = 0; i < 4; ++i) {
          if (output(slice * 4 + i) < p.shape.n) store(to + (slice * apart + i), values.v[i]);
        }
      }
    }
    row += 8;
  }

 private:
  TSQ_DEVICE int64_t output(int i) const { return begin + i / 4 * apart + i % 4; }
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
  float scale[4 * kSlices], bias[4 * kSlices];
  int32_t sum[4 * kSlices];
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
// whole. Sums pass through `scratch`, of kScratchTiles tiles of 8 tokens for each warp that writes: there lanes trade
// them, and what follows is a loop of few registers.
template <int kThreads, int kScratchTiles, int kSlices, int kTiles, typename Vector>
TSQ_DEVICE void finishColumn(const Gemm& p, const w4a16::Work& work, const w4a16::Walk& walk, int slab, int block,
                             const w4a16::Totals<kSlices, kTiles, Vector>& sums, int writer, int writers,
                             Shared<int> flag, uint32_t scratch, int64_t first, int apart) {
  static_assert(kTiles % kScratchTiles == 0);
  using Sum = std::conditional_t<std::is_same_v<Vector, Integers>, int32_t, float>;
  const int lane = threadIndex() % 32;
  const bool writes = writer >= 0 && writer < writers, whole = walk.count == work.steps;
  const Parts<w4a16::Totals<kSlices, kTiles, Vector>> parts(p, work, walk.column, slab, writer, writers);
  if (!whole && !leavePart<kThreads>(p, parts, walk, slab, block, sums, flag)) return;
  if (!writes) return;
  Outputs<kSlices, Vector> outputs(p, first, apart, int64_t{slab} * kTiles * 8);
  const uint32_t own = scratch + static_cast<uint32_t>(writer) * kScratchTiles * kSlices * 32 * sizeof(Vector);
  const auto room = sharedMemory<Vector>(own) + lane;
  const auto all = sharedMemory<Sum>(own);
  if (whole) {
    TSQ_UNROLL for (int begin = 0; begin < kTiles; begin += kScratchTiles) {
      TSQ_UNROLL for (int i = 0; i < kScratchTiles * kSlices; ++i) {
        const auto* v = &sums.v[i % kSlices][(begin + i / kSlices) * 4];
        store(room + i * 32, Vector{{v[0], v[1], v[2], v[3]}});
      }
      syncWarp();
      TSQ_UNROLL_BY(1) for (int j = 0; j < kScratchTiles; ++j) outputs.write(all + j * kSlices * 128);
      syncWarp();
    }
    return;
  }
  TSQ_UNROLL_BY(1) for (int j = 0; j < kTiles; ++j) {
    TSQ_UNROLL for (int slice = 0; slice < kSlices; ++slice) {
      Vector tile = {};
      for (int owner = parts.first; owner <= parts.last; ++owner) {
        const Vector part = load(parts.of(owner) + ((slice * kTiles + j) * 32 + lane));
        TSQ_UNROLL for (int i = 0; i < 4; ++i) tile.v[i] += part.v[i];
      }
      store(room + slice * 32, tile);
    }
    syncWarp();
    outputs.write(all);
    syncWarp();
  }
}

}  // namespace tsq::cuda::w8a8
