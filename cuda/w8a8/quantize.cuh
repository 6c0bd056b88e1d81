// Activations in f16 or bf16 to codes of 8 bits and their scales, in the layout of the products: per token, or e4m3 per
// token and 128 k.
//
// As on the CPU (native/kernels/generic/split_quads.h), with the largest magnitude `peak` and the largest code L, 127
// or 448:
//   code = nearest(x (L / peak)), ties to even    scale = peak / L
// each operation rounded to float32. Zeros give codes of 0 and scale 0, as does a peak so small that L / peak is
// infinite. An infinity or NaN gives codes of 0 and scale NaN, which makes every output of the token NaN, whatever the
// weights; of 128 k with a scale of their own too. With zero points, of s8 alone: from the least value or 0 to the
// greatest or 0 in 255 steps,
//   inverse = 255 / (most - least)    zero = -128 - nearest(least inverse)    code = nearest(x inverse) + zero
// within -128 … 127. Where a scale is given, for all tokens, codes are nearest(x (1 / scale)) within ±L; one
// that is no positive number becomes NaN.
#pragma once
#include "cuda/w8a8/epilogue.cuh"

namespace tsq::cuda::w8a8 {

constexpr int kQuantizeThreads = 256;
constexpr int kChunkK = 16;  // k of the 16 bytes that a thread writes

struct Quantize {
  Global<const uint16_t> x;   // [m][k], rows strideX apart
  Global<const float> given;  // one scale for all tokens, or null
  Global<Words> codes;        // activationWords()
  Global<float> scales;       // [rows], or of blocks [tiles][rows]
  Global<int32_t> zeros;      // [rows], or null: symmetric
  w4a16::Shape shape;         // of pairs
  int64_t k, strideX;
  int m, rows;
  bool bf16;
  bool vectorX;  // rows of x begin at multiples of 16 bytes
};

constexpr uint32_t kInfinityBits = 0x7f800000u;

// OCP 8-bit floating point specification 1.0, E4M3: nearest, ties to even; beyond 448, and infinities, ±448; NaN stays.
TSQ_DEVICE uint32_t toE4M3(float value) {
  const uint32_t bits = bitsOf(value), sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffffu;
  if (magnitude > kInfinityBits) return sign | 0x7f;
  if (magnitude >= 0x43e00000u) return sign | 0x7e;  // 448
  // Below 2^-6 codes are multiples of 2^-9, of which eight make the first normal one.
  if (magnitude < 0x3c800000u) return sign | static_cast<uint32_t>(toNearest((value < 0 ? -value : value) * 512));
  return sign | (((magnitude + 0x7ffffu + (magnitude >> 20 & 1)) >> 20) - (120u << 3));
}

// How x becomes codes; a grid without steps has an inverse of 0, and codes of 0 only.
struct Grid {
  float inverse = 0, scale = 0;
  int32_t zero = 0, least = -127;
};
template <Type kType>
struct Code {
  static constexpr float kMost = kType == Type::kS8 ? 127.0f : 448.0f;

  TSQ_DEVICE static Grid symmetric(float peak) { return grid(kMost / peak, peak / kMost); }
  TSQ_DEVICE static Grid shifted(float least, float most) {
    const float width = most - least;
    Grid found = grid(255 / width, width / 255);
    found.least = -128;
    if (found.inverse > 0) found.zero = -128 - toNearest(least * found.inverse);
    return found;
  }
  // A scale that is no positive number is no grid either: NaN.
  TSQ_DEVICE static Grid given(float scale) {
    if (!(scale > 0) || bitsOf(scale) >= kInfinityBits) return nowhere();
    Grid found = grid(1 / scale, scale);
    found.scale = scale;
    return found;
  }
  TSQ_DEVICE static Grid nowhere() {
    Grid none;
    none.scale = floatOf(0x7fc00000u);
    return none;
  }
  TSQ_DEVICE static uint32_t of(float value, const Grid& grid) {
    if (grid.inverse == 0) return 0;
    const float steps = value * grid.inverse;
    if constexpr (kType == Type::kE4M3) {
      return toE4M3(steps);
    } else {
      // Within what an integer holds first: a given scale may be far from the values.
      const int code = toNearest(steps < -512 ? -512.0f : steps > 512 ? 512.0f : steps) + grid.zero;
      return static_cast<uint32_t>(code < grid.least ? grid.least : code > 127 ? 127 : code) & 0xff;
    }
  }

 private:
  TSQ_DEVICE static Grid grid(float inverse, float scale) {
    Grid found;
    if (bitsOf(inverse) >= kInfinityBits) return found;  // of nothing but zeros, or nearly
    found.inverse = inverse;
    found.scale = scale;
    return found;
  }
};

// What is known of values: the bits of the largest magnitude, which are those of an infinity or more where one is not
// finite, and the range around 0.
struct Range {
  uint32_t peak = 0;
  float least = 0, most = 0;

  TSQ_DEVICE void add(const Range& other) {
    peak = peak > other.peak ? peak : other.peak;
    least = least < other.least ? least : other.least;
    most = most > other.most ? most : other.most;
  }
  TSQ_DEVICE void add(float value) { add({bitsOf(value) & 0x7fffffffu, value < 0 ? value : 0, value > 0 ? value : 0}); }
  // With those of so many neighbouring lanes, a power of two.
  TSQ_DEVICE void addLanes(int lanes) {
    for (int bit = 1; bit < lanes; bit *= 2) {
      add(Range{shuffleXor(peak, bit), shuffleXor(least, bit), shuffleXor(most, bit)});
    }
  }
};

template <Type kType>
TSQ_DEVICE Grid gridOf(const Quantize& p, const Range& range) {
  if (range.peak >= kInfinityBits) return Code<kType>::nowhere();
  if (p.given) return Code<kType>::given(load(p.given));
  if (p.zeros) return Code<kType>::shifted(range.least, range.most);
  return Code<kType>::symmetric(floatOf(range.peak));
}

// Values of x from k = 16 `chunk` on; zero outside.
struct Chunk {
  float v[kChunkK];

  TSQ_DEVICE Chunk(const Quantize& p, int row, int64_t chunk) {
    const int64_t k = chunk * kChunkK;
    const auto from = p.x + (row < p.m ? row * p.strideX + k : 0);
    if (p.vectorX && row < p.m && k + kChunkK <= p.k) {
      TSQ_UNROLL for (int i = 0; i < 2; ++i) {
        const Words words = load(Global<const Words>{reinterpret_cast<const Words*>(from.pointer)} + i);
        TSQ_UNROLL for (int j = 0; j < 8; ++j) {
          v[i * 8 + j] = toFloat(static_cast<uint16_t>(words.v[j / 2] >> j % 2 * 16), p.bf16);
        }
      }
      return;
    }
    TSQ_UNROLL for (int i = 0; i < kChunkK; ++i) {
      v[i] = row < p.m && k + i < p.k ? toFloat(load(from + i), p.bf16) : 0.0f;
    }
  }
  TSQ_DEVICE Range range() const {
    Range all;
    TSQ_UNROLL for (int i = 0; i < kChunkK; ++i) all.add(v[i]);
    return all;
  }
  // Where p.k ends inside, or the row is padding, codes are zero too, whatever the zero point.
  template <Type kType>
  TSQ_DEVICE void write(const Quantize& p, int row, int64_t chunk, const Grid& grid) const {
    Words words = {};
    TSQ_UNROLL for (int i = 0; i < kChunkK; ++i) {
      const uint32_t code = row < p.m && chunk * kChunkK + i < p.k ? Code<kType>::of(v[i], grid) : 0;
      words.v[i / 4] |= code << i % 4 * 8;
    }
    store(p.codes + activationWord(p.rows, row, chunk), words);
  }
};

// A block for each row, padding included.
template <Type kType>
TSQ_KERNEL(kQuantizeThreads)
quantizeTokens(Quantize p) {
  constexpr int kWarps = kQuantizeThreads / 32;
  const int row = blockIndex(), thread = threadIndex();
  const int64_t chunks = p.shape.tiles() * kChunks;
  Range range;
  for (int64_t chunk = thread; chunk < chunks; chunk += kQuantizeThreads) range.add(Chunk(p, row, chunk).range());
  range.addLanes(32);
  const auto ranges = sharedMemory<Words>(0);
  if (thread % 32 == 0) store(ranges + thread / 32, Words{{range.peak, bitsOf(range.least), bitsOf(range.most), 0}});
  syncThreads();
  for (int warp = 0; warp < kWarps; ++warp) {
    const Words other = load(ranges + warp);
    range.add(Range{other.v[0], floatOf(other.v[1]), floatOf(other.v[2])});
  }
  const Grid grid = gridOf<kType>(p, range);
  // The row again, from the caches that have just had it.
  for (int64_t chunk = thread; chunk < chunks; chunk += kQuantizeThreads) {
    Chunk(p, row, chunk).template write<kType>(p, row, chunk, grid);
  }
  if (thread != 0) return;
  store(p.scales + row, row < p.m ? grid.scale : 0.0f);
  if (p.zeros) store(p.zeros + row, row < p.m ? grid.zero : 0);
}

// Eight lanes for each row of a tile. rows are a multiple of 8, so warps are whole.
TSQ_KERNEL(kQuantizeThreads) quantizeBlocks(Quantize p) {
  const int64_t count = p.shape.tiles() * p.rows * kChunks, stride = int64_t{blockCount()} * kQuantizeThreads;
  for (int64_t i = int64_t{blockIndex()} * kQuantizeThreads + threadIndex(); i < count; i += stride) {
    const int row = static_cast<int>(i / kChunks % p.rows);
    const int64_t tile = i / kChunks / p.rows, at = tile * kChunks + i % kChunks;
    const Chunk chunk(p, row, at);
    Range range = chunk.range();
    range.addLanes(kChunks);
    const Grid grid = gridOf<Type::kE4M3>(p, range);
    chunk.template write<Type::kE4M3>(p, row, at, grid);
    if (i % kChunks == 0) store(p.scales + (tile * p.rows + row), row < p.m ? grid.scale : 0.0f);
  }
}

}  // namespace tsq::cuda::w8a8
