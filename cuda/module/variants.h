// The compiled kernels, by type and kind of weights, a file each: they compile side by side.
#pragma once
#include "cuda/w4a16/variants_wide.cuh"

namespace tsq::cuda::w4a16 {

Variants w4F16();
Variants w4BF16();
Variants bookF16();
Variants bookBF16();
Variants w8F16();
Variants w8BF16();
Variants w16F16();
Variants w16BF16();
// For devices of compute capability 9.0 alone.
Variants wideW4F16();
Variants wideW4BF16();
Variants wideBookF16();
Variants wideBookBF16();
Variants wideW8F16();
Variants wideW8BF16();
Variants wideW16F16();
Variants wideW16BF16();

inline Variants compiled(bool bf16, Kind kind) {
  if (kind == Kind::kInt4) return bf16 ? w4BF16() : w4F16();
  if (kind == Kind::kBook4) return bf16 ? bookBF16() : bookF16();
  if (kind == Kind::kInt8) return bf16 ? w8BF16() : w8F16();
  return bf16 ? w16BF16() : w16F16();
}
inline Variants compiledWide(bool bf16, Kind kind) {
  if (kind == Kind::kInt4) return bf16 ? wideW4BF16() : wideW4F16();
  if (kind == Kind::kBook4) return bf16 ? wideBookBF16() : wideBookF16();
  if (kind == Kind::kInt8) return bf16 ? wideW8BF16() : wideW8F16();
  return bf16 ? wideW16BF16() : wideW16F16();
}

}  // namespace tsq::cuda::w4a16
