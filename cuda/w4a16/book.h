// Code books as the kernels take them, on the host.
#pragma once
#include <algorithm>
#include <cmath>

#include "cuda/w4a16/layout.cuh"

namespace tsq::cuda::w4a16 {

// What products multiply for a code: its value in the type, times the book's scale.
template <Type kType>
double bookValue(const Book& book, int code) {
  const int shift = code % 4 * 8;
  const uint32_t bits = (book.low[code / 4] >> shift & 0xff) | (book.high[code / 4] >> shift & 0xff) << 8;
  return double{toFloat<kType>(static_cast<uint16_t>(bits))} * book.scale;
}

// The largest relative error of a value in the book.
template <Type kType>
double bookError(const Book& book, const float (&values)[16]) {
  double worst = 0;
  for (int i = 0; i < 16; ++i) {
    if (values[i] != 0) worst = std::max(worst, std::abs(bookValue<kType>(book, i) / values[i] - 1));
  }
  return worst;
}

// Of finite values. Products take them in 16 bits, which rounds each by up to half a unit. But they may be multiplied
// by anything that the scale undoes in float32, and some factors bring all sixteen close to values of the type: none of
// NF4 is then off by more than 1.9e-4 in f16 (as it is: 3.3e-4) and 1.7e-3 in bf16 (3.2e-3), and FP4 is exact.
template <Type kType>
Book makeBook(const float (&values)[16]) {
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(value));
  int exponent;
  std::frexp(largest, &exponent);
  constexpr int kCandidates = 4096;  // from 1 to 2: powers of two change nothing
  double least = INFINITY;
  Book best{};
  for (int i = 0; i < kCandidates; ++i) {
    // The largest value becomes 2^13 to 2^15, so that few are subnormal in f16.
    const float factor = std::ldexp(1 + static_cast<float>(i) / kCandidates, 14 - exponent);
    Book book{};
    book.scale = 1 / factor;
    for (int j = 0; j < 16; ++j) {
      const uint32_t bits = fromFloat<kType>(values[j] * factor);
      book.low[j / 4] |= (bits & 0xff) << j % 4 * 8;
      book.high[j / 4] |= bits >> 8 << j % 4 * 8;
    }
    const double error = bookError<kType>(book, values);
    if (error < least) {
      least = error;
      best = book;
    }
  }
  return best;
}

}  // namespace tsq::cuda::w4a16
