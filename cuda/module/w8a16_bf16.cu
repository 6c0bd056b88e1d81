#include "cuda/module/variants.h"

namespace tsq::cuda::w4a16 {

Kernels w8BF16() {
  static constexpr auto few = variantsOf<Type::kBF16, Kind::kInt8, kSharedEverywhere>();
  return {few, {}};
}

}  // namespace tsq::cuda::w4a16
