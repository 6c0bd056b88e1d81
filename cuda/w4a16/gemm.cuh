// y[m][n] = x[m][k] W[n][k]^T + bias[n] with packed W (layout.cuh), on the mma instruction.
//
// Weights are operand A and tokens operand B, eight a product, so that a single token wastes no more than seven eighths
// of one product and a word of weights is unpacked once for all tokens. With v = 1 + q/16 as unpacked from 4 bits,
// scale s and zero point z of a group, in float32:
//   sum s (q - z) x = 16 s (sum v x - (1 + z/16) sum x)
// so that the inner loop unpacks and multiplies, and everything else happens once a group. sum x comes from the tensor
// cores too, as a product with ones. 8 bits become v = q - 128, codes of a book the values there, and 16 bits have no
// scales.
//
// Steps along k go through a ring of stages in shared memory; each of the warps along k takes 64 of a step, each of
// those along n 64 outputs. Sums of warps and of blocks are added in a fixed order: the same input gives the same bits.
#pragma once
#include "cuda/w4a16/activations.cuh"
#include "cuda/w4a16/totals.cuh"

namespace tsq::cuda::w4a16 {

// The warps of a block: fewer for wider weights, so that stages have the same size.
template <Kind kKind>
struct Warps {
  static constexpr int kBits = Format<kKind>::kBits, kN = kBits == 4 ? 2 : 1, kK = kBits < 16 ? 4 : 2;
  static constexpr int kThreads = 32 * kN * kK;
};

// kTiles of 8 tokens are a slab; kGroupUnits units of 16 k have one scale (4: whole tiles); a block has kKiB of shared
// memory, which only the number of stages depends on.
template <Type kType, Kind kKind, int kTiles, int kGroupUnits, int kKiB>
class GemmBlock {
  using Weight = Format<kKind>;
  static constexpr int kWarpsN = Warps<kKind>::kN, kWarpsK = Warps<kKind>::kK;
  static constexpr int kWarpWords = kTileWords * Weight::kPieces;  // of a warp's tile
  static constexpr int kTokens = 8 * kTiles, kGroups = kUnits / kGroupUnits;
  static constexpr int kPairs = kTiles < 3 ? kUnits / 2 : 1;  // unrolled: for more tiles registers run out
  static constexpr int kChain = 4;                            // tiles: a longer sum in one register loses bits
  // A stage, in units of 16 bytes.
  static constexpr int kScales = kWarpsN * kWarpsK * kWarpWords;
  static constexpr int kZeros = kScales + kWarpsN * kWarpsK * kGroups * kScaleWords;
  static constexpr int kX = kZeros + kWarpsN * kWarpsK * kGroups * kScaleWords;
  static constexpr int kStage = kX + kWarpsK * kTokens * kChunks;
  // All but one have their bytes under way: six with 16 KiB of weights each are more than a device needs.
  static constexpr int kSums = 4 * 4 * kTiles * 32;
  static constexpr int kFit = (kKiB * 1024 / 16 - kSums - 1) / kStage;
  static constexpr int kStages = kFit < 6 ? kFit : 6;
  static_assert(kStages >= 2);
  static constexpr int kReduce = kStages * kStage;
  static constexpr int kFlag = kReduce + kSums;

 public:
  static constexpr size_t kSharedBytes = (kFlag + 1) * sizeof(Words);

  TSQ_DEVICE explicit GemmBlock(const Gemm& gemm)
      : p(gemm),
        work(workOf(gemm.shape, gemm.blocks, kWarpsN, kWarpsK)),
        lane(threadIndex() % 32),
        warp(threadIndex() / 32),
        warpN(warp / kWarpsK),
        warpK(warp % kWarpsK),
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
      // All have the bytes of this stage, and none still reads the one before it, which the next fetch overwrites.
      syncThreads();
      fetch(ahead, (stage + kStages - 1) % kStages);
      multiplyTile(walk, stage);
      if (walk.ends()) finish(walk);
      stage = (stage + 1) % kStages;
    }
    waitCopies<0>();
  }

 private:
  TSQ_DEVICE Shared<Words> stageWords(int stage) const { return sharedMemory<Words>(0) + stage * kStage; }
  // Where x of this warp's tile along k begins.
  TSQ_DEVICE int xBegin() const { return kX + warpK * kTokens * kChunks; }

  // Starts the copies of a step, always one group, and advances.
  TSQ_DEVICE void fetch(Walk& walk, int stage) {
    if (walk.left > 0) {
      const auto words = stageWords(stage);
      const int tile = walk.tile(warpK, kWarpsK);
      const int64_t column = int64_t{walk.column} * kWarpsN + warpN;
      const bool inside = tile < tiles && column < p.shape.columns();
      const int64_t source = inside ? (column * tiles + tile) * kWarpWords : 0;
      for (int i = lane; i < kWarpWords; i += 32) {
        copyAsyncOnce(words + (warp * kWarpWords + i), p.weights + (source + i), inside ? 16 : 0);
      }
      if (Weight::kScaled && lane < kGroups * kScaleWords) {
        const int group = kGroups > 1 ? tile * kGroups + lane / kScaleWords : tile / groupTiles;
        const int64_t row = inside ? (column * groups + group) * kScaleWords + lane % kScaleWords : 0;
        const int to = warp * kGroups * kScaleWords + lane;
        copyAsync(words + (kScales + to), p.scales + row, inside ? 16 : 0);
        if (Weight::kCentred && p.zeros) copyAsync(words + (kZeros + to), p.zeros + row, inside ? 16 : 0);
      }
      // With the other warps of the same tile along k.
      fetchActivations(p, words + xBegin(), int64_t{slab} * kTokens, kTokens, tile, warpN * 32 + lane, kWarpsN * 32);
      walk.next(work);
    }
    commitCopies();
  }

  TSQ_DEVICE void multiplyTile(const Walk& walk, int stage) {
    constexpr uint32_t kOne = kType == Type::kF16 ? 0x3c003c00u : 0x3f803f80u;
    const uint32_t ones[4] = {kOne, kOne, kOne, kOne};
    const auto words = stageWords(stage);
    uint32_t x[kTiles][4];  // 32 k of 8 tokens each
    TSQ_UNROLL_BY(kPairs) for (int pair = 0; pair < kUnits; pair += 2) {
      TSQ_UNROLL for (int tile = 0; tile < kTiles; ++tile) {
        loadMatrices(x[tile], words + (xBegin() + chunkOf(tile * 8 + lane % 8, pair * 2 + lane / 8)));
      }
      TSQ_UNROLL for (int unit = pair; unit < pair + 2; ++unit) {
        TSQ_UNROLL for (int tile = 0; tile < kTiles; ++tile) {
          if (!Weight::kCentred) break;
          multiply<kType>(sums[tile], ones, x[tile][(unit - pair) * 2], x[tile][(unit - pair) * 2 + 1]);
        }
        Words weights;
        TSQ_UNROLL for (int slice = 0; slice < 4; ++slice) {
          if (slice % Weight::kSlices == 0) {
            weights =
                load(words + (warp * kWarpWords + (unit * Weight::kPieces + slice / Weight::kSlices) * 32 + lane));
          }
          uint32_t a[4];
          Weight::template fragment<kType>(a, weights, slice % Weight::kSlices, p.book);
          TSQ_UNROLL for (int tile = 0; tile < kTiles; ++tile) {
            multiply<kType>(part[slice][tile], a, x[tile][(unit - pair) * 2], x[tile][(unit - pair) * 2 + 1]);
          }
        }
        if (kGroups > 1 && unit % kGroupUnits == kGroupUnits - 1) endGroup(words, unit / kGroupUnits);
      }
    }
    if (kGroups == 1) {
      const int tile = walk.tile(warpK, kWarpsK);
      if (walk.ends() || tile + 1 >= tiles || (tile + 1) % groupTiles == 0 || walk.at % kChain == kChain - 1) {
        endGroup(words, 0);
      }
    }
  }

  // Moves the sums of a group, scaled, into those of the outputs.
  TSQ_DEVICE void endGroup(Shared<Words> words, int group) {
    const int row = (warp * kGroups + group) * kScaleWords + lane / 4;
    Words scales = {}, zeros = {};
    if (Weight::kScaled) scales = load(words + (kScales + row));
    if (Weight::kCentred && p.zeros) zeros = load(words + (kZeros + row));
    TSQ_UNROLL for (int slice = 0; slice < 4; ++slice) {
      TSQ_UNROLL for (int half = 0; half < 2; ++half) {
        const auto bits = static_cast<uint16_t>(scales.v[slice] >> 16 * half);
        const float scale =
            Weight::factor(p.book) * (p.scalesAreBF16 ? toFloat<Type::kBF16>(bits) : toFloat<Type::kF16>(bits));
        const float zero =
            p.zeros ? toFloat<Type::kF16>(static_cast<uint16_t>(zeros.v[slice] >> 16 * half)) : Weight::kZero;
        const float bias = Weight::bias(zero);
        TSQ_UNROLL for (int tile = 0; tile < kTiles; ++tile) {
          TSQ_UNROLL for (int i = 2 * half; i < 2 * half + 2; ++i) {
            float& sum = total.v[slice][tile * 4 + i];
            const float plain = part[slice][tile][i];
            const float centred = Weight::kCentred ? fusedMultiplyAdd(bias, sums[tile][i % 2], plain) : plain;
            sum = Weight::kScaled ? fusedMultiplyAdd(scale, centred, sum) : sum + plain;
            part[slice][tile][i] = 0;
          }
        }
      }
    }
    TSQ_UNROLL for (int tile = 0; tile < kTiles; ++tile) {
      TSQ_UNROLL for (int i = 0; i < 4; ++i) sums[tile][i] = 0;
    }
  }

  // The end of a segment: the sums over the warps along k end up in warp 0 of them.
  TSQ_DEVICE void finish(const Walk& walk) {
    const auto slot = [&](int index) {
      return sharedMemory<Floats>(kReduce * sizeof(Words)) + (warpN * 2 + index) * total.kFloats;
    };
    addAlongK<kWarpsK>(total, warpK, slot);
    const auto flag = sharedMemory<int>(kFlag * sizeof(Words));
    if (completeColumn(p, work, walk, slab, block, total, warpK == 0 ? warpN : -1, kWarpsN, flag,
                       Warps<kKind>::kThreads)) {
      total.template write<kType>(p, (int64_t{walk.column} * kWarpsN + warpN) * kTileN, int64_t{slab} * kTokens);
    }
    total.clear();
  }

  const Gemm& p;
  const Work work;
  const int lane, warp, warpN, warpK, slab, block;
  const int tiles, groups, groupTiles;  // along k; tiles of a group, where it has whole ones
  Totals<4, kTiles> total;
  float part[4][kTiles][4] = {};  // of the current group, unscaled
  float sums[kTiles][4] = {};     // of x over the current group
};

template <Type kType, Kind kKind, int kTiles, int kGroupUnits, int kKiB>
TSQ_KERNEL(Warps<kKind>::kThreads)
gemmKernel(Gemm gemm) {
  GemmBlock<kType, kKind, kTiles, kGroupUnits, kKiB>(gemm).run();
}

}  // namespace tsq::cuda::w4a16
