// Weights times activations of 8 bits, four k at a time: what all ways of adding their products share. Include after an
// instruction set's words.h.
//
// A block adds scale * scaleX * (dot - zero * sum of x) to an output; all of it but the last two products is exact, so
// that every instruction set gives the same bytes.
#pragma once

#include "kernels/generic/dots_fused.h"
#include "kernels/generic/quad_codes.h"
#include "kernels/generic/split_quads.h"

namespace tsq {
namespace {

// Of 16 outputs in one block.
struct QuadParams {
  Lanes scale;
  Words zero;  // negated, as a half word: times the sum of x it is what the sum of products starts with
};

struct QuadBase {
  using Params = QuadParams;
  using Sum = Words;
  static constexpr int64_t kChunk = layout::kQuadChunk;
  static constexpr int64_t kWide = 4;
  static constexpr int kMostLimbs = 1;
  static constexpr bool kRowScales = true;

  TSQ_METHOD static Params read(const PackedView& w, int64_t at) {
    const Words zero = w.zeros != nullptr ? widenBytes(w.zeros + at) : everyWord(w.zero);
    return {loadScales(w, at), keepBits(subWords(zeroWords(), zero), 0xffff)};
  }
  TSQ_METHOD static Sum start(const Params& params, const int32_t* sums, int row) {
    return halfProducts(params.zero, broadcastWord(sums + row));
  }
  TSQ_METHOD static Lanes rowScale(const float* scales, int row) { return set1(scales[row]); }
  TSQ_METHOD static Lanes finish(const Params& params, Sum sum, Lanes rowScale, Lanes total) {
    return fma(mul(params.scale, rowScale), floats(sum), total);
  }
};

template <class Dot, layout::WeightKind kKind>
void multiplyKind(const DotCall& call) {
  using Codes = QuadCodes<kKind, Dot::kNibblePlanes>;
  constexpr int kTwo = Dot::kTwoRowPanels, kFour = Dot::kFourRowPanels;
  switch (call.rows) {
    case 0:
      return;
    case 1:
      return multiplyFused<Dot, Codes, 1, 1, kTwo>(call);
    case 2:
      return multiplyFused<Dot, Codes, 2, 1, kTwo>(call);
    case 3:
      return multiplyFused<Dot, Codes, 3, 1, kFour>(call);
    case 4:
      return multiplyFused<Dot, Codes, 4, 1, kFour>(call);
    default:
      return multiplyMany<Dot, Codes>(call);
  }
}

template <class Dot>
void multiplyQuads(const DotCall& call) {
  using layout::WeightKind;
  switch (call.w->shape.kind) {
    case WeightKind::kU8:
      return multiplyKind<Dot, WeightKind::kU8>(call);
    case WeightKind::kU3:
      return multiplyKind<Dot, WeightKind::kU3>(call);
    case WeightKind::kU2:
      return multiplyKind<Dot, WeightKind::kU2>(call);
    default:
      return multiplyKind<Dot, WeightKind::kU4>(call);
  }
}

bool quadsPay(layout::WeightKind kind, Dtype, int64_t) {
  return layout::isInteger(kind);
}

}  // namespace
}  // namespace tsq
