// The compiled W4A16 kernels of each type, one file each: they compile side by side.
#pragma once
#include "cuda/w4a16/variants.cuh"

namespace tsq::cuda::w4a16 {

const Variants& variantsF16();
const Variants& variantsBF16();

}  // namespace tsq::cuda::w4a16
