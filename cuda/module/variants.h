// The compiled kernels, by type and kind of weights, a file each: they compile side by side.
#pragma once
#include "cuda/w4a16/variants_wide.cuh"

namespace tsq::cuda::w4a16 {

Kernels w4F16();
Kernels w4BF16();
Kernels bookF16();
Kernels bookBF16();
Kernels w8F16();
Kernels w8BF16();
Kernels w16F16();
Kernels w16BF16();
// For devices of compute capability 9.0 alone.
Kernels hopperW4F16();
Kernels hopperW4BF16();
Kernels hopperBookF16();
Kernels hopperBookBF16();
Kernels hopperW8F16();
Kernels hopperW8BF16();
Kernels hopperW16F16();
Kernels hopperW16BF16();

inline Kernels compiled(bool bf16, Kind kind, bool hopper) {
  if (hopper) {
    if (kind == Kind::kInt4) return bf16 ? hopperW4BF16() : hopperW4F16();
    if (kind == Kind::kBook4) return bf16 ? hopperBookBF16() : hopperBookF16();
    if (kind == Kind::kInt8) return bf16 ? hopperW8BF16() : hopperW8F16();
    return bf16 ? hopperW16BF16() : hopperW16F16();
  }
  if (kind == Kind::kInt4) return bf16 ? w4BF16() : w4F16();
  if (kind == Kind::kBook4) return bf16 ? bookBF16() : bookF16();
  if (kind == Kind::kInt8) return bf16 ? w8BF16() : w8F16();
  return bf16 ? w16BF16() : w16F16();
}

}  // namespace tsq::cuda::w4a16
