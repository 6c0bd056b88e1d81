#include "cuda/module/w8a8.h"

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "Compile this file for sm_90a: for sm_90, the compiler knows no wgmma."
#endif

namespace tsq::cuda::w8a8 {

const Variants& wideVariantsS8() {
  static constexpr Variants all = wideVariantsOf<Type::kS8>();
  return all;
}
const Variants& wideVariantsE4M3() {
  static constexpr Variants all = wideVariantsOf<Type::kE4M3>();
  return all;
}

}  // namespace tsq::cuda::w8a8
