#include "cuda/module/sm_90a/only.h"

namespace tsq::cuda::w4a16 {

Variants wideW16F16() {
  static constexpr auto all = wideVariantsOf<Type::kF16, Kind::kFloat16>();
  return all;
}

}  // namespace tsq::cuda::w4a16
