// y[m][n] of 8-bit activations and weights (layout.cuh) on the mma instruction, for few tokens: weights are operand A
// and tokens operand B, eight a product.
//
// A block has a column of 64 outputs: two warps for each of two tiles along k, with 32 outputs each. Sums of s8 are
// int32 throughout, and exact. Those of e4m3 are moved to others after every tile of 128 k, with the scales of blocks
// where there are any: tensor cores may add up e4m3 in fewer bits than float32 has.
#pragma once
#include "cuda/w4a16/activations.cuh"
#include "cuda/w8a8/epilogue.cuh"

namespace tsq::cuda::w8a8 {

constexpr int kWarpsN = 2, kWarpsK = 2;
constexpr int kThreads = 32 * kWarpsN * kWarpsK;

// kTiles of 8 tokens are a slab.
template <Type kType, int kTiles>
class GemmBlock {
  static constexpr bool kIntegers = kType == Type::kS8;
  using Vector = std::conditional_t<kIntegers, Integers, Floats>;
  static constexpr int kTokens = 8 * kTiles, kSlices = 4 / kWarpsN;
  static constexpr int kTokenWords = kTokens / 4;  // of their scales
  // A stage, in units of 16 bytes.
  static constexpr int kX = kWarpsK * kTileWords;
  static constexpr int kScales = kX + kWarpsK * kTokens * kChunks;
  static constexpr int kStage = kScales + (kIntegers ? 0 : kWarpsK * (kTokenWords + 1));
  // As many stages as fit the 99 KiB of shared memory that every device since sm_80 has for a block.
  static constexpr int kSums = kWarpsN * kSlices * kTiles * 32;  // of the warps of one tile along k
  static constexpr int kRoom = kWarpsN * kSlices * 32;           // for sums on their way to y
  static constexpr int kFit = (99 * 1024 / 16 - kSums - kRoom - 1) / kStage;
  static constexpr int kStages = kFit < 6 ? kFit : 6;
  static_assert(kStages >= 4 && kWarpsK == 2);
  static constexpr int kReduce = kStages * kStage;
  static constexpr int kScratch = kReduce + kSums;
  static constexpr int kFlag = kScratch + kRoom;

 public:
  static constexpr size_t kSharedBytes = (kFlag + 1) * sizeof(Words);
  static constexpr int kPartialVectors = kWarpsN * w4a16::Totals<kSlices, kTiles, Vector>::kFloats;

  TSQ_DEVICE explicit GemmBlock(const Gemm& gemm)
      : p(gemm),
        work(w4a16::workOf(gemm.shape, gemm.blocks, 1, kWarpsK)),
        lane(threadIndex() % 32),
        warpN(threadIndex() / 32 % kWarpsN),
        warpK(threadIndex() / 32 / kWarpsN),
        slab(blockIndex() / work.blocks),
        block(blockIndex() % work.blocks),
        tiles(static_cast<int>(gemm.shape.tiles())) {}

  TSQ_DEVICE void run() {
    w4a16::Walk ahead(work, block);
    for (int i = 0; i < kStages - 1; ++i) fetch(ahead, i);
    int stage = 0;
    for (w4a16::Walk walk(work, block); walk.left > 0; walk.next(work)) {
      waitCopies<kStages - 2>();
      // All have the bytes of this stage, and none still reads the one before it, which the next fetch overwrites.
      syncThreads();
      fetch(ahead, (stage + kStages - 1) % kStages);
      multiplyTile(stage);
      if (walk.ends()) finish(walk);
      stage = (stage + 1) % kStages;
    }
    waitCopies<0>();
  }

 private:
  TSQ_DEVICE Shared<Words> stageWords(int stage) const { return sharedMemory<Words>(0) + stage * kStage; }
  // Where the scales of this warp's tile begin: those of tokens, then the four of outputs.
  TSQ_DEVICE int scalesBegin() const { return kScales + warpK * (kTokenWords + 1); }

  // Starts the copies of a step, always one group, and advances.
  TSQ_DEVICE void fetch(w4a16::Walk& walk, int stage) {
    constexpr int kSharers = kWarpsN * 32;  // of a tile along k
    if (walk.left > 0) {
      const auto words = stageWords(stage);
      const int tile = walk.tile(warpK, kWarpsK), thread = warpN * 32 + lane;
      const bool inside = tile < tiles;
      const int64_t source = inside ? int64_t{walk.column} * tiles + tile : 0;
      for (int i = thread; i < kTileWords; i += kSharers) {
        copyAsyncOnce(words + (warpK * kTileWords + i), p.weights + (source * kTileWords + i), inside ? 16 : 0);
      }
      const int first = slab * kTokens;
      const int64_t rows = inside ? int64_t{tile} * p.rows + first : 0;
      for (int i = thread; i < kTokens * kChunks; i += kSharers) {
        const bool exists = inside && first + i / kChunks < p.rows;
        copyAsync(words + (kX + warpK * kTokens * kChunks + i), p.x + (exists ? rows * kChunks + i : 0),
                  exists ? 16 : 0);
      }
      if (!kIntegers && p.blockScales && thread <= kTokenWords) {
        const bool outputs = thread == kTokenWords, exists = inside && (outputs || first + thread * 4 < p.rows);
        const auto* from = reinterpret_cast<const Words*>(p.scalesX.pointer + (exists && !outputs ? rows : 0));
        if (outputs) from = reinterpret_cast<const Words*>(p.blockScales.pointer + source);
        copyAsync(words + (scalesBegin() + thread), Global<const Words>{from + (exists && !outputs ? thread : 0)},
                  exists ? 16 : 0);
      }
      walk.next(work);
    }
    commitCopies();
  }

  TSQ_DEVICE void multiplyTile(int stage) {
    const auto words = stageWords(stage);
    const auto x = words + (kX + warpK * kTokens * kChunks);
    const auto weights = words + (warpK * kTileWords + warpN * kSlices * 32 + lane);
    uint32_t b[kTiles][4];  // 64 k of 8 tokens each
    TSQ_UNROLL for (int step = 0; step < kSteps; ++step) {
      TSQ_UNROLL for (int tile = 0; tile < kTiles; ++tile) {
        if (step % 2 == 1) break;
        loadMatrices(b[tile], x + w4a16::chunkOf(tile * 8 + lane % 8, step * 2 + lane / 8));
      }
      TSQ_UNROLL for (int slice = 0; slice < kSlices; ++slice) {
        const Words a = load(weights + (step * 4 + slice) * 32);
        TSQ_UNROLL for (int tile = 0; tile < kTiles; ++tile) {
          const uint32_t b0 = b[tile][step % 2 * 2], b1 = b[tile][step % 2 * 2 + 1];
          if constexpr (kIntegers) {
            multiplyS8(total.four(slice, tile), a.v, b0, b1);
          } else {
            multiply<kType>(part[slice][tile], a.v, b0, b1);
          }
        }
      }
    }
    if constexpr (!kIntegers) endTile(stage);
  }

  // Moves the sums of a tile, scaled, into those of the outputs.
  TSQ_DEVICE void endTile(int stage) {
    const auto values = sharedMemory<float>((stage * kStage + scalesBegin()) * uint32_t{sizeof(Words)});
    float weight[kSlices];
    TSQ_UNROLL for (int slice = 0; slice < kSlices; ++slice) {
      weight[slice] = p.blockScales ? load(values + (kTokens + warpN * kSlices + slice)) : 1.0f;
    }
    TSQ_UNROLL for (int tile = 0; tile < kTiles; ++tile) {
      TSQ_UNROLL for (int i = 0; i < 4; ++i) {
        const float token = p.blockScales ? load(values + (tile * 8 + lane % 4 * 2 + i % 2)) : 1.0f;
        TSQ_UNROLL for (int slice = 0; slice < kSlices; ++slice) {
          float& sum = total.v[slice][tile * 4 + i];
          sum = fusedMultiplyAdd(weight[slice] * token, part[slice][tile][i], sum);
          part[slice][tile][i] = 0;
        }
      }
    }
  }

  // The end of a segment: the sums over the warps along k end up in warp 0 of them.
  TSQ_DEVICE void finish(const w4a16::Walk& walk) {
    // Of two warps, one leaves its sums and the other adds them: there is one slot.
    w4a16::addAlongK<kWarpsK>(
        total, warpK, [&](int) { return sharedMemory<Vector>(kReduce * sizeof(Words)) + warpN * total.kFloats; });
    const auto flag = sharedMemory<int>(kFlag * sizeof(Words));
    const int64_t first = int64_t{walk.column} * kTileN + warpN * kSlices * 16;
    finishColumn<0, 1>(p, work, walk, slab, block, total, warpK == 0 ? warpN : -1, kWarpsN, flag,
                       kScratch * sizeof(Words), first, 16);
    total.clear();
  }

  const Gemm& p;
  const w4a16::Work work;
  const int lane, warpN, warpK, slab, block;
  const int tiles;  // along k
  w4a16::Totals<kSlices, kTiles, Vector> total;
  float part[kSlices][kTiles][4] = {};  // of the current tile, of e4m3
};

template <Type kType, int kTiles>
TSQ_KERNEL(kThreads)
gemmKernel(Gemm gemm) {
  GemmBlock<kType, kTiles>(gemm).run();
}

}  // namespace tsq::cuda::w8a8
