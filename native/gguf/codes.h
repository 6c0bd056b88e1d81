// What blocks hold: codes of a few bits, and for each group a scale and for some types an offset, so that
//   value = scale * (code - zero) + offset.
// One specialisation for each block type. Code books become codes of the width of their (whole) values; kBook has
// these.
#pragma once
#include "gguf/blocks.h"

namespace tsq::gguf {

// kGroup elements share a scale. kOffset: they share an offset too, and codes have no zero point.
template <int kGroupSize, int kCodeBits, bool kHasOffset = false>
struct GroupedCodes {
  static constexpr int kGroup = kGroupSize, kBits = kCodeBits;
  static constexpr bool kOffset = kHasOffset;
  static constexpr int kZero = kOffset ? 0 : 1 << (kBits - 1);
};

// codes: [Block::kSize], unsigned; groups: scales and, where there are any, offsets: [kSize / kGroup].
template <typename Block>
struct Codes;

#define TSQ_GGUF_CODES(Block, ...)                                         \
  template <>                                                              \
  struct Codes<Block> : GroupedCodes<__VA_ARGS__> {                        \
    static void codes(const Block& block, uint8_t* out);                   \
    static void groups(const Block& block, float* scales, float* offsets); \
  }

TSQ_GGUF_CODES(Q4_0, 32, 4);
TSQ_GGUF_CODES(Q4_1, 32, 4, true);
TSQ_GGUF_CODES(Q5_0, 32, 5);
TSQ_GGUF_CODES(Q5_1, 32, 5, true);
TSQ_GGUF_CODES(Q8_0, 32, 8);
TSQ_GGUF_CODES(Q8_1, 32, 8);
TSQ_GGUF_CODES(IQ4_NL, 32, 8);
TSQ_GGUF_CODES(MXFP4, 32, 5);
TSQ_GGUF_CODES(Q2_K, 16, 2, true);
TSQ_GGUF_CODES(Q3_K, 16, 3);
TSQ_GGUF_CODES(Q4_K, 32, 4, true);
TSQ_GGUF_CODES(Q5_K, 32, 5, true);
TSQ_GGUF_CODES(Q6_K, 16, 6);
TSQ_GGUF_CODES(Q8_K, 256, 8);
TSQ_GGUF_CODES(IQ4_XS, 32, 8);
TSQ_GGUF_CODES(TQ1_0, 256, 2);
TSQ_GGUF_CODES(TQ2_0, 256, 2);
#undef TSQ_GGUF_CODES

// The whole numbers that the codes of a block less their zero point may be, 16; null: all.
template <typename Block>
constexpr const int8_t* kBook = nullptr;
template <>
inline constexpr const int8_t* kBook<IQ4_NL> = kIq4Values;
template <>
inline constexpr const int8_t* kBook<IQ4_XS> = kIq4Values;
template <>
inline constexpr const int8_t* kBook<MXFP4> = kE2M1Doubled;

// The values, with the float32 operations of ggml (src/ggml-quants.c, dequantize_row_*): they agree bit for bit.
template <typename Block>
void decodeBlock(const Block& block, float* y) {
  using Grid = Codes<Block>;
  constexpr int kGroups = Block::kSize / Grid::kGroup;
  uint8_t codes[Block::kSize];
  float scales[kGroups], offsets[kGroups];
  Grid::codes(block, codes);
  Grid::groups(block, scales, offsets);
  for (int group = 0; group < kGroups; ++group) {
    for (int i = group * Grid::kGroup; i < (group + 1) * Grid::kGroup; ++i) {
      const float value = scales[group] * static_cast<float>(codes[i] - Grid::kZero);
      y[i] = Grid::kOffset ? value + offsets[group] : value;
    }
  }
}

}  // namespace tsq::gguf
