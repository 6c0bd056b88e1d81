// Exact products of few rows in fixed point, by SDOT.
#include "kernels/neon/words.h"

namespace tsq {
namespace {

constexpr int kDigitRows = 2;
constexpr bool kByteCodes = false;
constexpr int kDigitRegisters = 0;  // sums of one panel fill them

TSQ_INLINE uint32x4_t dotQuads4(uint32x4_t sum, uint32x4_t codes, uint32x4_t x) {
  return vreinterpretq_u32_s32(
      vdotq_s32(vreinterpretq_s32_u32(sum), vreinterpretq_s8_u32(codes), vreinterpretq_s8_u32(x)));
}
// SDOT reads codes as signed: below 128 that makes no difference, and no others come.
TSQ_INLINE Words dotQuads(Words sum, Words codes, Words x) {
  return {dotQuads4(sum.a, codes.a, x.a), dotQuads4(sum.b, codes.b, x.b), dotQuads4(sum.c, codes.c, x.c),
          dotQuads4(sum.d, codes.d, x.d)};
}

}  // namespace
}  // namespace tsq

#include "kernels/generic/digit_sums.h"
#include "kernels/generic/digits.h"
#include "kernels/tables.h"

namespace tsq {
namespace {

// Two rows of f32 have more digits than there are registers for their sums.
bool shortDigitsPay(layout::WeightKind kind, Dtype x, int64_t rows) {
  return kind != layout::WeightKind::kU8 && digitsPay(kind, x, rows) && (rows == 1 || x != Dtype::kF32);
}

}  // namespace

const DotKernel kNeonDotprodDigits = {shortDigitsPay, splitDigits, multiplyDigits, digitScratch, digitsNeeded};

}  // namespace tsq
