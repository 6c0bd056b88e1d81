#include "cuda/module/sm_90a/only.h"

namespace tsq::cuda::w4a16 {

Kernels hopperW8BF16() {
  static constexpr auto few = variantsOf<Type::kBF16, Kind::kInt8, kSharedHopper>();
  static constexpr auto many = wideVariantsOf<Type::kBF16, Kind::kInt8>();
  return {few, many};
}

}  // namespace tsq::cuda::w4a16
