// One row of a packed weight back to f32: an embedding lookup.
#include "kernels/packed_weight.h"

namespace tsq {
namespace {

using layout::Shape;
using layout::WeightKind;

template <typename Value>
void unpack(const PackedWeight& weight, float* out, Value value) {
  const Shape& shape = weight.shape;
  const int64_t stride = layout::groupStride(shape);
  const int32_t* order = weight.order.empty() ? nullptr : weight.order.data();
  const float* scale = weight.inputScale.empty() ? nullptr : weight.inputScale.data();
  int64_t column = 0;
  for (int64_t group = 0; column < shape.k; ++group) {
    const int64_t end = column + shape.groupSize < shape.k ? column + shape.groupSize : shape.k;
    for (int64_t p = group * stride; column < end; ++column, ++p) {
      const int64_t target = order != nullptr ? order[column] : column;
      const float plain = value(group, p);
      out[target] = scale != nullptr ? plain * scale[target] : plain;
    }
  }
}

}  // namespace

void unpackRow(const PackedWeight& weight, int64_t n, float* out) {
  const Shape& shape = weight.shape;
  const int64_t first = layout::isInteger(shape.kind) ? layout::codeWord(shape, n, 0) : layout::element(shape, n, 0);
  switch (shape.kind) {
    case WeightKind::kF32: {
      const float* data = weight.data.as<float>() + first;
      return unpack(weight, out, [&](int64_t, int64_t p) { return data[p * layout::kPanel]; });
    }
    case WeightKind::kF16: {
      const uint16_t* data = weight.data.as<uint16_t>() + first;
      return unpack(weight, out, [&](int64_t, int64_t p) { return f16ToFloat(data[p * layout::kPanel]); });
    }
    case WeightKind::kBF16: {
      const uint16_t* data = weight.data.as<uint16_t>() + first;
      return unpack(weight, out, [&](int64_t, int64_t p) { return bf16ToFloat(data[p * layout::kPanel]); });
    }
    case WeightKind::kU4:
    case WeightKind::kU8:
      break;
  }
  const uint32_t* data = weight.data.as<uint32_t>() + first;
  const float* scales = weight.scales.as<float>() + layout::scaleIndex(shape, n, 0);
  const float* zeros = weight.zeros.size() > 0 ? weight.zeros.as<float>() + layout::scaleIndex(shape, n, 0) : nullptr;
  const bool narrow = shape.kind == WeightKind::kU4;
  unpack(weight, out, [&](int64_t group, int64_t p) {
    const uint32_t word = data[(narrow ? p / 8 : p / 4) * layout::kPanel];
    const uint32_t code = word >> layout::codeShift(shape, p) & (narrow ? 15u : 255u);
    const float zero = zeros != nullptr ? zeros[group * layout::kPanel] : weight.zero;
    return scales[group * layout::kPanel] * (static_cast<float>(code) - zero);
  });
}

}  // namespace tsq
