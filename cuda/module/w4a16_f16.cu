#include "cuda/module/variants.h"

namespace tsq::cuda::w4a16 {

const Variants& variantsF16() {
  static constexpr Variants all = variantsOf<Type::kF16>();
  return all;
}

}  // namespace tsq::cuda::w4a16
