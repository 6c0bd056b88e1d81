// The product of gemm.cuh for many tokens on sm_90a, by wgmma: weights are operand A, from registers, tokens operand B,
// from shared memory. A block has 256 outputs and a slab of tokens; each of its eight warps unpacks two slices of 16
// outputs, and the four of a warpgroup make one product of 64 outputs from one slice each.
//
// Codes go into the products as q - z, which is exact, so zero points are integers here; scales are applied to float32
// sums once a group of 64 k or more.
#pragma once
#include "cuda/w4a16/activations.cuh"
#include "cuda/w4a16/totals.cuh"

namespace tsq::cuda::w4a16 {

constexpr int kWideTilesN = 4, kWideWarps = 8;
constexpr int kWideThreads = 32 * kWideWarps;

// Two words as a value of 8 bytes.
struct alignas(8) WordPair {
  uint32_t v[2];
};

// kTiles of 8 tokens are a slab.
template <Type kType, int kTiles>
class WideBlock {
  static constexpr int kTokens = 8 * kTiles;
  static constexpr int kSlices = 2;
  static constexpr int kChain = 4;  // tiles: a longer sum in one register loses bits
  // A stage, in units of 16 bytes; x first, where it begins at a multiple of 1024 bytes.
  static constexpr int kWeights = kTokens * kChunks;
  static constexpr int kScales = kWeights + kWideTilesN * kTileWords;
  static constexpr int kZeros = kScales + kWideTilesN * kScaleWords;
  static constexpr int kStage = (kZeros + kWideTilesN * kScaleWords + 63) / 64 * 64;
  static constexpr int kStages = 6;
  static constexpr int kFlag = kStages * kStage;
  static_assert(kTokens % 8 == 0 && kWeights % 64 == 0);

 public:
  static constexpr size_t kSharedBytes = (kFlag + 1) * sizeof(Words);
  static_assert(kSharedBytes <= 227 * 1024);

  TSQ_DEVICE explicit WideBlock(const Gemm& gemm)
      : p(gemm),
        work(workOf(gemm.shape, gemm.blocks, kWideTilesN, 1)),
        thread(threadIndex()),
        lane(thread % 32),
        warp(thread / 32),
        slab(blockIndex() / work.blocks),
        block(blockIndex() % work.blocks),
        tiles(static_cast<int>(gemm.shape.tiles())),
        groups(static_cast<int>(gemm.shape.groups())),
        groupTiles(static_cast<int>(gemm.shape.groupK() / kTileK)) {}

  TSQ_DEVICE void run() {
    Walk ahead(work, block);
    for (int i = 0; i < kStages - 1; ++i) fetch(ahead, i);
    int stage = 0;
    for (Walk walk(work, block); walk.left > 0; walk.next(work)) {
      waitCopies<kStages - 2>();
      proxyFence();
      // All have the bytes of this stage, and no product still reads the one before it, which the next fetch
      // overwrites.
      syncThreads();
      fetch(ahead, (stage + kStages - 1) % kStages);
      multiplyTile(walk, stage);
      if (walk.ends()) {
        const auto flag = sharedMemory<int>(kFlag * sizeof(Words));
        if (completeColumn(p, work, walk, slab, block, total, warp, kWideWarps, flag)) {
          const int64_t column = int64_t{walk.column} * kWideTilesN + warp / 2;
          total.template write<kType>(p, column * kTileN + warp % 2 * 32, int64_t{slab} * kTokens);
        }
        total.clear();
        clearPart();  // it is zero, but has no need of registers meanwhile
      }
      stage = (stage + 1) % kStages;
    }
    waitCopies<0>();
  }

 private:
  TSQ_DEVICE void fetch(Walk& walk, int stage) {
    if (walk.left > 0) {
      const auto words = sharedMemory<Words>(0) + stage * kStage;
      const int tile = walk.tile(0, 1);
      fetchActivations(p, words, int64_t{slab} * kTokens, kTokens, tile, thread, kWideThreads);
      for (int i = thread; i < kWideTilesN * kTileWords; i += kWideThreads) {
        const int64_t column = int64_t{walk.column} * kWideTilesN + i / kTileWords;
        const bool inside = column < p.shape.columns();
        const int64_t from = inside ? (column * tiles + tile) * kTileWords + i % kTileWords : 0;
        copyAsyncOnce(words + (kWeights + i), p.weights + from, inside ? 16 : 0);
      }
      if (thread < kWideTilesN * kScaleWords) {
        const int64_t column = int64_t{walk.column} * kWideTilesN + thread / kScaleWords;
        const bool inside = column < p.shape.columns();
        const int64_t from = inside ? (column * groups + tile / groupTiles) * kScaleWords + thread % kScaleWords : 0;
        copyAsync(words + (kScales + thread), p.scales + from, inside ? 16 : 0);
        if (p.zeros) copyAsync(words + (kZeros + thread), p.zeros + from, inside ? 16 : 0);
      }
      walk.next(work);
    }
    commitCopies();
  }

  // This warp's two of the four words of each lane or row of its tile of 64 outputs.
  TSQ_DEVICE WordPair pair(int stage, int at, int index) const {
    const auto pairs = sharedMemory<WordPair>((stage * kStage + at) * uint32_t{sizeof(Words)});
    return load(pairs + (index * 2 + warp % 2));
  }

  TSQ_DEVICE void multiplyTile(const Walk& walk, int stage) {
    const auto x = sharedMemory<Words>(0) + stage * kStage;
    const int row = warp / 2 * kScaleWords + lane / 4;
    WordPair zeros = {};
    if (p.zeros) zeros = pair(stage, kZeros, row);
    uint32_t offset[kSlices][2];  // -(16 + z), for the two rows of a lane
    TSQ_UNROLL for (int i = 0; i < 2 * kSlices; ++i) {
      const float zero = p.zeros ? toFloat<Type::kF16>(static_cast<uint16_t>(zeros.v[i / 2] >> i % 2 * 16)) : 8.0f;
      offset[i / 2][i % 2] = fromFloat<kType>(-16.0f - zero) * 0x00010001u;
    }
    uint32_t a[2][kSlices][4];  // of this unit and of the one before, which products still read
    TSQ_UNROLL for (int unit = 0; unit < kUnits; ++unit) {
      if (unit >= 2) waitProducts<1>();
      const WordPair words = pair(stage, kWeights, (warp / 2 * kUnits + unit) * 32 + lane);
      TSQ_UNROLL for (int slice = 0; slice < kSlices; ++slice) {
        unpack<kType>(a[unit % 2][slice], words.v[slice]);
        constexpr uint32_t kSixteen = kType == Type::kF16 ? 0x4c004c00u : 0x41804180u;
        TSQ_UNROLL for (int r = 0; r < 4; ++r) {
          a[unit % 2][slice][r] = fusedMultiplyAdd2<kType>(a[unit % 2][slice][r], kSixteen, offset[slice][r % 2]);
        }
      }
      fenceProducts();
      TSQ_UNROLL for (int slice = 0; slice < kSlices; ++slice) {
        multiplyAsync<kType, kTokens>(part[slice], a[unit % 2][slice], descriptor(x + unit * 2));
      }
      commitProducts();
    }
    waitProducts<0>();
    const int tile = walk.tile(0, 1);
    if (walk.ends() || (tile + 1) % groupTiles == 0 || walk.at % kChain == kChain - 1) endGroup(stage, row);
  }

  TSQ_DEVICE void clearPart() {
    TSQ_UNROLL for (int slice = 0; slice < kSlices; ++slice) {
      TSQ_UNROLL for (int i = 0; i < kTiles * 4; ++i) part[slice][i] = 0;
    }
  }

  // Moves the sums of a group, scaled, into those of the outputs.
  TSQ_DEVICE void endGroup(int stage, int row) {
    const WordPair scales = pair(stage, kScales, row);
    TSQ_UNROLL for (int slice = 0; slice < kSlices; ++slice) {
      settle(part[slice]);
      TSQ_UNROLL for (int half = 0; half < 2; ++half) {
        const auto bits = static_cast<uint16_t>(scales.v[slice] >> 16 * half);
        const float scale = p.scalesAreBF16 ? toFloat<Type::kBF16>(bits) : toFloat<Type::kF16>(bits);
        TSQ_UNROLL for (int tile = 0; tile < kTiles; ++tile) {
          TSQ_UNROLL for (int i = 2 * half; i < 2 * half + 2; ++i) {
            float& sum = total.v[slice][tile][i];
            sum = fusedMultiplyAdd(scale, part[slice][tile * 4 + i], sum);
            part[slice][tile * 4 + i] = 0;
          }
        }
      }
    }
  }

  const Gemm& p;
  const Work work;
  const int thread, lane, warp, slab, block;
  const int tiles, groups, groupTiles;  // along k; tiles of a group
  Totals<kSlices, kTiles> total;
  float part[kSlices][kTiles * 4] = {};  // of the current group, unscaled
};

template <Type kType, int kTiles>
TSQ_KERNEL(kWideThreads)
gemmWideKernel(Gemm gemm) {
  WideBlock<kType, kTiles>(gemm).run();
}

}  // namespace tsq::cuda::w4a16
