#include "cuda/module/sm_90a/only.h"

namespace tsq::cuda::w4a16 {

Variants wideW8BF16() {
  static constexpr auto all = wideVariantsOf<Type::kBF16, Kind::kInt8>();
  return all;
}

}  // namespace tsq::cuda::w4a16
