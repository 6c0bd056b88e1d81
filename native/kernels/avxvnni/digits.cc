// Exact products of few rows in fixed point on AVX-VNNI.
#include "kernels/avx2/words.h"

namespace tsq {
namespace {

constexpr int kDigitRows = 2;
constexpr bool kByteCodes = true;
constexpr int kDigitRegisters = 0;  // sums of one panel fill them

TSQ_INLINE Words dotQuads(Words sum, Words codes, Words x) {
  __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum.lo) : "x"(codes.lo), "x"(x.lo));
  __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum.hi) : "x"(codes.hi), "x"(x.hi));
  return sum;
}

}  // namespace
}  // namespace tsq

#include "kernels/generic/digit_sums.h"
#include "kernels/generic/digits.h"
#include "kernels/tables.h"

namespace tsq {

const DotKernel kAvxVnniDigits = {digitsPay, splitDigits, multiplyDigits, digitScratch, digitsNeeded};

}  // namespace tsq
