#include "cuda/module/variants.h"

namespace tsq::cuda::w4a16 {

Kernels w16F16() {
  static constexpr auto few = variantsOf<Type::kF16, Kind::kFloat16, kSharedEverywhere>();
  return {few, {}};
}

}  // namespace tsq::cuda::w4a16
