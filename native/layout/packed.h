// Where a weight lies in packed memory: the one description that the packer, the kernels and the tests share.
//
// A weight [n, k] is cut into panels of 16 output rows. Inside a panel memory runs along k, and one step holds the
// same k for all 16 outputs, so that one vector of 16 lanes accumulates 16 outputs. Integer codes are kept in 32-bit
// words: word `j` of a step holds the codes of output `j` for 8 (4-bit) or 4 (8-bit) consecutive k, low bits first; one
// step is one 64-byte line. Every group of k starts at a step: groups are padded to a multiple of 8 k ("packed k").
#pragma once
#include <cstdint>

#include "runtime/scalar.h"

namespace tsq::layout {

constexpr int64_t kPanel = 16;      // outputs in a panel
constexpr int64_t kGroupAlign = 8;  // packed k of a group is a multiple of this

enum class WeightKind : uint8_t { kF32 = 0, kF16 = 1, kBF16 = 2, kU4 = 3, kU8 = 4 };

TSQ_INLINE constexpr int64_t roundUp(int64_t value, int64_t step) {
  return (value + step - 1) / step * step;
}
TSQ_INLINE constexpr int64_t divideUp(int64_t value, int64_t step) {
  return (value + step - 1) / step;
}
TSQ_INLINE constexpr bool isInteger(WeightKind kind) {
  return kind == WeightKind::kU4 || kind == WeightKind::kU8;
}

// Geometry of a packed weight. For float kinds groupSize = k (one group).
struct Shape {
  WeightKind kind;
  int64_t n, k;
  int64_t groupSize;  // 1 … k
};

TSQ_INLINE constexpr int64_t groups(const Shape& s) {
  return s.k == 0 ? 0 : divideUp(s.k, s.groupSize);
}
TSQ_INLINE constexpr int64_t groupStride(const Shape& s) {
  return roundUp(s.groupSize, kGroupAlign);
}  // packed k of a full group
TSQ_INLINE constexpr int64_t packedK(const Shape& s) {
  if (s.k == 0) return 0;
  const int64_t full = groups(s) - 1;
  return full * groupStride(s) + roundUp(s.k - full * s.groupSize, kGroupAlign);
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
    case WeightKind::kU8:
      return packedK(s) * kPanel;
    default:
      return packedK(s) * kPanel / 2;
  }
}
// Integer codes: 32-bit word (index into the whole weight) and bit shift of the code of output n at packed column p.
TSQ_INLINE constexpr int64_t codeWord(const Shape& s, int64_t n, int64_t p) {
  const int64_t perWord = s.kind == WeightKind::kU4 ? 8 : 4;
  return (n / kPanel) * (panelBytes(s) / 4) + (p / perWord) * kPanel + n % kPanel;
}
TSQ_INLINE constexpr int codeShift(const Shape& s, int64_t p) {
  return s.kind == WeightKind::kU4 ? static_cast<int>(p % 8) * 4 : static_cast<int>(p % 4) * 8;
}
// Float kinds: element index of output n at packed column p.
TSQ_INLINE constexpr int64_t element(const Shape& s, int64_t n, int64_t p) {
  return ((n / kPanel) * packedK(s) + p) * kPanel + n % kPanel;
}
// Scales and zero points: float index of output n in group g. [panel][group][16]
TSQ_INLINE constexpr int64_t scaleIndex(const Shape& s, int64_t n, int64_t g) {
  return ((n / kPanel) * groups(s) + g) * kPanel + n % kPanel;
}

}  // namespace tsq::layout
