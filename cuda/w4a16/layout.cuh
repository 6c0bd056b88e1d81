// Packed weights for tensor cores: one layout for mma and wgmma, f16 and bf16. First as it is for 4-bit codes:
//
// A weight W[n][k] (outputs by inputs) is cut into tiles of 64 n by 64 k, stored so that the tiles of 64 outputs run
// along k. A tile is 2 KiB: four units of 16 k; a unit is 16 bytes for each of the 32 lanes of a warp; word j of lane
// l is what this lane holds of the slab of outputs 16 j … 16 j + 15 as operand A of mma.m16n8k16 (and of
// wgmma.m64nNk16 from registers): with g = l / 4 and t = l % 4, register r of the fragment has
//
//   output 16 j + g + 8 (r % 2),  inputs 2 t + 8 (r / 2) (lower half) and the next (upper half)   [PTX ISA, m16n8k16]
//
// The two codes of register r are nibbles at bits kShift[r] and kShift[r] + 16 of the word, modulo 32. One shift or
// rotation then brings them to the top of two mantissas, where a mask and the bits of 1.0 make them 1 + q/16 exactly:
// f16 wants bit 6 of each half, bf16 bit 3.
//
// Scales (f16 or bf16) and zero points (f16) of a group of k are 64 values of 16 bits, in order of 64 n and then
// groups; output o of the 64 is value 8 (o % 8) + 2 (o / 16) + o / 8 % 2, so that a lane finds the eight outputs of its
// rows in 16 bytes. n and k are padded to whole tiles; padding has scale 0.
//
// Codes of 8 bits take two words for what is one word above, and weights of 16 bits, which have no scales, four: the
// registers themselves. A lane then has two or four times 16 bytes in a unit, those of all lanes next to each other.
// The codes of registers 2 i and 2 i + 1 are bytes 0 and 1 of word i (lower half), and 2 and 3 (upper half).
//
// Codes of 4 bits may be numbers of values in a code book (NF4, FP4): the two of register r are then nibbles 2 r and
// 2 r + 1, as byte permutations want them, and there are no zero points.
#pragma once
#include "cuda/device.cuh"

namespace tsq::cuda::w4a16 {

constexpr int kTileN = 64, kTileK = 64, kUnitK = 16;
constexpr int kUnits = kTileK / kUnitK;
constexpr int kTileWords = kUnits * 32;  // of 16 bytes
constexpr int kScaleWords = 8;           // of 16 bytes, for a group of 64 outputs

// What a weight consists of.
enum class Kind { kInt4, kBook4, kInt8, kFloat16 };

struct Shape {
  int64_t n, k;
  int64_t group;      // 16, 32, a multiple of 64, or at least k
  int bits = 4;       // 8; or 16: f16 or bf16, in one group
  bool book = false;  // codes of 4 bits are numbers of values in a code book

  TSQ_BOTH constexpr Kind kind() const {
    return book ? Kind::kBook4 : bits == 4 ? Kind::kInt4 : bits == 8 ? Kind::kInt8 : Kind::kFloat16;
  }
  TSQ_BOTH constexpr int64_t columns() const { return (n + kTileN - 1) / kTileN; }
  TSQ_BOTH constexpr int64_t tiles() const { return (k + kTileK - 1) / kTileK; }  // along k
  TSQ_BOTH constexpr int64_t groupK() const { return group < k ? group : tiles() * kTileK; }
  TSQ_BOTH constexpr int64_t groups() const { return (tiles() * kTileK + groupK() - 1) / groupK(); }
  TSQ_BOTH constexpr int64_t weightWords() const { return columns() * tiles() * kTileWords * bits / 4; }
  TSQ_BOTH constexpr int64_t scaleWords() const { return bits < 16 ? columns() * groups() * kScaleWords : 0; }
  // Steps of work, of 2^14 weights and more, are counted in 31 bits.
  TSQ_BOTH constexpr bool valid() const {
    constexpr int64_t kMost = int64_t{1} << 31;
    return n > 0 && k > 0 && group > 0 && n <= kMost && k <= kMost && (n + 255) * (k + 255) < int64_t{1} << 45 &&
           (group >= k || (bits < 16 && (group == 16 || group == 32 || group % kTileK == 0))) &&
           (bits == 4 || bits == 8 || bits == 16) && (!book || bits == 4);
  }
};

// Where a 4-bit word has the first of the two codes of register r.
TSQ_BOTH constexpr int shiftOf(int r) {
  return r == 0 ? 6 : r == 1 ? 10 : r == 2 ? 2 : 14;
}
// Where a word has a code of its register i; the upper half of the register is `half` 1.
TSQ_BOTH constexpr int shiftOf(Kind kind, int i, int half) {
  if (kind == Kind::kInt4) return (shiftOf(i) + 16 * half) % 32;  // from where the code may wrap around
  if (kind == Kind::kBook4) return 8 * i + 4 * half;
  return kind == Kind::kInt8 ? 8 * i + 16 * half : 16 * half;
}

// Word j of the 16 bytes with this index. code(n, k) is asked for padding too.
template <typename Code>
TSQ_BOTH uint32_t packWord(const Shape& shape, int64_t index, int j, Code code) {
  const int lane = static_cast<int>(index % 32), pieces = shape.bits / 4, registers = 16 / shape.bits;
  const int word = static_cast<int>(index / 32 % pieces) * 4 + j;  // of this lane in the unit
  const int64_t unit = index / 32 / pieces;
  const int64_t column = unit / (shape.tiles() * kUnits), step = unit % (shape.tiles() * kUnits);
  uint32_t packed = 0;
  for (int i = 0; i < registers; ++i) {
    const int r = word * registers % 4 + i;
    for (int half = 0; half < 2; ++half) {
      const int64_t n = column * kTileN + word * registers / 4 * 16 + lane / 4 + 8 * (r % 2);
      const int64_t k = step * kUnitK + 2 * (lane % 4) + 8 * (r / 2) + half;
      packed |= rotateRight(code(n, k) & ((1u << shape.bits) - 1), (32 - shiftOf(shape.kind(), i, half)) % 32);
    }
  }
  return packed;
}

// Output and group of the 16-bit value with this index among the scales.
struct ScalePlace {
  int64_t n, group;
};
TSQ_BOTH constexpr ScalePlace scalePlace(const Shape& shape, int64_t index) {
  const int64_t row = index / kTileN, value = index % kTileN;
  return {row / shape.groups() * kTileN + value % 8 / 2 * 16 + value % 2 * 8 + value / 8, row % shape.groups()};
}

// The fragment of operand A that a word of 4-bit codes holds, as 1 + q/16.
template <Type kType>
TSQ_DEVICE void unpack(uint32_t (&a)[4], uint32_t word) {
  constexpr bool kHalf = kType == Type::kF16;
  constexpr uint32_t kMask = kHalf ? 0x03c003c0u : 0x00780078u, kOne = kHalf ? 0x3c003c00u : 0x3f803f80u;
  a[0] = andOr(kHalf ? word : word >> 3, kMask, kOne);
  a[1] = andOr(word >> (kHalf ? 4 : 7), kMask, kOne);
  a[2] = andOr(word << (kHalf ? 4 : 1), kMask, kOne);
  a[3] = andOr(rotateRight(word, kHalf ? 8 : 11), kMask, kOne);
}

// Two registers of the fragment from a word of 8-bit codes, as q - 128. f16 makes 1024 + q of the bits, and subtracts.
// bf16 holds seven of them, as 128 + q % 128, and subtracts 256, or 128 where the eighth is set.
template <Type kType>
TSQ_DEVICE void unpackBytes(uint32_t& first, uint32_t& second, uint32_t word) {
  constexpr bool kHalf = kType == Type::kF16;
  constexpr uint32_t kOne = kHalf ? 0x3c003c00u : 0x3f803f80u;
  const auto centred = [](uint32_t bytes) {
    const uint32_t value = kHalf ? andOr(bytes, 0x00ff00ffu, 0x64006400u) : andOr(bytes, 0x007f007fu, 0x43004300u);
    const uint32_t offset = kHalf ? 0xe480e480u : (bytes & 0x00800080u) ^ 0xc380c380u;
    return fusedMultiplyAdd2<kType>(value, kOne, offset);
  };
  first = centred(word);
  second = centred(word >> 8);
}

// 16 values of a code book in the type of products. value(code) is what the book has for it, divided by `scale`.
struct Book {
  uint32_t low[4], high[4];  // byte i % 4 of word i / 4: of value i
  float scale;
};

// The fragment that a word of codes of a book holds. A byte permutation finds four bytes among eight by three bits of
// each code, so that two of them and a third, by the fourth bits, find four among sixteen; lower and upper bytes then
// become values.
TSQ_DEVICE void unpackBook(uint32_t (&a)[4], uint32_t word, const Book& book) {
  const uint32_t numbers = word & 0x77777777u, halves = andOr(word >> 1, 0x44444444u, 0x32103210u);
  TSQ_UNROLL for (int i = 0; i < 2; ++i) {
    const uint32_t number = numbers >> 16 * i, half = halves >> 16 * i;  // of which the lower 16 bits count
    const auto find = [&](const uint32_t(&bytes)[4]) {
      return permuteBytes(permuteBytes(bytes[0], bytes[1], number), permuteBytes(bytes[2], bytes[3], number), half);
    };
    const uint32_t low = find(book.low), high = find(book.high);
    a[2 * i] = permuteBytes(low, high, 0x5140);
    a[2 * i + 1] = permuteBytes(low, high, 0x7362);
  }
}

// What becomes of weights: in products they are v, and with the sums over a group
//   sum weight x = scale factor (sum v x + bias(zero) sum x).
template <Kind kKind>
struct Format {
  static constexpr int kBits = kKind == Kind::kInt8 ? 8 : kKind == Kind::kFloat16 ? 16 : 4;
  static constexpr int kPieces = kBits / 4;  // times 16 bytes of a lane in a unit
  static constexpr int kSlices = 4 / kPieces;
  static constexpr bool kScaled = kKind != Kind::kFloat16;
  static constexpr bool kCentred = kKind == Kind::kInt4 || kKind == Kind::kInt8;  // has zero points
  static constexpr float kZero = kKind == Kind::kInt4 ? 8 : 128;                  // where none are given
  TSQ_DEVICE static float factor(const Book& book) {
    return kKind == Kind::kBook4 ? book.scale : kKind == Kind::kInt4 ? 16.0f : 1.0f;
  }
  TSQ_DEVICE static float bias(float zero) { return kKind == Kind::kInt4 ? -1.0f - zero / 16 : 128.0f - zero; }

  template <Type kType>
  TSQ_DEVICE static void fragment(uint32_t (&a)[4], const Words& words, int slice, const Book& book) {
    if constexpr (kKind == Kind::kInt4) {
      unpack<kType>(a, words.v[slice]);
    } else if constexpr (kKind == Kind::kBook4) {
      unpackBook(a, words.v[slice], book);
    } else if constexpr (kKind == Kind::kInt8) {
      unpackBytes<kType>(a[0], a[1], words.v[2 * slice]);
      unpackBytes<kType>(a[2], a[3], words.v[2 * slice + 1]);
    } else {
      TSQ_UNROLL for (int r = 0; r < 4; ++r) a[r] = words.v[r];
    }
  }
};

}  // namespace tsq::cuda::w4a16
