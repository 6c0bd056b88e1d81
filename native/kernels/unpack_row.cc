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

float scaleAt(const PackedWeight& weight, int64_t index) {
  if (weight.scaleType == layout::ScaleType::kF16) return f16ToFloat(weight.scales.as<uint16_t>()[index]);
  if (weight.scaleType == layout::ScaleType::kBF16) return bf16ToFloat(weight.scales.as<uint16_t>()[index]);
  return weight.scales.as<float>()[index];
}

// Places in packed memory are divisions by constants once the kind is one.
template <WeightKind kKind>
void unpackCodes(const PackedWeight& weight, int64_t n, float* out) {
  Shape shape = weight.shape;
  shape.kind = kKind;
  const uint32_t* words = weight.data.as<uint32_t>();
  const int64_t at = layout::scaleIndex(shape, n, 0);
  const uint8_t* zeros = weight.zeros.size() > 0 ? weight.zeros.as<uint8_t>() + at : nullptr;
  const auto scale = [&, at](int64_t group) { return scaleAt(weight, at + group * layout::kPanel); };
  const PackedWeight* offsets = weight.offsets.get();
  const float* offset = offsets ? offsets->data.as<float>() + layout::element(offsets->shape, n, 0) : nullptr;
  unpack(weight, out, [&](int64_t group, int64_t p) {
    uint32_t code = words[layout::codeWord(shape, n, p)] >> layout::codeShift(shape, p);
    if constexpr (kKind == WeightKind::kU3) {
      code = (code & 3) | (words[layout::topWord(shape, n, p)] >> layout::topShift(p) & 1) << 2;
    } else {
      code &= (1u << layout::codeBits(kKind)) - 1;
    }
    if constexpr (layout::hasBook(kKind)) return scale(group) * weight.book[code];
    const int32_t zero = zeros != nullptr ? zeros[group * layout::kPanel] : weight.zero;
    const float value = scale(group) * static_cast<float>(static_cast<int32_t>(code) - zero);
    return offset != nullptr ? value + offset[group * layout::kPanel] : value;
  });
}

void unpackSmallFloats(const PackedWeight& weight, int64_t n, float* out) {
  const uint8_t* data = weight.data.as<uint8_t>() + layout::element(weight.shape, n, 0);
  const int64_t at = layout::scaleIndex(weight.shape, n, 0);
  const bool e4m3 = weight.shape.kind == WeightKind::kE4M3;
  unpack(weight, out, [&](int64_t group, int64_t p) {
    const uint8_t bits = data[p * layout::kPanel];
    return scaleAt(weight, at + group * layout::kPanel) * (e4m3 ? e4m3ToFloat(bits) : e5m2ToFloat(bits));
  });
}

}  // namespace

void unpackRow(const PackedWeight& weight, int64_t n, float* out) {
  const Shape& shape = weight.shape;
  const int64_t first = layout::element(shape, n, 0);  // of float kinds
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
    case WeightKind::kU8:
      return unpackCodes<WeightKind::kU8>(weight, n, out);
    case WeightKind::kU4:
      return unpackCodes<WeightKind::kU4>(weight, n, out);
    case WeightKind::kU3:
      return unpackCodes<WeightKind::kU3>(weight, n, out);
    case WeightKind::kU2:
      return unpackCodes<WeightKind::kU2>(weight, n, out);
    case WeightKind::kB4:
    case WeightKind::kI4:
      return unpackCodes<WeightKind::kB4>(weight, n, out);
    case WeightKind::kE4M3:
    case WeightKind::kE5M2:
      return unpackSmallFloats(weight, n, out);
  }
}

}  // namespace tsq
