#include "cuda/module/w8a8.h"

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 890
#error "Compile this file for sm_89 and later: others have no products of e4m3."
#endif

namespace tsq::cuda::w8a8 {

const Variants& variantsE4M3() {
  static constexpr Variants all = variantsOf<Type::kE4M3>();
  return all;
}

}  // namespace tsq::cuda::w8a8
