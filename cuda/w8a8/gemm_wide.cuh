// The product of gemm.cuh for many tokens on sm_90a, by wgmma: weights are operand A, from registers, tokens operand B,
// from shared memory. A block has kSlices tiles of 64 outputs for each of its two warpgroups, and a slab of tokens; a
// thread of a third one fills the ring of stages with bulk copies: a tile of weights is one run of bytes, and so are
// the rows of a slab in a tile of 128 k. The other two have most of its registers.
//
// A stage is handed over by counted barriers: `full` when its bytes have come, `empty` when all eight warps are done
// with it. While one warpgroup waits for its products, or scales them, the other's keep the tensor cores busy.
#pragma once
#include "cuda/w8a8/epilogue.cuh"

namespace tsq::cuda::w8a8 {

constexpr int kWideGroups = 2, kWideWarps = 4 * kWideGroups;
constexpr int kWideConsumers = 32 * kWideWarps, kWideThreads = kWideConsumers + 128;

// kTiles of 8 tokens are a slab.
template <Type kType, int kTiles, int kSlices>
class WideBlock {
  static constexpr bool kIntegers = kType == Type::kS8;
  using Vector = std::conditional_t<kIntegers, Integers, Floats>;
  using Sum = std::conditional_t<kIntegers, int32_t, float>;
  static constexpr int kTokens = 8 * kTiles, kSums = 4 * kTiles;
  // A stage, in units of 16 bytes; x first, where it begins at a multiple of 1024 bytes.
  static constexpr int kWeights = kTokens * kChunks;
  static constexpr int kScales = kWeights + kWideGroups * kSlices * kTileWords;
  static constexpr int kUsed = kScales + (kIntegers ? 0 : kTokens / 4 + kWideGroups * kSlices);
  static constexpr int kStage = (kUsed + 63) / 64 * 64;
  static constexpr int kScratchTiles = 4;
  static constexpr int kScratchBytes = kWideWarps * kScratchTiles * kSlices * 32 * 16;
  static constexpr int kFit = (227 * 1024 - 1024 - kScratchBytes) / 16 / kStage;
  static constexpr int kStages = kFit < 6 ? kFit : 6;
  static_assert(kStages >= 4 && kWeights % 64 == 0);
  // Behind the stages: room for sums on their way to y, barriers of 8 bytes, full then empty, and the flag.
  static constexpr int kScratch = kStages * kStage * 16;
  static constexpr int kBarriers = kScratch + kScratchBytes;
  static constexpr int kFlag = kBarriers + 2 * kStages * 8;

 public:
  static constexpr int kTilesN = kWideGroups * kSlices;
  static constexpr size_t kSharedBytes = kFlag + 16;
  static constexpr int kPartialVectors = kWideWarps * w4a16::Totals<kSlices, kTiles, Vector>::kFloats;

  TSQ_DEVICE explicit WideBlock(const Gemm& gemm)
      : p(gemm),
        work(w4a16::workOf(gemm.shape, gemm.blocks, kTilesN, 1)),
        lane(threadIndex() % 32),
        warp(threadIndex() / 32),
        slab(slabOf(work, p.m, block)),
        tiles(static_cast<int>(gemm.shape.tiles())) {}

  TSQ_DEVICE void run() {
    if (threadIndex() == 0) {
      for (int i = 0; i < kStages; ++i) {
        initBarrier(full(i), 1);
        initBarrier(empty(i), kWideWarps);
      }
      proxyFence();  // bulk copies see them
    }
    syncThreads();
    if (warp >= kWideWarps) {
      leaveRegisters<40>();
      if (threadIndex() == kWideConsumers) fill();
    } else {
      takeRegisters<232>();
      consume();
    }
  }

 private:
  // The slab and the block within it. Blocks that run at a time are of several slabs by few columns: what they read is
  // less together, and the cache holds more of it, than with all columns of one slab after the other.
  TSQ_DEVICE static int slabOf(const w4a16::Work& work, int m, int& block) {
    constexpr int kTogether = 8;
    const int slabs = (m + kTokens - 1) / kTokens, first = blockIndex() / (kTogether * work.blocks) * kTogether;
    const int together = slabs - first < kTogether ? slabs - first : kTogether;
    const int index = blockIndex() - first * work.blocks;
    block = index / together;
    return first + index % together;
  }

  TSQ_DEVICE Shared<Arrivals> full(int stage) const { return sharedMemory<Arrivals>(kBarriers) + stage; }
  TSQ_DEVICE Shared<Arrivals> empty(int stage) const { return full(kStages + stage); }

  // One thread keeps the ring full.
  TSQ_DEVICE void fill() const {
    const int64_t columns = p.shape.columns();
    int stage = 0;
    uint32_t parity = 0;
    for (w4a16::Walk walk(work, block); walk.left > 0; walk.next(work)) {
      waitPhase(empty(stage), parity ^ 1);  // which has passed in the first round
      const auto words = sharedMemory<Words>(0) + stage * kStage;
      const int tile = walk.tile(0, 1);
      const int64_t rows = int64_t{tile} * p.rows + int64_t{slab} * kTokens;
      const bool scaled = !kIntegers && p.blockScales;
      arriveExpecting(full(stage), (scaled ? kUsed : kScales) * 16);
      copyBulk(words, p.x + rows * kChunks, kTokens * kTileK, full(stage));
      if (scaled) copyBulk(words + kScales, wordsAt(p.scalesX + rows), kTokens * 4, full(stage));
      TSQ_UNROLL for (int i = 0; i < kTilesN; ++i) {
        // Beyond the last column: that one again, for outputs that nobody stores.
        const int64_t wanted = int64_t{walk.column} * kTilesN + i, column = wanted < columns ? wanted : columns - 1;
        const int64_t from = column * tiles + tile;
        copyBulk(words + (kWeights + i * kTileWords), p.weights + from * kTileWords, kTileWords * 16, full(stage));
        if (scaled) copyBulk(words + (kScales + kTokens / 4 + i), wordsAt(p.blockScales + from), 16, full(stage));
      }
      advance(stage, parity);
    }
  }
  template <typename T>
  TSQ_DEVICE static Global<const Words> wordsAt(Global<const T> from) {
    return {reinterpret_cast<const Words*>(from.pointer)};
  }

  TSQ_DEVICE static void advance(int& stage, uint32_t& parity) {
    if (++stage < kStages) return;
    stage = 0;
    parity ^= 1;
  }

  TSQ_DEVICE void consume() {
    int stage = 0;
    uint32_t parity = 0;
    for (w4a16::Walk walk(work, block); walk.left > 0; walk.next(work)) {
      // A segment: its sums are of no use beyond it, and need no registers there.
      Sum part[kSlices][kSums] = {};     // of the current tile, or of s8 all
      float total[kSlices][kSums] = {};  // of e4m3
      for (;; walk.next(work)) {
        waitPhase(full(stage), parity);
        multiplyTile(stage, part);
        if constexpr (!kIntegers) endTile(stage, part, total);
        syncWarp();
        if (lane == 0) arrive(empty(stage));
        advance(stage, parity);
        if (walk.ends()) break;
      }
      if constexpr (kIntegers) {
        finish(walk, part);
      } else {
        finish(walk, total);
      }
    }
  }

  TSQ_DEVICE void multiplyTile(int stage, Sum (&part)[kSlices][kSums]) {
    const auto x = sharedMemory<Words>(0) + stage * kStage;
    // This warp's 16 outputs of the first tile of its warpgroup.
    const auto weights = x + (kWeights + warp / 4 * kSlices * kTileWords + warp % 4 * 32 + lane);
    Words a[kSteps][kSlices];
    TSQ_UNROLL for (int step = 0; step < kSteps; ++step) {
      TSQ_UNROLL for (int slice = 0; slice < kSlices; ++slice) {
        a[step][slice] = load(weights + (slice * kTileWords + step * 4 * 32));
      }
    }
    fenceProducts();
    TSQ_UNROLL for (int step = 0; step < kSteps; ++step) {
      TSQ_UNROLL for (int slice = 0; slice < kSlices; ++slice) {
        multiplyAsync<kType, kTokens>(part[slice], a[step][slice].v, descriptor(x + step * 2), kIntegers || step > 0);
      }
    }
    commitProducts();
    waitProducts<0>();
    TSQ_UNROLL for (int slice = 0; slice < kSlices; ++slice) settle(part[slice]);
  }

  // Moves the sums of a tile, scaled, into those of the outputs.
  TSQ_DEVICE void endTile(int stage, const Sum (&part)[kSlices][kSums], float (&total)[kSlices][kSums]) {
    const auto scales = sharedMemory<float>((stage * kStage + kScales) * uint32_t{sizeof(Words)});
    TSQ_UNROLL for (int slice = 0; slice < kSlices; ++slice) {
      const int output = kTokens + (warp / 4 * kSlices + slice) * 4 + warp % 4;
      const float weight = p.blockScales ? load(scales + output) : 1.0f;
      TSQ_UNROLL for (int i = 0; i < kSums; i += 4) {
        TSQ_UNROLL for (int j = 0; j < 2; ++j) {
          const float token = p.blockScales ? weight * load(scales + (i * 2 + lane % 4 * 2 + j)) : 1.0f;
          total[slice][i + j] = fusedMultiplyAdd(token, part[slice][i + j], total[slice][i + j]);
          total[slice][i + j + 2] = fusedMultiplyAdd(token, part[slice][i + j + 2], total[slice][i + j + 2]);
        }
      }
    }
  }

  TSQ_DEVICE void finish(const w4a16::Walk& walk, const Sum (&all)[kSlices][kSums]) {
    w4a16::Totals<kSlices, kTiles, Vector> sums;
    TSQ_UNROLL for (int slice = 0; slice < kSlices; ++slice) {
      TSQ_UNROLL for (int i = 0; i < kSums; ++i) sums.v[slice][i] = all[slice][i];
    }
    const int64_t first = (int64_t{walk.column} * kTilesN + warp / 4 * kSlices) * kTileN + warp % 4 * 16;
    finishColumn<kWideConsumers, kScratchTiles>(p, work, walk, slab, block, sums, warp, kWideWarps,
                                                sharedMemory<int>(kFlag), kScratch, first, kTileN);
  }

  const Gemm& p;
  const w4a16::Work work;
  const int lane, warp;
  int block;
  const int slab;
  const int tiles;  // along k
};

template <Type kType, int kTiles, int kSlices>
TSQ_KERNEL(kWideThreads)
gemmWideKernel(Gemm gemm) {
  WideBlock<kType, kTiles, kSlices>(gemm).run();
}

}  // namespace tsq::cuda::w8a8
