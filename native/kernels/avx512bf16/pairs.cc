// Exact products on AVX-512 BF16: vdpbf16ps.
#include "kernels/avx512/words.h"

namespace tsq {
namespace {

TSQ_INLINE Lanes dotPairs(Lanes sum, Words weights, Words x) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(weights), reinterpret_cast<__m512bh>(x));
}

}  // namespace
}  // namespace tsq

#include "kernels/generic/pairs.h"
#include "kernels/tables.h"

namespace tsq {
namespace {

using Kernels = Pairs<8, 2, 4, 2>;

// One limb at any size; two for a few rows, where reading the weights takes longer than multiplying twice.
bool pairsPay(layout::WeightKind kind, Dtype x, int64_t rows) {
  constexpr int64_t kFewRows = 4;
  using layout::WeightKind;
  const bool known = kind == WeightKind::kBF16 || kind == WeightKind::kI4 || layout::isSmallFloat(kind);
  if (!known && !layout::isInteger(kind)) return false;
  return x == Dtype::kBF16 || (x == Dtype::kF16 && rows <= kFewRows);
}

}  // namespace

const DotKernel kAvx512Bf16Pairs = {pairsPay, splitPairs, multiplyPairs<Kernels>, dotScratchBytes<Kernels>};

}  // namespace tsq
