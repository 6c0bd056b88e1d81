// y = x W^T + bias, one output at a time, accumulated in double.
#include <algorithm>
#include <vector>

#include "kernels/reference/reference.h"

namespace tsq::reference {

int32_t codeAt(const PackedView& w, int64_t n, int64_t p) {
  const layout::Shape& s = w.shape;
  const uint32_t* words = static_cast<const uint32_t*>(w.data);
  const uint32_t shifted = words[layout::codeWord(s, n, p)] >> layout::codeShift(s, p);
  if (s.kind != layout::WeightKind::kU3) return static_cast<int32_t>(shifted & ((1u << layout::codeBits(s.kind)) - 1));
  const uint32_t top = words[layout::topWord(s, n, p)] >> layout::topShift(p) & 1;
  return static_cast<int32_t>((shifted & 3) | top << 2);
}

int32_t zeroAt(const PackedView& w, int64_t n, int64_t group) {
  return w.zeros != nullptr ? w.zeros[layout::scaleIndex(w.shape, n, group)] : w.zero;
}

double scaleAt(const PackedView& w, int64_t n, int64_t group) {
  const int64_t at = layout::scaleIndex(w.shape, n, group);
  switch (w.scaleType) {
    case layout::ScaleType::kF16:
      return f16ToFloat(static_cast<const uint16_t*>(w.scales)[at]);
    case layout::ScaleType::kBF16:
      return bf16ToFloat(static_cast<const uint16_t*>(w.scales)[at]);
    default:
      return static_cast<const float*>(w.scales)[at];
  }
}

double weightAt(const PackedView& w, int64_t n, int64_t p) {
  const layout::Shape& s = w.shape;
  switch (s.kind) {
    case layout::WeightKind::kF32:
      return static_cast<const float*>(w.data)[layout::element(s, n, p)];
    case layout::WeightKind::kF16:
      return f16ToFloat(static_cast<const uint16_t*>(w.data)[layout::element(s, n, p)]);
    case layout::WeightKind::kBF16:
      return bf16ToFloat(static_cast<const uint16_t*>(w.data)[layout::element(s, n, p)]);
    default:
      break;
  }
  const int64_t group = p / layout::groupStride(s);
  if (layout::hasBook(s.kind)) return scaleAt(w, n, group) * w.book[codeAt(w, n, p)];
  if (layout::isSmallFloat(s.kind)) {
    const uint8_t bits = static_cast<const uint8_t*>(w.data)[layout::element(s, n, p)];
    return scaleAt(w, n, group) * (s.kind == layout::WeightKind::kE4M3 ? e4m3ToFloat(bits) : e5m2ToFloat(bits));
  }
  return scaleAt(w, n, group) * (codeAt(w, n, p) - zeroAt(w, n, group));
}

void linear(const PackedView& w, const float* x, int64_t ldx, int64_t m, float* y, int64_t ldy, const float* bias,
            int64_t panelBegin, int64_t panelEnd, float*) {
  const int64_t width = layout::packedK(w.shape);
  const int64_t end = std::min(panelEnd * layout::kPanel, w.shape.n);
  std::vector<double> weights(static_cast<size_t>(width));
  for (int64_t n = panelBegin * layout::kPanel; n < end; ++n) {
    for (int64_t p = 0; p < width; ++p) weights[p] = weightAt(w, n, p);
    for (int64_t row = 0; row < m; ++row) {
      double sum = 0;
      for (int64_t p = 0; p < width; ++p) sum += x[row * ldx + p] * weights[p];
      y[row * ldy + n] = static_cast<float>(bias != nullptr ? sum + bias[n] : sum);
    }
  }
}

}  // namespace tsq::reference
