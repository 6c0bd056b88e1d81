// The compiled W4A16 kernels of each type, one file each: they compile side by side.
#pragma once
#include "cuda/w4a16/variants_wide.cuh"

namespace tsq::cuda::w4a16 {

const Variants& variantsF16();
const Variants& variantsBF16();
// For devices of compute capability 9.0 alone.
const WideVariants& wideVariantsF16();
const WideVariants& wideVariantsBF16();

}  // namespace tsq::cuda::w4a16
