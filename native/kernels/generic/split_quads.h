// Activations to int8, by row and block (layout/activations.h). Include after an instruction set's words.h.
#pragma once

#include "kernels/generic/split.h"

namespace tsq {
namespace {

// Bits of the largest magnitude; those of an infinity or more where some x is not finite.
TSQ_INLINE int32_t peakBits(const float* x, int64_t length) {
  Words peak = zeroWords();
  for (int64_t i = 0; i < length; i += 16) peak = maxWords(peak, bitsOf(abs(loadColumns(x + i, length - i))));
  return largestWord(peak);
}

// Quantizes a block to its chunks, `apart` bytes apart, zeros behind. Returns the sum of the codes.
template <layout::WeightKind kKind>
TSQ_INLINE int32_t quantizeBlock(const float* x, int64_t length, float inverse, uint8_t* chunk, int64_t apart) {
  const Lanes scale = set1(inverse);
  Words sum = zeroWords();
  for (int64_t begin = 0; begin < length; begin += layout::kQuadChunk, chunk += apart) {
    for (int64_t i = 0; i < layout::kQuadChunk; i += 16) {
      const Words codes = nearestWords(mul(loadColumns(x + begin + i, length - begin - i), scale));
      sum = addWords(sum, codes);
      storeCodes<kKind>(chunk + i, codes);
    }
  }
  return sumWords(sum);
}

// The first `count` of sixteen words, and zeros.
TSQ_INLINE Words keepFirst(Words words, int64_t count) {
  alignas(64) int32_t kept[16];
  storeWords(kept, words);
  for (int64_t i = count > 0 ? count : 0; i < 16; ++i) kept[i] = 0;
  return loadWords(kept);
}

// Codes of a grid that all blocks of a row share, zeros behind. Returns their sum.
template <layout::WeightKind kKind>
TSQ_INLINE int32_t quantizeByRow(const float* x, int64_t length, float scale, int32_t zero, uint8_t* chunk,
                                 int64_t apart) {
  const Lanes divisor = set1(scale);
  const Lanes least = set1(static_cast<float>(-128 - zero)), most = set1(static_cast<float>(127 - zero));
  const Words shift = everyWord(zero);
  Words sum = zeroWords();
  for (int64_t begin = 0; begin < length; begin += layout::kQuadChunk, chunk += apart) {
    for (int64_t i = 0; i < layout::kQuadChunk; i += 16) {
      const int64_t left = length - begin - i;
      const Lanes exact = div(loadColumns(x + begin + i, left), divisor);
      Words codes = addWords(nearestWords(min(most, max(least, exact))), shift);
      if (left < 16) codes = keepFirst(codes, left);
      sum = addWords(sum, codes);
      storeCodes<kKind>(chunk + i, codes);
    }
  }
  return sumWords(sum);
}

// As splitQuadsOf, with one grid for the row.
template <layout::WeightKind kKind>
void splitQuadsByRow(const SplitRow& row) {
  const layout::Shape& shape = *row.shape;
  uint8_t* chunk = row.chunks;
  const bool grid = row.scale > 0;
  int32_t all = 0;
  for (int64_t block = 0; block < layout::blocks(shape); ++block) {
    const layout::Block at = layout::blockAt(shape, block);
    const int64_t chunks = layout::divideUp(at.length, layout::kQuadChunk);
    int32_t sum = 0;
    if (grid) {
      sum = quantizeByRow<kKind>(row.x + at.p, at.length, row.scale, row.zero, chunk, row.apart);
    } else {
      for (int64_t i = 0; i < chunks * 4; ++i) storeCodes<kKind>(chunk + i / 4 * row.apart + i % 4 * 16, zeroWords());
    }
    chunk += chunks * row.apart;
    all += sum;
    if (row.byRow) continue;
    row.scales[block * row.step] = row.scale;
    row.sums[block * row.step] = sum;
  }
  if (!row.byRow) return;
  *row.scales = row.scale;
  *row.sums = all;
}

template <layout::WeightKind kKind>
void splitQuadsOf(const SplitRow& row) {
  if (row.scale != 0) return splitQuadsByRow<kKind>(row);
  const layout::Shape& shape = *row.shape;
  const int64_t blocks = layout::blocks(shape);
  uint8_t* chunk = row.chunks;
  for (int64_t block = 0; block < blocks; ++block) {
    const layout::Block at = layout::blockAt(shape, block);
    const float* x = row.x + at.p;
    const int32_t bits = peakBits(x, at.length);
    const bool finite = bits < kInfinityBits;
    const float peak = bitsToFloat(static_cast<uint32_t>(bits));
    const float inverse = finite && peak > 0 ? 127.0f / peak : 0.0f;
    const bool grid = finite && floatToBits(inverse) < kInfinityBits;
    int32_t sum = 0;
    const int64_t chunks = layout::divideUp(at.length, layout::kQuadChunk);
    if (grid) {
      sum = quantizeBlock<kKind>(x, at.length, inverse, chunk, row.apart);
    } else {
      for (int64_t i = 0; i < chunks * 4; ++i) {
        storeCodes<kKind>(chunk + i / 4 * row.apart + i % 4 * 16, zeroWords());
      }
    }
    // Without a finite peak there is no grid: the whole block becomes NaN, by its scale.
    row.scales[block * row.step] = finite ? (grid ? peak / 127.0f : 0.0f) : bitsToFloat(0x7fc00000);
    row.sums[block * row.step] = sum;
    chunk += chunks * row.apart;
  }
}

[[maybe_unused]] void splitQuads(const SplitRow& row) {
  switch (row.shape->kind) {
    case layout::WeightKind::kU8:
      return splitQuadsOf<layout::WeightKind::kU8>(row);
    case layout::WeightKind::kU4:
    case layout::WeightKind::kI4:
      return splitQuadsOf<layout::WeightKind::kU4>(row);
    default:
      return splitQuadsOf<layout::WeightKind::kU2>(row);  // U3 has the same order
  }
}

}  // namespace
}  // namespace tsq
