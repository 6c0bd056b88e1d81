// Weights times activations in bf16 parts, two k at a time: exact products, added up in f32. Include after an
// instruction set's words.h and a function dotPairs(sum, weights, x).
//
// Weights go in as code minus zero point, or as they are; a block adds scale * scale of the row * sum to an output for
// every limb.
#pragma once

#include "kernels/generic/dots_fused.h"
#include "kernels/generic/pair_codes.h"

namespace tsq {
namespace {

// Of 16 outputs in one block.
struct PairParams {
  Lanes scale;
};

template <int kRows, int kPanels, int kPanelsOfTwoRows, int kPanelsOfFourRows>
struct Pairs {
  using Params = PairParams;
  using Sum = Lanes;
  static constexpr int64_t kChunk = layout::kPairChunk;
  static constexpr int64_t kWide = 2;
  static constexpr int64_t kRun = 16;
  static constexpr int kMostLimbs = 3;
  static constexpr bool kRowSums = false;
  static constexpr bool kByRow = false;
  static constexpr int kTileRows = kRows, kTilePanels = kPanels;
  static constexpr int kTwoRowPanels = kPanelsOfTwoRows, kFourRowPanels = kPanelsOfFourRows;

  TSQ_METHOD static constexpr int64_t decodedBytes(layout::WeightKind, int64_t length) {
    return length * 2 * layout::kPanel;
  }
  TSQ_METHOD static Params read(const PackedView& w, int64_t at) { return {pairScales(w, at)}; }
  TSQ_METHOD static Sum start(const Params&, const int32_t*, int) { return zeros(); }
  TSQ_METHOD static Lanes rowScale(const float* scales, int row) { return set1(scales[row]); }
  TSQ_METHOD static Lanes finish(const Params& params, Sum sum, Lanes rowScale, Lanes total) {
    return fma(mul(params.scale, rowScale), sum, total);
  }
  TSQ_METHOD static Lanes dot(Lanes sum, Words weights, Words x) { return dotPairs(sum, weights, x); }

  template <int kTall, int kAcross>
  TSQ_METHOD static void accumulate(Lanes (&sums)[kTall][kAcross], layout::WeightKind, const uint8_t* weights,
                                    const uint8_t* x, int64_t apart, int64_t pairs, Fetch& fetch) {
    accumulateDirect<Pairs, kTall, kAcross>(sums, weights, x, apart, pairs, fetch);
  }
  template <class Codes>
  TSQ_METHOD static constexpr int64_t runSteps() {
    return kChunk / Codes::kStep;
  }

  template <int>
  struct Partial {
    Lanes total;
    TSQ_METHOD void start(Lanes sum) { total = sum; }
    template <int>
    TSQ_METHOD void add(Words weights, Words x) {
      total = dotPairs(total, weights, x);
    }
    TSQ_METHOD void flush() {}
  };
};

// More limbs and rows than fit the registers go the other way: the result is the same.
template <class Dot, class Codes>
void multiplyCodes(const DotCall& call) {
  constexpr int kTwo = Dot::kTwoRowPanels, kFour = Dot::kFourRowPanels;
  switch (call.rows <= 4 ? call.limbs * 16 + call.rows : 0) {
    case 16 + 1:
      return multiplyFused<Dot, Codes, 1, 1, kTwo>(call);
    case 16 + 2:
      return multiplyFused<Dot, Codes, 2, 1, kTwo>(call);
    case 16 + 3:
      return multiplyFused<Dot, Codes, 3, 1, kFour>(call);
    case 16 + 4:
      return multiplyFused<Dot, Codes, 4, 1, kFour>(call);
    case 32 + 1:
      return multiplyFused<Dot, Codes, 1, 2, kTwo>(call);
    case 32 + 2:
      return multiplyFused<Dot, Codes, 2, 2, kFour>(call);
    default:
      return multiplyMany<Dot, Codes>(call);
  }
}

template <class Dot, layout::WeightKind kKind>
void multiplyKind(const DotCall& call) {
  if (call.w->zeros == nullptr) return multiplyCodes<Dot, PairCodes<kKind, ZeroWay::kShared>>(call);
  if (kKind == layout::WeightKind::kU8) return multiplyCodes<Dot, PairCodes<kKind, ZeroWay::kAny>>(call);
  if (mostZero(call) <= kMostOffset) return multiplyCodes<Dot, PairCodes<kKind, ZeroWay::kOffset>>(call);
  multiplyMany<Dot, PairCodes<kKind, ZeroWay::kAny>>(call);
}

template <class Dot>
void multiplyPairs(const DotCall& call) {
  using layout::WeightKind;
  if (call.rows == 0) return;
  switch (call.w->shape.kind) {
    case WeightKind::kBF16:
      return multiplyCodes<Dot, PairCodes<WeightKind::kBF16, ZeroWay::kShared>>(call);
    case WeightKind::kU8:
      return multiplyKind<Dot, WeightKind::kU8>(call);
    case WeightKind::kU3:
      return multiplyKind<Dot, WeightKind::kU3>(call);
    case WeightKind::kU2:
      return multiplyKind<Dot, WeightKind::kU2>(call);
    case WeightKind::kI4:
      return multiplyCodes<Dot, PairCodes<WeightKind::kI4, ZeroWay::kShared>>(call);
    case WeightKind::kE4M3:
      return multiplyCodes<Dot, PairCodes<WeightKind::kE4M3, ZeroWay::kShared>>(call);
    case WeightKind::kE5M2:
      return multiplyCodes<Dot, PairCodes<WeightKind::kE5M2, ZeroWay::kShared>>(call);
    default:
      return multiplyKind<Dot, WeightKind::kU4>(call);
  }
}

}  // namespace
}  // namespace tsq
