#include "cuda/module/sm_90a/only.h"

namespace tsq::cuda::w4a16 {

Kernels hopperW4F16() {
  static constexpr auto few = variantsOf<Type::kF16, Kind::kInt4, kSharedHopper>();
  static constexpr auto many = wideVariantsOf<Type::kF16, Kind::kInt4>();
  return {few, many};
}

}  // namespace tsq::cuda::w4a16
