// The product of gemm.cuh for many tokens on sm_90a, by wgmma: weights are operand A, from registers, tokens operand B,
// from shared memory. A block has 256 outputs and a slab of tokens. One warpgroup fetches: weights by bulk copies, of
// which one thread starts one for 64 outputs, activations and scales by copies of 16 bytes. Two warpgroups unpack and
// multiply, each at its own pace, so that one unpacks while the other's products run; each of their eight warps has two
// slices of 16 outputs, and the four of a warpgroup make one product of 64 outputs from one slice each.
//
// Registers hold one sum for an output and token, for 128 tokens all there are. So it is in units of the scale of the
// current group: codes go into the products as q - z, which is exact, so zero points are integers here, and where the
// next group begins a sum is multiplied by its old scale over its new one. A group with scale 0 keeps the unit, and its
// weights become zero.
#pragma once
#include "cuda/w4a16/activations.cuh"
#include "cuda/w4a16/totals.cuh"

namespace tsq::cuda::w4a16 {

constexpr int kWideTilesN = 4, kWideWarps = 8;
constexpr int kWideConsumers = 32 * kWideWarps, kWideProducers = 128;
constexpr int kWideThreads = kWideConsumers + kWideProducers;

// Two words as a value of 8 bytes.
struct alignas(8) WordPair {
  uint32_t v[2];
};

// What both sides of a block know. kTiles of 8 tokens are a slab; kGroupUnits units of 16 k have one scale (4: whole
// tiles).
template <Kind kKind, int kTiles, int kGroupUnits>
struct WideBlock {
  using Weight = Format<kKind>;
  static constexpr int kTokens = 8 * kTiles, kGroups = kUnits / kGroupUnits;
  static constexpr int kWeightWords = kTileWords * Weight::kPieces;               // of a tile
  static constexpr int kScaleRows = Weight::kScaled ? kWideTilesN * kGroups : 0;  // of kScaleWords
  static_assert(kScaleRows * kScaleWords <= kWideProducers);                      // a thread each
  // A stage, in units of 16 bytes; x first, where it begins at a multiple of 1024 bytes.
  static constexpr int kWeights = kTokens * kChunks;
  static constexpr int kScales = kWeights + kWideTilesN * kWeightWords;
  static constexpr int kZeros = kScales + kScaleRows * kScaleWords;
  static constexpr int kStage = (kZeros + (Weight::kCentred ? kScaleRows * kScaleWords : 0) + 63) / 64 * 64;
  static constexpr int kFit = (227 * 1024 / 16 - 64) / kStage;
  static constexpr int kStages = kFit < 8 ? kFit : 8;
  static constexpr int kFlight = kStages / 2;  // stages whose activations are under way
  static_assert(kFlight >= 2 && kWeights % 64 == 0);
  // Behind the stages: barriers of full stages, of empty ones, and a flag.
  static constexpr int kBarriers = kStages * kStage;
  static constexpr int kFlag = kBarriers + kStages;
  static constexpr size_t kSharedBytes = (kFlag + 1) * sizeof(Words);
  static_assert(kSharedBytes <= 227 * 1024);

  TSQ_DEVICE explicit WideBlock(const Gemm& gemm)
      : p(gemm),
        columns(workOf(gemm.shape, 1, kWideTilesN, 1).columns),
        slabs((gemm.m + kTokens - 1) / kTokens),
        work(jointWork(gemm.shape, slabs, gemm.blocks, kWideTilesN)),
        tiles(static_cast<int>(gemm.shape.tiles())),
        groups(static_cast<int>(gemm.shape.groups())),
        groupTiles(static_cast<int>(gemm.shape.groupK() / kTileK)) {}

  TSQ_DEVICE void initBarriers() const {
    if (threadIndex() == 0) {
      for (int i = 0; i < kStages; ++i) {
        initBarrier(full(i), kWideProducers + 1);
        initBarrier(empty(i), kWideWarps);
      }
      proxyFence();
    }
    syncThreads();
  }

  TSQ_DEVICE Shared<Words> stageWords(int stage) const { return sharedMemory<Words>(0) + stage * kStage; }
  TSQ_DEVICE Shared<Arrivals> full(int stage) const {
    return sharedMemory<Arrivals>(kBarriers * uint32_t{sizeof(Words)}) + stage;
  }
  TSQ_DEVICE Shared<Arrivals> empty(int stage) const { return full(kStages + stage); }

  // Where a column of the work lies: eight slabs side by side go through all outputs, so that blocks at work share what
  // they read of both.
  struct Place {
    int slab, column;
  };
  TSQ_DEVICE Place placeOf(int column) const {
    constexpr int kPanel = 8;
    const int panel = column / (kPanel * columns), within = column % (kPanel * columns);
    const int width = slabs - panel * kPanel < kPanel ? slabs - panel * kPanel : kPanel;
    return {panel * kPanel + within % width, within / width};
  }

  const Gemm& p;
  const int columns, slabs;
  const Work work;                      // columns of all slabs
  const int tiles, groups, groupTiles;  // along k; tiles of a group, where it has whole ones
};

template <Kind kKind, int kTiles, int kGroupUnits>
class WideProducer : WideBlock<kKind, kTiles, kGroupUnits> {
  using Block = WideBlock<kKind, kTiles, kGroupUnits>;
  using Block::p;

 public:
  TSQ_DEVICE explicit WideProducer(const Block& block) : Block(block), thread(threadIndex() - kWideConsumers) {}

  // A stage is full once its activations have arrived, kFlight stages later, and the bulk copies have reported.
  TSQ_DEVICE void run() {
    Walk walk(this->work, blockIndex());
    const int steps = walk.left;
    for (int at = 0; at < steps + Block::kFlight; ++at) {
      if (at < steps) {
        if (at >= Block::kStages) waitPhase(this->empty(at % Block::kStages), (at / Block::kStages + 1) % 2);
        fetch(walk, at % Block::kStages);
        walk.next(this->work);
      }
      commitCopies();
      waitCopies<Block::kFlight>();
      if (at < Block::kFlight) continue;
      proxyFence();
      arrive(this->full((at - Block::kFlight) % Block::kStages));
    }
  }

 private:
  TSQ_DEVICE void fetch(const Walk& walk, int stage) {
    const auto words = this->stageWords(stage);
    const auto place = this->placeOf(walk.column);
    const int tile = walk.tile(0, 1);
    if (thread == 0) {
      constexpr int kBytes = Block::kWeightWords * static_cast<int>(sizeof(Words));
      arriveExpecting(this->full(stage), kWideTilesN * kBytes);
      for (int i = 0; i < kWideTilesN; ++i) {
        copyBulk(words + (Block::kWeights + i * Block::kWeightWords),
                 p.weights + (columnOf(place, i) * this->tiles + tile) * Block::kWeightWords, kBytes,
                 this->full(stage));
      }
    }
    if (thread < Block::kScaleRows * kScaleWords) {
      constexpr int kGroups = Block::kGroups;
      const int row = thread / kScaleWords;
      const int group = kGroups > 1 ? tile * kGroups + row % kGroups : tile / this->groupTiles;
      const int64_t from = (columnOf(place, row / kGroups) * this->groups + group) * kScaleWords + thread % kScaleWords;
      copyAsync(words + (Block::kScales + thread), p.scales + from);
      if (Block::Weight::kCentred && p.zeros) copyAsync(words + (Block::kZeros + thread), p.zeros + from);
    }
    fetchActivations(p, words, int64_t{place.slab} * Block::kTokens, Block::kTokens, tile, thread, kWideProducers);
  }

  // 64 outputs of the 256. Past the end stands the last: what comes of it is not written.
  TSQ_DEVICE int64_t columnOf(const typename Block::Place& place, int index) const {
    const int64_t column = int64_t{place.column} * kWideTilesN + index;
    return column < p.shape.columns() ? column : p.shape.columns() - 1;
  }

  const int thread;
};

template <Type kType, Kind kKind, int kTiles, int kGroupUnits>
class WideConsumer : WideBlock<kKind, kTiles, kGroupUnits> {
  using Block = WideBlock<kKind, kTiles, kGroupUnits>;
  using Weight = typename Block::Weight;
  using Block::p;
  static constexpr int kSlices = 2;

 public:
  TSQ_DEVICE explicit WideConsumer(const Block& block)
      : Block(block), lane(threadIndex() % 32), warp(threadIndex() / 32) {}

  TSQ_DEVICE void run() {
    int at = 0;
    for (Walk walk(this->work, blockIndex()); walk.left > 0; walk.nextSegment(this->work)) {
      total.clear();
      for (int i = 0; i < walk.count; ++i, ++at) {
        waitPhase(this->full(at % Block::kStages), at / Block::kStages % 2);
        multiplyTile(walk.first + i, i == 0, at % Block::kStages);
      }
      finish(walk);
    }
  }

 private:
  TSQ_DEVICE void multiplyTile(int tile, bool begins, int stage) {
    const auto x = this->stageWords(stage);
    uint32_t a[2][kSlices][4];  // of this unit and of the one before, which products still read
    TSQ_UNROLL for (int unit = 0; unit < kUnits; ++unit) {
      if (unit >= 2) waitProducts<1>();
      if (Weight::kScaled && unit % kGroupUnits == 0) {
        const bool first = unit == 0 && begins;
        if (unit > 0) waitProducts<0>();
        if (Block::kGroups > 1 || first || tile % this->groupTiles == 0) enterGroup(stage, unit / kGroupUnits, first);
      }
      unpackUnit(a[unit % 2], stage, unit);
      fenceProducts();
      TSQ_UNROLL for (int slice = 0; slice < kSlices; ++slice) {
        multiplyAsync<kType, Block::kTokens>(total.v[slice], a[unit % 2][slice], descriptor(x + unit * 2));
      }
      commitProducts();
    }
    // The compiler keeps products going only where none is under way at the end of a turn; the other warpgroup's are.
    waitProducts<0>();
    syncWarp();
    if (lane == 0) arrive(this->empty(stage));
  }

  // This warp's two of the four words of each lane or row of its tile of 64 outputs.
  TSQ_DEVICE WordPair pair(int stage, int at, int index) const {
    const auto pairs = sharedMemory<WordPair>((stage * Block::kStage + at) * uint32_t{sizeof(Words)});
    return load(pairs + (index * 2 + warp % 2));
  }

  TSQ_DEVICE void unpackUnit(uint32_t (&to)[kSlices][4], int stage, int unit) const {
    const int first = (warp / 2 * kUnits + unit) * Weight::kPieces * 32;  // of the unit's words
    Words words = {};
    if (Weight::kSlices == 4) {
      const WordPair half = pair(stage, Block::kWeights, first + lane);
      words.v[0] = half.v[0];
      words.v[1] = half.v[1];
    }
    TSQ_UNROLL for (int slice = 0; slice < kSlices; ++slice) {
      if (Weight::kSlices < 4 && slice % Weight::kSlices == 0) {
        const int piece = (warp % 2 * kSlices + slice) / Weight::kSlices;
        words = load(this->stageWords(stage) + (Block::kWeights + first + piece * 32 + lane));
      }
      Weight::template fragment<kType>(to[slice], words, slice % Weight::kSlices, p.book);
      TSQ_UNROLL for (int r = 0; r < 4; ++r) {
        if (!Weight::kScaled) continue;
        to[slice][r] = fusedMultiplyAdd2<kType>(to[slice][r], multiplier[slice][r % 2], offset[slice][r % 2]);
      }
    }
  }

  // What makes q - z of what fragment() gives, and the new unit of the sums.
  TSQ_DEVICE void enterGroup(int stage, int group, bool first) {
    const int row = (warp / 2 * Block::kGroups + group) * kScaleWords + lane / 4;
    const WordPair scales = pair(stage, Block::kScales, row);
    WordPair zeros = {};
    if (Weight::kCentred && p.zeros) zeros = pair(stage, Block::kZeros, row);
    float ratio[kSlices][2];
    TSQ_UNROLL for (int i = 0; i < 2 * kSlices; ++i) {
      const int slice = i / 2, half = i % 2;
      const auto bits = static_cast<uint16_t>(scales.v[slice] >> 16 * half);
      const float scale = p.scalesAreBF16 ? toFloat<Type::kBF16>(bits) : toFloat<Type::kF16>(bits);
      const float zero =
          p.zeros ? toFloat<Type::kF16>(static_cast<uint16_t>(zeros.v[slice] >> 16 * half)) : Weight::kZero;
      const float step = kKind == Kind::kInt4 ? 16.0f : 1.0f;
      const bool live = scale != 0;
      multiplier[slice][half] = live ? fromFloat<kType>(step) * 0x00010001u : 0;
      offset[slice][half] = live && Weight::kCentred ? fromFloat<kType>(step * Weight::bias(zero)) * 0x00010001u : 0;
      ratio[slice][half] = live ? unit[slice][half] * reciprocal(scale) : 1.0f;
      unit[slice][half] = live ? scale : first ? 1.0f : unit[slice][half];
    }
    if (!first) rescale(ratio);
  }

  TSQ_DEVICE void rescale(const float (&by)[kSlices][2]) {
    TSQ_UNROLL for (int slice = 0; slice < kSlices; ++slice) {
      settle(total.v[slice]);
      TSQ_UNROLL for (int i = 0; i < kTiles * 4; ++i) total.v[slice][i] *= by[slice][i / 2 % 2];
    }
  }

  TSQ_DEVICE void finish(const Walk& walk) {
    float scale[kSlices][2];
    TSQ_UNROLL for (int i = 0; i < 2 * kSlices; ++i) {
      scale[i / 2][i % 2] = !Weight::kScaled        ? 1.0f
                            : kKind == Kind::kBook4 ? unit[i / 2][i % 2] * p.book.scale
                                                    : unit[i / 2][i % 2];
    }
    rescale(scale);
    const auto flag = sharedMemory<int>(Block::kFlag * uint32_t{sizeof(Words)});
    if (completeColumn(p, this->work, walk, 0, blockIndex(), total, warp, kWideWarps, flag, kWideConsumers)) {
      const auto place = this->placeOf(walk.column);
      const int64_t column = int64_t{place.column} * kWideTilesN + warp / 2;
      total.template write<kType>(p, column * kTileN + warp % 2 * 32, int64_t{place.slab} * Block::kTokens);
    }
  }

  const int lane, warp;
  Totals<kSlices, kTiles> total;
  float unit[kSlices][2] = {};  // of the sums, for the two rows of a lane
  uint32_t multiplier[kSlices][2], offset[kSlices][2];
};

template <Type kType, Kind kKind, int kTiles, int kGroupUnits>
TSQ_KERNEL(kWideThreads)
gemmWideKernel(Gemm gemm) {
  const WideBlock<kKind, kTiles, kGroupUnits> block(gemm);
  block.initBarriers();
  // Of 64 Ki registers: what fetching leaves is for the sums. The compiler must see that warps do not part here.
  const int role = shuffleFrom(threadIndex() / kWideConsumers, 0);
  if (role == 1) {
    leaveRegisters<56>();
    WideProducer<kKind, kTiles, kGroupUnits>(block).run();
  } else {
    takeRegisters<224>();
    WideConsumer<kType, kKind, kTiles, kGroupUnits>(block).run();
  }
}

}  // namespace tsq::cuda::w4a16
