#include "cuda/module/w8a8.h"

namespace tsq::cuda::w8a8 {

const Variants& variantsS8() {
  static constexpr Variants all = variantsOf<Type::kS8>();
  return all;
}

}  // namespace tsq::cuda::w8a8
