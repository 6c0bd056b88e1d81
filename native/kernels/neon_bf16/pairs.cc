// Pairs of bf16 by BFDOT and BFMMLA (FEAT_BF16).
//
// Products of two bf16 are exact in f32, but these instructions add in a way of their own (without FEAT_EBF16 or with
// FPCR.EBF clear, as it is by default): the products of a pair to each other, and their sum to the accumulator, each
// rounded to odd, which is off by less than one unit in the last place and without bias; subnormal operands and results
// count as zero, so activations below 2^-126 do; every NaN is the default one.
#include "kernels/neon_bf16/pair_codes.h"

#include "kernels/generic/split_pairs.h"
#include "kernels/neon/dot_tiles.h"
#include "kernels/tables.h"

namespace tsq {
namespace {

TSQ_INLINE bfloat16x8_t bfloats(uint8x16_t x) {
  return vreinterpretq_bf16_u8(x);
}

// Scales of 16 outputs in one group; ones for bf16 weights.
struct PairTerms {
  float32x4_t scale[4];

  __attribute__((always_inline)) PairTerms(const PackedView& w, int64_t at, int) {
    const Lanes scales = w.scales != nullptr ? loadScales(w, at) : set1(1);
    scale[0] = scales.a, scale[1] = scales.b, scale[2] = scales.c, scale[3] = scales.d;
  }
  __attribute__((always_inline)) float32x4_t addTo(float32x4_t total, float32x4_t sum, int c, const RowTerms& rows,
                                                   int64_t r) const {
    return vfmaq_f32(total, vmulq_n_f32(scale[c], rows.scales[r]), sum);
  }
};

struct PairEngine {
  using Sum = float32x4_t;
  using Terms = PairTerms;
  static constexpr int64_t kStep = 8;
  static constexpr int kMostLimbs = 3;
  static constexpr bool kByRow = false;
  static constexpr bool kMatrix = true, kByElement = true;
  static constexpr int kChains = 1;  // as BFMMLA, which adds two pairs one after the other
  static constexpr int kTileRows = 8, kTileColumns = 2;

  __attribute__((always_inline)) static Sum zero() { return vdupq_n_f32(0); }
  __attribute__((always_inline)) static Sum add(Sum a, Sum b) { return vaddq_f32(a, b); }
  template <int kElement>
  __attribute__((always_inline)) static Sum dot(Sum sum, uint8x16_t w, uint8x16_t x) {
    return vbfdotq_laneq_f32(sum, bfloats(w), bfloats(x), kElement);
  }
  __attribute__((always_inline)) static Sum matrix(Sum sum, uint8x16_t w, uint8x16_t x) {
    return vbfmmlaq_f32(sum, bfloats(w), bfloats(x));
  }
  // Of two such sums, the four outputs of either row.
  __attribute__((always_inline)) static Sum firstRow(Sum a, Sum b) { return vuzp1q_f32(a, b); }
  __attribute__((always_inline)) static Sum secondRow(Sum a, Sum b) { return vuzp2q_f32(a, b); }
};

template <WeightKind kKind, ZeroWay kWay>
TSQ_INLINE void multiplyCodes(const DotCall& call) {
  using Codes = PairCodes<kKind, kWay>;
  multiplyBundles<PairEngine, Codes, Codes>(call);
}

template <WeightKind kKind>
TSQ_INLINE void multiplyKind(const DotCall& call) {
  const PackedView& w = *call.w;
  if (w.zeros == nullptr) return multiplyCodes<kKind, ZeroWay::kShared>(call);
  const int64_t panel = layout::groups(w.shape) * layout::kPanel;
  uint8x16_t most = vdupq_n_u8(0);
  for (int64_t i = call.panelBegin * panel; i < call.panelEnd * panel; i += 16)
    most = vmaxq_u8(most, vld1q_u8(w.zeros + i));
  if (vmaxvq_u8(most) <= kMostOffset) return multiplyCodes<kKind, ZeroWay::kOffset>(call);
  multiplyCodes<kKind, ZeroWay::kAny>(call);
}

void multiplyPairs(const DotCall& call) {
  switch (call.w->shape.kind) {
    case WeightKind::kU2:
      return multiplyKind<WeightKind::kU2>(call);
    case WeightKind::kU3:
      return multiplyKind<WeightKind::kU3>(call);
    case WeightKind::kU4:
      return multiplyKind<WeightKind::kU4>(call);
    case WeightKind::kU8:
      return multiplyCodes<WeightKind::kU8, ZeroWay::kAny>(call);
    default:
      return multiplyCodes<WeightKind::kBF16, ZeroWay::kShared>(call);
  }
}

// By instruction counts: a BFMMLA does the work of four fused multiply-adds, and f32 takes three of them.
bool pairsPay(WeightKind kind, Dtype x, int64_t) {
  return x != Dtype::kF32 && (kind == WeightKind::kBF16 || layout::isInteger(kind));
}

}  // namespace

const DotKernel kNeonBf16Pairs = {pairsPay, splitPairs, multiplyPairs, dotScratch<PairEngine>};

}  // namespace tsq
