// Codes in every layout that checkpoints have, one bit at a time: what the formats say, nothing else.
#pragma once
#include <vector>

#include "layout/bits.h"
#include "layout/stored_codes.h"

namespace stored {

using tsq::layout::CodeLayout;

constexpr CodeLayout kLayouts[] = {CodeLayout::kBytes, CodeLayout::kRows, CodeLayout::kColumns,
                                   CodeLayout::kAwq, CodeLayout::kSigned, CodeLayout::kNibbles, CodeLayout::kNibblesHigh};

inline bool holds(CodeLayout layout, int bits, int64_t n) {
  if (layout == CodeLayout::kNibbles || layout == CodeLayout::kNibblesHigh) return bits == 4;
  return layout != CodeLayout::kAwq || (bits == 4 && n % 8 == 0);
}

// Behind one byte, so that no word is aligned: the codes begin at [1]. Padding bits are set.
inline std::vector<uint8_t> store(const std::vector<uint8_t>& codes, CodeLayout layout, int64_t n, int64_t k,
                                  int bits) {
  const int64_t words = tsq::layout::rowWords(k, bits);
  const int64_t bytes = tsq::layout::storedBytes({nullptr, layout, n, k, bits});
  std::vector<uint8_t> out(static_cast<size_t>(1 + bytes), layout == CodeLayout::kBytes ? 0 : 0xff);
  // Bit `bit` of the words.
  const auto put = [&](int64_t bit, int value) {
    uint8_t& byte = out[static_cast<size_t>(1 + bit / 8)];
    byte = static_cast<uint8_t>((byte & ~(1 << bit % 8)) | (value & 1) << bit % 8);
  };
  constexpr int kAwqNibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t column = 0; column < k; ++column) {
      const int code = codes[static_cast<size_t>(row * k + column)];
      if (layout == CodeLayout::kBytes) out[static_cast<size_t>(1 + row * k + column)] = static_cast<uint8_t>(code);
      const int64_t element = row * k + column;
      if (layout == CodeLayout::kSigned) out[static_cast<size_t>(1 + element)] = static_cast<uint8_t>(code - (1 << (bits - 1)));
      for (int i = 0; i < bits; ++i) {
        if (layout == CodeLayout::kNibbles) put(element * 4 + i, code >> i);
        if (layout == CodeLayout::kNibblesHigh) put((element ^ 1) * 4 + i, code >> i);
        const int64_t bit = column * bits + i;
        if (layout == CodeLayout::kRows) put(row * words * 32 + bit, code >> i);
        if (layout == CodeLayout::kColumns) put((bit / 32 * n + row) * 32 + bit % 32, code >> i);
        if (layout == CodeLayout::kAwq) put((column * (n / 8) + row / 8) * 32 + kAwqNibble[row % 8] * 4 + i, code >> i);
      }
    }
  }
  return out;
}

}  // namespace stored
