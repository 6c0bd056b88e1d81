#include "kernels/unfused.h"

#include <string>

#include "runtime/thread_pool.h"

namespace tsq {
namespace {

using layout::kPanel;
using layout::WeightKind;

float scaleAt(const PackedView& w, int64_t index) {
  if (w.scaleType == layout::ScaleType::kF16) return f16ToFloat(static_cast<const uint16_t*>(w.scales)[index]);
  if (w.scaleType == layout::ScaleType::kBF16) return bf16ToFloat(static_cast<const uint16_t*>(w.scales)[index]);
  return static_cast<const float*>(w.scales)[index];
}

// One panel. The innermost loops run over the 16 outputs, so that any compiler makes vectors of them.
template <int kBits>
void decodePanel(const PackedView& w, int64_t panel, float* out) {
  constexpr int kPerWord = 32 / kBits;
  const layout::Shape& shape = w.shape;
  const uint32_t* words = static_cast<const uint32_t*>(w.data) + panel * (layout::panelBytes(shape) / 4);
  const int64_t end = layout::packedK(shape);
  for (int64_t group = 0, p = 0; p < end; ++group) {
    float scales[kPanel], zeros[kPanel];
    const int64_t at = layout::scaleIndex(shape, panel * kPanel, group);
    for (int j = 0; j < kPanel; ++j) {
      scales[j] = scaleAt(w, at + j);
      zeros[j] = static_cast<float>(w.zeros != nullptr ? w.zeros[at + j] : w.zero);
    }
    const int64_t next = (group + 1) * layout::groupStride(shape);
    for (; p < end && p < next; p += kPerWord, words += kPanel) {
      for (int i = 0; i < kPerWord; ++i, out += kPanel) {
        for (int j = 0; j < kPanel; ++j) {
          const auto code = static_cast<int32_t>(words[j] >> (i * kBits) & ((1u << kBits) - 1));
          out[j] = scales[j] * (static_cast<float>(code) - zeros[j]);
        }
      }
    }
  }
}

}  // namespace

Status decodePacked(const PackedWeight& codes, const PackedWeight& dense) {
  const layout::Shape &from = codes.shape, &to = dense.shape;
  if (to.kind != WeightKind::kF32 || from.n != to.n || from.k != to.k) {
    return {Code::kShape, "decodePacked: the target is [" + std::to_string(to.n) + ", " + std::to_string(to.k) +
                              "], expected an f32 pack [" + std::to_string(from.n) + ", " + std::to_string(from.k) +
                              "]"};
  }
  const bool known = from.kind == WeightKind::kU2 || from.kind == WeightKind::kU4 || from.kind == WeightKind::kU8;
  if (!known || !codes.order.empty() || !codes.inputScale.empty() || codes.offsets ||
      layout::packedK(from) != layout::packedK(to)) {
    return {Code::kUnsupported,
            "decodePacked: expected codes of 2, 4 or 8 bits in whole groups of 8 or more columns, in their own order "
            "and without input scales or offsets"};
  }
  const PackedView view = codes.view();
  ThreadPool::instance().run(layout::panels(from), [&](int64_t panel, int) {
    float* out = dense.data.as<float>() + panel * layout::packedK(to) * kPanel;
    if (from.kind == WeightKind::kU2) decodePanel<2>(view, panel, out);
    if (from.kind == WeightKind::kU4) decodePanel<4>(view, panel, out);
    if (from.kind == WeightKind::kU8) decodePanel<8>(view, panel, out);
  });
  return {};
}

}  // namespace tsq
