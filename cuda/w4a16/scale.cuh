// Columns of activations by a factor each: what a weight with an input scale is multiplied with.
#pragma once
#include "cuda/device.cuh"

namespace tsq::cuda::w4a16 {

constexpr int kScaleThreads = 256;

struct ScaleColumns {
  Global<const uint16_t> x;     // [m][k]
  Global<const float> factors;  // [k]
  Global<uint16_t> to;          // [m][k], rounded once
  int64_t m, k;
  bool isBF16;
};

TSQ_KERNEL(kScaleThreads) scaleColumns(ScaleColumns p) {
  const int64_t stride = int64_t{blockCount()} * kScaleThreads, step = stride % p.k;
  int64_t i = int64_t{blockIndex()} * kScaleThreads + threadIndex(), column = i % p.k;
  for (; i < p.m * p.k; i += stride) {
    const uint16_t bits = load(p.x + i);
    const float factor = load(p.factors + column);
    store(p.to + i, p.isBF16 ? fromFloat<Type::kBF16>(toFloat<Type::kBF16>(bits) * factor)
                             : fromFloat<Type::kF16>(toFloat<Type::kF16>(bits) * factor));
    column += step;
    if (column >= p.k) column -= p.k;
  }
}

}  // namespace tsq::cuda::w4a16
