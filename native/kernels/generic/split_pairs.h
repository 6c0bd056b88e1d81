// Activations to bf16 parts (layout/activations.h). Include after an instruction set's words.h.
#pragma once

#include "kernels/generic/split.h"

namespace tsq {
namespace {

// For each element of a chunk of pairs the half word of 32 floats that belongs there: the upper one of its column.
struct PairOrder {
  alignas(64) uint16_t half[layout::kPairChunk];
};
template <layout::WeightKind kKind>
constexpr PairOrder makePairOrder() {
  PairOrder order{};
  for (int64_t i = 0; i < 16; ++i) {
    for (int64_t e = 0; e < 2; ++e) {
      order.half[2 * i + e] = static_cast<uint16_t>(2 * layout::pairColumn(kKind, i, e) + 1);
    }
  }
  return order;
}
template <layout::WeightKind kKind>
constexpr PairOrder kPairOrder = makePairOrder<kKind>();

template <layout::WeightKind kKind>
void splitPairsOf(const SplitRow& row) {
  const layout::Shape& shape = *row.shape;
  const int64_t blocks = layout::blocks(shape);
  uint8_t* chunk = row.chunks;
  for (int64_t block = 0; block < blocks; ++block) {
    const layout::Block at = layout::blockAt(shape, block);
    for (int64_t begin = 0; begin < at.length; begin += layout::kPairChunk) {
      const int64_t left = at.length - begin;
      const float* x = row.x + at.p + begin;
      Lanes lower = loadColumns(x, left), upper = loadColumns(x + 16, left - 16);
      for (int limb = 0; limb < row.limbs; ++limb, chunk += row.apart) {
        const Words a = cutPart(lower), b = cutPart(upper);
        storeWords(chunk, chooseHalves(a, b, kPairOrder<kKind>.half));
      }
    }
  }
}

void splitPairs(const SplitRow& row) {
  using layout::WeightKind;
  switch (row.shape->kind) {
    case WeightKind::kU8:
      return splitPairsOf<WeightKind::kU8>(row);
    case WeightKind::kU4:
    case WeightKind::kI4:
      return splitPairsOf<WeightKind::kU4>(row);
    case WeightKind::kU2:
    case WeightKind::kU3:
      return splitPairsOf<WeightKind::kU2>(row);
    default:
      return splitPairsOf<WeightKind::kBF16>(row);
  }
}

}  // namespace
}  // namespace tsq
