// Exact products of few rows in fixed point on AVX2, by maddubs.
#include "kernels/avx2/words.h"

namespace tsq {
namespace {

constexpr int kDigitRows = 1;
constexpr int kDigitRegisters = 0;  // sums of one panel fill them

// Products of two codes below 16 with two digits are at most 3840: eight of them fit 16 bits.
struct DigitSum {
  static constexpr int64_t kRunTerms = 8;
  static constexpr bool kTakesBytes = false;
  Words total, halves;

  TSQ_METHOD void start(Words first) {
    total = first;
    halves = zeroWords();
  }
  TSQ_METHOD void add(Words codes, Words x) { halves = addHalves(halves, byteProducts(codes, x)); }
  TSQ_METHOD void flush() {
    total = addWords(total, halfProducts(halves, everyWord(0x00010001)));
    halves = zeroWords();
  }
};

}  // namespace
}  // namespace tsq

#include "kernels/generic/digits.h"
#include "kernels/tables.h"

namespace tsq {
namespace {

// 8-bit codes do not fit 16 bits.
bool narrowDigitsPay(layout::WeightKind kind, Dtype x, int64_t rows) {
  return kind != layout::WeightKind::kU8 && digitsPay(kind, x, rows);
}

}  // namespace

const DotKernel kAvx2Digits = {narrowDigitsPay, splitDigits, multiplyDigits, digitScratch, digitsNeeded};

}  // namespace tsq
