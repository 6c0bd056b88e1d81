#include "cuda/module/variants.h"

namespace tsq::cuda::w4a16 {

Variants w16F16() {
  static constexpr auto all = variantsOf<Type::kF16, Kind::kFloat16>();
  return all;
}

}  // namespace tsq::cuda::w4a16
