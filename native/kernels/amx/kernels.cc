// Kernels on AMX tiles: exact pairs of bf16 parts, quads of int8.
#include "kernels/amx/by_row.h"
#include "kernels/amx/few.h"
#include "kernels/amx/many.h"
#include "kernels/avx512/words.h"
#include "kernels/generic/split_pairs.h"
#include "kernels/generic/split_quads.h"
#include "kernels/tables.h"

#include <algorithm>

namespace tsq {
namespace {

using layout::WeightKind;

template <typename Engine>
TSQ_INLINE void product(const DotCall& call) {
  if (call.rows <= layout::kBundle && call.rows * call.limbs <= kFewStreams) return fewRows<Engine>(call);
  manyRows<Engine>(call);
}
int64_t tileScratch(const layout::Shape&, int64_t rows, int64_t panels) {
  return std::max(manyScratch(rows, panels), static_cast<int64_t>(sizeof(FewSpace)));
}

template <WeightKind kKind>
void pairsOf(const DotCall& call) {
  if (call.w->zeros == nullptr) return product<TilePairs<PairCodes<kKind, ZeroWay::kShared>>>(call);
  // 8-bit codes always have their zero points subtracted; narrower ones look up the difference where it fits the table.
  if constexpr (kKind != WeightKind::kU8) {
    if (mostZero(call) <= kMostOffset) return product<TilePairs<PairCodes<kKind, ZeroWay::kOffset>>>(call);
  }
  product<TilePairs<PairCodes<kKind, ZeroWay::kAny>>>(call);
}

void multiplyPairs(const DotCall& call) {
  switch (call.w->shape.kind) {
    case WeightKind::kBF16:
      return product<TilePairs<PairCodes<WeightKind::kBF16, ZeroWay::kShared>>>(call);
    case WeightKind::kU8:
      return pairsOf<WeightKind::kU8>(call);
    case WeightKind::kU3:
      return pairsOf<WeightKind::kU3>(call);
    case WeightKind::kU2:
      return pairsOf<WeightKind::kU2>(call);
    case WeightKind::kI4:
      return product<TilePairs<PairCodes<WeightKind::kI4, ZeroWay::kShared>>>(call);
    case WeightKind::kE4M3:
      return product<TilePairs<PairCodes<WeightKind::kE4M3, ZeroWay::kShared>>>(call);
    case WeightKind::kE5M2:
      return product<TilePairs<PairCodes<WeightKind::kE5M2, ZeroWay::kShared>>>(call);
    default:
      return pairsOf<WeightKind::kU4>(call);
  }
}

template <WeightKind kKind>
void quadsOf(const DotCall& call) {
  if (call.byRow) return productByRow<TileQuads<QuadCodes<kKind, 1>>>(call);
  product<TileQuads<QuadCodes<kKind, 1>>>(call);
}

// Rows that are better off without tiles: weights go through registers once, and memory is what limits.
constexpr int64_t kVectorRows = 8;

void multiplyQuads(const DotCall& call) {
  if (call.rows <= kVectorRows) return kAvx512VnniQuads.multiply(call);  // the same bytes
  switch (call.w->shape.kind) {
    case WeightKind::kU8:
      return quadsOf<WeightKind::kU8>(call);
    case WeightKind::kU3:
      return quadsOf<WeightKind::kU3>(call);
    case WeightKind::kU2:
      return quadsOf<WeightKind::kU2>(call);
    case WeightKind::kI4:
      return quadsOf<WeightKind::kI4>(call);
    default:
      return quadsOf<WeightKind::kU4>(call);
  }
}

int64_t quadScratch(const layout::Shape& shape, int64_t rows, int64_t panels) {
  return std::max({tileScratch(shape, rows, panels), byRowScratch(rows, panels),
                   kAvx512VnniQuads.scratchBytes(shape, rows, panels)});
}

bool pairsPay(WeightKind kind, Dtype, int64_t) {
  return kind == WeightKind::kBF16 || kind == WeightKind::kI4 || layout::isInteger(kind) || layout::isSmallFloat(kind);
}
bool quadsPay(WeightKind kind, Dtype, int64_t) {
  return kind == WeightKind::kI4 || layout::isInteger(kind);
}

}  // namespace

const DotKernel kAmxPairs = {pairsPay, splitPairs, multiplyPairs, tileScratch};
const DotKernel kAmxQuads = {quadsPay, splitQuads, multiplyQuads, quadScratch};

}  // namespace tsq
