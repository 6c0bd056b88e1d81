// The packing of pack.cuh on the host.
#pragma once
#include <span>
#include <vector>

#include "cuda/w4a16/layout.cuh"

namespace tsq::cuda::w4a16 {

// codes[n][k], of 16 bits where weights are; order as in PackCodes, or empty.
template <typename Code>
std::vector<Words> packCodesOnHost(const Shape& shape, const std::vector<Code>& codes, std::span<const int32_t> order) {
  std::vector<Words> packed(static_cast<size_t>(shape.weightWords()));
  const auto code = [&](int64_t n, int64_t k) -> uint32_t {
    if (n >= shape.n || k >= shape.k) return 0;
    const int64_t column = order.empty() ? k : order[static_cast<size_t>(k)];
    return codes[static_cast<size_t>(n * shape.k + column)];
  };
  for (size_t i = 0; i < packed.size(); ++i) {
    for (int j = 0; j < 4; ++j) packed[i].v[j] = packWord(shape, static_cast<int64_t>(i), j, code);
  }
  return packed;
}

// Scales, or zero points as f16: values[n][ceil(k / group)].
inline std::vector<uint16_t> packScalesOnHost(const Shape& shape, std::span<const uint16_t> values) {
  const int64_t groups = (shape.k + shape.groupK() - 1) / shape.groupK();
  std::vector<uint16_t> packed(static_cast<size_t>(shape.scaleWords() * 8));
  for (size_t i = 0; i < packed.size(); ++i) {
    const ScalePlace place = scalePlace(shape, static_cast<int64_t>(i));
    if (place.n < shape.n && place.group < groups)
      packed[i] = values[static_cast<size_t>(place.n * groups + place.group)];
  }
  return packed;
}

}  // namespace tsq::cuda::w4a16
