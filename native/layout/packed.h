// Where a weight lies in packed memory: the one description that the packer, the kernels and the tests share.
//
// A weight [n, k] is cut into panels of 16 output rows. Inside a panel memory runs along k, and one step holds the
// same k for all 16 outputs, so that one vector of 16 lanes accumulates 16 outputs. Integer codes are kept in 32-bit
// words: word `j` of a line belongs to output `j`; a line of 16 words is 64 bytes.
//
//   U8   a line holds  4 k: byte b of a word is k = b
//   U4   a line holds  8 k: nibble i of a word is k = i
//   U2   a line holds 16 k: bit pair i of a word is k = i
//   U3   a step of 32 k is three lines: two U2 lines with the lower two bits of k = 0 … 15 and 16 … 31, then a line of
//        top bits: that of k = 16 t + 8 h + j (t, h in {0, 1}, j < 8) is bit 16 h + 8 t + j of the word
//   B4   as U4: codes of a code book of 16 values
//   I4   as B4, of whole numbers of 8 bits
//
// 8-bit floats (E4M3, E5M2) lie as floats do, [k][16], a byte each.
//
// Every group of k starts at a step: groups are padded to a multiple of groupAlign(kind) k ("packed k").
#pragma once
#include <cstdint>

#include "runtime/scalar.h"

namespace tsq::layout {

constexpr int64_t kPanel = 16;  // outputs in a panel
// Of everything below. Files of packed weights name it: raise it with every change to where a code or scale lies.
constexpr uint32_t kVersion = 2;

enum class WeightKind : uint8_t {
  kF32 = 0,
  kF16 = 1,
  kBF16 = 2,
  kU4 = 3,
  kU8 = 4,
  kU2 = 5,
  kU3 = 6,
  kB4 = 7,
  kE4M3 = 8,  // finite: a weight with a NaN is none
  kE5M2 = 9,
  kI4 = 10
};
constexpr WeightKind kLastKind = WeightKind::kI4;
constexpr int kBookSize = 16;
// Kernels for bytes take a whole number of a code book as one without sign, and this as its zero point.
constexpr int kBookZero = 128;
// How group scales are stored: the narrowest type that holds every one of them exactly.
enum class ScaleType : uint8_t { kF32 = 0, kF16 = 1, kBF16 = 2 };

TSQ_INLINE constexpr int64_t roundUp(int64_t value, int64_t step) {
  return (value + step - 1) / step * step;
}
TSQ_INLINE constexpr int64_t divideUp(int64_t value, int64_t step) {
  return (value + step - 1) / step;
}
TSQ_INLINE constexpr bool isInteger(WeightKind kind) {
  return kind >= WeightKind::kU4 && kind <= WeightKind::kU3;
}
TSQ_INLINE constexpr bool hasBook(WeightKind kind) {
  return kind == WeightKind::kB4 || kind == WeightKind::kI4;
}
TSQ_INLINE constexpr bool isSmallFloat(WeightKind kind) {
  return kind == WeightKind::kE4M3 || kind == WeightKind::kE5M2;
}
// Whether there are scales, of groups; all but f32, f16 and bf16.
TSQ_INLINE constexpr bool hasScales(WeightKind kind) {
  return kind >= WeightKind::kU4;
}
// Packed k of a group is a multiple of this: whole steps of codes, whole pairs of lines.
TSQ_INLINE constexpr int64_t groupAlign(WeightKind kind) {
  return kind == WeightKind::kU3 ? 32 : kind == WeightKind::kU2 ? 16 : 8;
}
// Bits that a code takes in memory; 0 for f32, f16 and bf16.
TSQ_INLINE constexpr int codeBits(WeightKind kind) {
  switch (kind) {
    case WeightKind::kU2:
      return 2;
    case WeightKind::kU3:
      return 3;
    case WeightKind::kU4:
    case WeightKind::kB4:
    case WeightKind::kI4:
      return 4;
    case WeightKind::kU8:
    case WeightKind::kE4M3:
    case WeightKind::kE5M2:
      return 8;
    default:
      return 0;
  }
}

// Geometry of a packed weight. For f32, f16 and bf16 groupSize = k (one group).
struct Shape {
  WeightKind kind;
  int64_t n, k;
  int64_t groupSize;  // 1 … k
};

TSQ_INLINE constexpr int64_t groups(const Shape& s) {
  return s.k == 0 ? 0 : divideUp(s.k, s.groupSize);
}
TSQ_INLINE constexpr int64_t groupStride(const Shape& s) {
  return roundUp(s.groupSize, groupAlign(s.kind));
}  // packed k of a full group
TSQ_INLINE constexpr int64_t packedK(const Shape& s) {
  if (s.k == 0) return 0;
  const int64_t full = groups(s) - 1;
  return full * groupStride(s) + roundUp(s.k - full * s.groupSize, groupAlign(s.kind));
}
TSQ_INLINE constexpr int64_t panels(const Shape& s) {
  return divideUp(s.n, kPanel);
}
// Position along packed k of (ordered) column k.
TSQ_INLINE constexpr int64_t packedColumn(const Shape& s, int64_t k) {
  return k / s.groupSize * groupStride(s) + k % s.groupSize;
}
TSQ_INLINE constexpr int64_t panelBytes(const Shape& s) {
  switch (s.kind) {
    case WeightKind::kF32:
      return packedK(s) * kPanel * 4;
    case WeightKind::kF16:
    case WeightKind::kBF16:
      return packedK(s) * kPanel * 2;
    default:
      return packedK(s) * kPanel * codeBits(s.kind) / 8;
  }
}
// Codes but U3 and 8-bit floats: 32-bit word (index into the whole weight) and bit shift of the code of output n at
// packed column p. For U3: of its lower two bits.
TSQ_INLINE constexpr int64_t codeWord(const Shape& s, int64_t n, int64_t p) {
  const int64_t panel = (n / kPanel) * (panelBytes(s) / 4), lane = n % kPanel;
  if (s.kind == WeightKind::kU3) return panel + (p / 32 * 3 + p / 16 % 2) * kPanel + lane;
  return panel + p / (32 / codeBits(s.kind)) * kPanel + lane;
}
TSQ_INLINE constexpr int codeShift(const Shape& s, int64_t p) {
  const int bits = s.kind == WeightKind::kU3 ? 2 : codeBits(s.kind);
  return static_cast<int>(p % (32 / bits)) * bits;
}
// U3: word and shift of the top bit.
TSQ_INLINE constexpr int64_t topWord(const Shape& s, int64_t n, int64_t p) {
  return (n / kPanel) * (panelBytes(s) / 4) + (p / 32 * 3 + 2) * kPanel + n % kPanel;
}
TSQ_INLINE constexpr int topShift(int64_t p) {
  return static_cast<int>(p / 8 % 2 * 16 + p / 16 % 2 * 8 + p % 8);
}
// Float kinds and 8-bit floats: element index of output n at packed column p.
TSQ_INLINE constexpr int64_t element(const Shape& s, int64_t n, int64_t p) {
  return ((n / kPanel) * packedK(s) + p) * kPanel + n % kPanel;
}
// Scales and zero points: index of output n in group g. [panel][group][16]
TSQ_INLINE constexpr int64_t scaleIndex(const Shape& s, int64_t n, int64_t g) {
  return ((n / kPanel) * groups(s) + g) * kPanel + n % kPanel;
}

}  // namespace tsq::layout
