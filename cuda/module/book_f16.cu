#include "cuda/module/variants.h"

namespace tsq::cuda::w4a16 {

Kernels bookF16() {
  static constexpr auto few = variantsOf<Type::kF16, Kind::kBook4, kSharedEverywhere>();
  return {few, {}};
}

}  // namespace tsq::cuda::w4a16
