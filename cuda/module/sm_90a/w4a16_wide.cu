#include "cuda/module/variants.h"

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "Compile this file for sm_90a: for sm_90, the compiler knows no wgmma."
#endif

namespace tsq::cuda::w4a16 {

const WideVariants& wideVariantsF16() {
  static constexpr WideVariants all = wideVariantsOf<Type::kF16>();
  return all;
}
const WideVariants& wideVariantsBF16() {
  static constexpr WideVariants all = wideVariantsOf<Type::kBF16>();
  return all;
}

}  // namespace tsq::cuda::w4a16
