#include "cuda/module/sm_90a/only.h"

namespace tsq::cuda::w4a16 {

Variants wideW4BF16() {
  static constexpr auto all = wideVariantsOf<Type::kBF16, Kind::kInt4>();
  return all;
}

}  // namespace tsq::cuda::w4a16
