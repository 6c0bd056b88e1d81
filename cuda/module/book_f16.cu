#include "cuda/module/variants.h"

namespace tsq::cuda::w4a16 {

Variants bookF16() {
  static constexpr auto all = variantsOf<Type::kF16, Kind::kBook4>();
  return all;
}

}  // namespace tsq::cuda::w4a16
