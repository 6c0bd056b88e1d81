// Exact products of few rows on AVX-512 VNNI.
#include "kernels/avx512/words.h"

namespace tsq {
namespace {

constexpr int kDigitRows = 2;
constexpr bool kByteCodes = true;

TSQ_INLINE Words dotQuads(Words sum, Words codes, Words x) {
  return _mm512_dpbusd_epi32(sum, codes, x);
}

}  // namespace
}  // namespace tsq

#include "kernels/generic/digit_sums.h"
#include "kernels/generic/digits.h"
#include "kernels/tables.h"

namespace tsq {

const DotKernel kAvx512VnniDigits = {digitsPay, splitDigits, multiplyDigits, digitScratch, digitsNeeded};

}  // namespace tsq
