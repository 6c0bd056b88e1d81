#include "cuda/module/variants.h"

namespace tsq::cuda::w4a16 {

const Variants& variantsBF16() {
  static constexpr Variants all = variantsOf<Type::kBF16>();
  return all;
}

}  // namespace tsq::cuda::w4a16
