// Weights times activations of 8 bits, four k at a time: what all ways of adding their products share. Include after an
// instruction set's words.h.
//
// A block, or in a call by row the whole of k, adds scale * scaleX * (dot - zero * sum of x) to an output; all of it
// but the last two products (and by row the conversion to f32) is exact, so that every instruction set gives the same
// bytes.
#pragma once

#include "kernels/generic/dots_fused.h"
#include "kernels/generic/quad_codes.h"
#include "kernels/generic/split_quads.h"

namespace tsq {
namespace {

// Of 16 outputs in one block.
struct QuadParams {
  Lanes scale;
  Words zero;  // negatedZeros()
};

struct QuadBase {
  using Params = QuadParams;
  using Sum = Words;
  static constexpr int64_t kChunk = layout::kQuadChunk;
  static constexpr int64_t kWide = 4;
  static constexpr int kMostLimbs = 1;
  static constexpr bool kRowSums = true;
  static constexpr bool kByRow = true;

  TSQ_METHOD static Params read(const PackedView& w, int64_t at) { return {loadScales(w, at), negatedZeros(w, at)}; }
  TSQ_METHOD static Sum start(const Params& params, const int32_t* sums, int row) {
    return halfProducts(params.zero, broadcastWord(sums + row));
  }
  // The same of a panel in a call by row, whose sums have more than 16 bits. Products wrap around; what remains fits.
  TSQ_METHOD static Sum startByRow(const PackedView& w, int64_t panel, int32_t sum) {
    const Words zero = w.zeros != nullptr ? widenBytes(w.zeros + panel * layout::kPanel) : everyWord(w.zero);
    return subWords(zeroWords(), mulWords(zero, everyWord(sum)));
  }
  TSQ_METHOD static Lanes rowScale(const float* scales, int row) { return set1(scales[row]); }
  TSQ_METHOD static Lanes finish(const Params& params, Sum sum, Lanes rowScale, Lanes total) {
    return fma(mul(params.scale, rowScale), floats(sum), total);
  }
};

// Few rows go by with the weights in one pass, as many panels side by side as Dot says for their number.
template <class Dot, layout::WeightKind kKind, int kRows = 1>
TSQ_INLINE void multiplyKind(const DotCall& call) {
  using Codes = QuadCodes<kKind, Dot::kNibblePlanes>;
  if constexpr (Dot::fusedPanels(kRows) > 0) {
    if (call.rows == kRows) return multiplyFused<Dot, Codes, kRows, 1, Dot::fusedPanels(kRows)>(call);
    return multiplyKind<Dot, kKind, kRows + 1>(call);
  }
  multiplyMany<Dot, Codes>(call);
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
    case WeightKind::kI4:
      if constexpr (Dot::kNibblePlanes == 1) return multiplyKind<Dot, WeightKind::kI4>(call);
      return;
    default:
      return multiplyKind<Dot, WeightKind::kU4>(call);
  }
}

// Whole numbers of a code book have 8 bits, and so only where those are no two products.
template <class Dot>
bool quadsPay(layout::WeightKind kind, Dtype, int64_t) {
  return layout::isInteger(kind) || (kind == layout::WeightKind::kI4 && Dot::kNibblePlanes == 1);
}

}  // namespace
}  // namespace tsq
