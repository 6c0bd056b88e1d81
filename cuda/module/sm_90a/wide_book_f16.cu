#include "cuda/module/sm_90a/only.h"

namespace tsq::cuda::w4a16 {

Variants wideBookF16() {
  static constexpr auto all = wideVariantsOf<Type::kF16, Kind::kBook4>();
  return all;
}

}  // namespace tsq::cuda::w4a16
