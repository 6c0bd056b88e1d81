#include "cuda/module/variants.h"

namespace tsq::cuda::w4a16 {

Variants w8BF16() {
  static constexpr auto all = variantsOf<Type::kBF16, Kind::kInt8>();
  return all;
}

}  // namespace tsq::cuda::w4a16
