// Weights of 8 bits in rows, as checkpoints have them, into the layout of the products, on the device.
#pragma once
#include "cuda/w8a8/epilogue.cuh"

namespace tsq::cuda::w8a8 {

constexpr int kPackThreads = 256;

struct PackCodes {
  w4a16::Shape shape;  // of pairs
  int64_t k;
  Global<const uint8_t> codes;  // [n][k], s8 or e4m3
  uint32_t flip;                // 0x80 where codes are unsigned, of which 128 stands for 0; or else 0
  Global<Words> packed;         // shape.weightWords()
};

// What lies in row n from an even k on, as a pair.
TSQ_DEVICE uint32_t pairAt(const PackCodes& p, int64_t n, int64_t k) {
  uint32_t pair = 0;
  for (int i = 0; i < 2; ++i) {
    if (n < p.shape.n && k + i < p.k) pair |= (load(p.codes + (n * p.k + k + i)) ^ p.flip) << 8 * i;
  }
  return pair;
}

TSQ_KERNEL(kPackThreads) packCodes(PackCodes p) {
  const auto code = [&](int64_t n, int64_t pair) { return pairAt(p, n, 2 * pair); };
  const int64_t stride = int64_t{blockCount()} * kPackThreads;
  for (int64_t i = int64_t{blockIndex()} * kPackThreads + threadIndex(); i < p.shape.weightWords(); i += stride) {
    Words words;
    for (int j = 0; j < 4; ++j) words.v[j] = w4a16::packWord(p.shape, i, j, code);
    store(p.packed + i, words);
  }
}

struct SumCodes {
  PackCodes of;          // s8
  Global<int32_t> sums;  // [n]
};

// A warp for each output.
TSQ_KERNEL(kPackThreads) sumCodes(SumCodes p) {
  constexpr int kWarps = kPackThreads / 32;
  const int lane = threadIndex() % 32;
  const int64_t stride = int64_t{blockCount()} * kWarps;
  for (int64_t n = int64_t{blockIndex()} * kWarps + threadIndex() / 32; n < p.of.shape.n; n += stride) {
    int32_t sum = 0;
    for (int64_t k = lane * 2; k < p.of.k; k += 64) {
      const uint32_t pair = pairAt(p.of, n, k);
      sum += static_cast<int8_t>(pair) + static_cast<int8_t>(pair >> 8);
    }
    for (int bit = 1; bit < 32; bit *= 2) sum += shuffleXor(sum, bit);
    if (lane == 0) store(p.sums + n, sum);
  }
}

// Scales become float32.
enum class Scales { kF32, kF16, kBF16 };

struct PackScales {
  w4a16::Shape shape;  // of pairs
  Scales type;
  bool one;                      // for all outputs
  Global<const uint8_t> values;  // [n] or one; of blocks [ceil(n / 128)][ceil(k / 128)]
  Global<float> scales;          // [n], or null:
  Global<Floats> blocks;         // blockScaleWords()
};

TSQ_DEVICE float scaleAt(const PackScales& p, int64_t index) {
  const auto* values = p.values.pointer;
  if (p.type == Scales::kF32) return load(Global<const float>{reinterpret_cast<const float*>(values)} + index);
  return toFloat(load(Global<const uint16_t>{reinterpret_cast<const uint16_t*>(values)} + index),
                 p.type == Scales::kBF16);
}

TSQ_KERNEL(kPackThreads) packScales(PackScales p) {
  const int64_t stride = int64_t{blockCount()} * kPackThreads, tiles = p.shape.tiles();
  const int64_t first = int64_t{blockIndex()} * kPackThreads + threadIndex();
  for (int64_t i = first; p.scales && i < p.shape.n; i += stride) store(p.scales + i, scaleAt(p, p.one ? 0 : i));
  for (int64_t i = first; p.blocks && i < blockScaleWords(p.shape); i += stride) {
    const float scale = scaleAt(p, p.one ? 0 : i / tiles / (kBlockSide / kTileN) * tiles + i % tiles);
    store(p.blocks + i, Floats{{scale, scale, scale, scale}});
  }
}

}  // namespace tsq::cuda::w8a8
