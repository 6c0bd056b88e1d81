// Codes whose 32-bit words in a checkpoint are those of a panel (layout/packed.h), in another order: they are moved,
// and never taken apart. Include in pack_codes.cc only.
#pragma once
#include <cstdint>
#include <cstring>

#include "kernels/interleave.h"
#include "layout/packed.h"
#include "layout/stored_codes.h"

namespace tsq {
namespace {

using SixteenBytes = uint8_t __attribute__((vector_size(16)));

// Swaps the two middle bytes of every four.
TSQ_INLINE EightShorts swapMiddle(uint64_t bytes) {
  constexpr uint64_t kOuter = 0xff0000ffff0000ffu, kThird = 0x00ff000000ff0000u, kSecond = 0x0000ff000000ff00u;
  bytes = (bytes & kOuter) | (bytes & kThird) >> 8 | (bytes & kSecond) << 8;
  EightShorts out{};
  std::memcpy(&out, &bytes, 8);
  return out;
}

// The line of one step of eight columns of 16 rows, from their two words in AWQ's order in each column. Every shuffle
// is one that the baseline processor has.
TSQ_INLINE void awqLine(const uint8_t* source, int64_t stride, uint8_t* line) {
  constexpr uint64_t kLow = 0x0f0f0f0f0f0f0f0fu;
  SixteenBytes pairs[4];  // columns 2 b and 2 b + 1 of a row in a byte
  for (int b = 0; b < 4; ++b) {
    uint64_t even, odd;
    std::memcpy(&even, source + 2 * b * stride, 8);
    std::memcpy(&odd, source + (2 * b + 1) * stride, 8);
    // Rows 0 4 1 5 8 12 9 13, then 2 6 3 7 10 14 11 15.
    const EightShorts first = swapMiddle((even & kLow) | (odd & kLow) << 4);
    const EightShorts second = swapMiddle((even >> 4 & kLow) | (odd & ~kLow));
    const EightShorts rows = __builtin_shufflevector(first, second, 0, 8, 1, 9, 2, 10, 3, 11);
    std::memcpy(&pairs[b], &rows, 16);
  }
  // Four bytes a row.
  const auto low = [](SixteenBytes a, SixteenBytes b) {
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  };
  const auto high = [](SixteenBytes a, SixteenBytes b) {
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  };
  const SixteenBytes even[2] = {low(pairs[0], pairs[2]), high(pairs[0], pairs[2])};
  const SixteenBytes odd[2] = {low(pairs[1], pairs[3]), high(pairs[1], pairs[3])};
  for (int half = 0; half < 2; ++half) {
    const SixteenBytes words[2] = {low(even[half], odd[half]), high(even[half], odd[half])};
    std::memcpy(line + half * 32, words, 32);
  }
}

// Whether panels of `shape` hold the words of `stored`: no code is wider in the panel, no group ends within a line, and
// columns keep their order.
inline bool hasPanelWords(const layout::StoredCodes& stored, const layout::Shape& shape) {
  const int64_t align = layout::groupAlign(shape.kind);
  using layout::CodeLayout;
  const bool words = stored.layout == CodeLayout::kRows || stored.layout == CodeLayout::kColumns ||
                     stored.layout == CodeLayout::kAwq || stored.layout == CodeLayout::kNibbles;
  return words && shape.kind != layout::WeightKind::kU3 && !layout::isSmallFloat(shape.kind) &&
         stored.bits == layout::codeBits(shape.kind) && shape.k % align == 0 &&
         (layout::groups(shape) == 1 || shape.groupSize % align == 0);
}

// Asks for the part of a column that is used soon: columns lie in different pages, where the hardware stops. Into the
// second-level cache: columns a power of two apart share the few ways of a set of the first.
TSQ_INLINE void fetchAhead(const uint8_t* column, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(column + i, 0, 2);
}

// Panels [first, first + count), all of them of 16 rows, to `out`. Several at a time, since those of a column lie side
// by side in the layouts that run across rows.
inline void movePanelWords(const layout::StoredCodes& stored, const layout::Shape& shape, int64_t first, int64_t count,
                           uint8_t* out) {
  constexpr int64_t kLine = layout::kPanel * 4, kAhead = 16;
  const int64_t bytes = layout::panelBytes(shape), lines = bytes / kLine;
  // Rows of nibbles are bit streams where they have whole words, and so they have here.
  if (stored.layout == layout::CodeLayout::kRows || stored.layout == layout::CodeLayout::kNibbles) {
    const int64_t row = lines * 4;
    for (int64_t panel = 0; panel < count; ++panel) {
      interleave(stored.data + (first + panel) * layout::kPanel * row, row, lines,
                 reinterpret_cast<uint32_t*>(out + panel * bytes));
    }
  } else if (stored.layout == layout::CodeLayout::kColumns) {
    const uint8_t* source = stored.data + first * kLine;
    for (int64_t line = 0; line < lines; ++line, source += shape.n * 4) {
      if (line + kAhead < lines) fetchAhead(source + kAhead * shape.n * 4, count * kLine);
      for (int64_t panel = 0; panel < count; ++panel) {
        std::memcpy(out + panel * bytes + line * kLine, source + panel * kLine, kLine);
      }
    }
  } else {
    const int64_t stride = shape.n / 2;
    const uint8_t* source = stored.data + first * 8;
    for (int64_t line = 0; line < lines; ++line, source += 8 * stride) {
      for (int64_t i = 0; i < 8 && line + 2 < lines; ++i) fetchAhead(source + (16 + i) * stride, count * 8);
      for (int64_t panel = 0; panel < count; ++panel) {
        awqLine(source + panel * 8, stride, out + panel * bytes + line * kLine);
      }
    }
  }
}

}  // namespace
}  // namespace tsq
