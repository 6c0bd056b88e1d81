// How ggml's encoders choose scales: each routine fits the numbers of one group (at most 32) and leaves the codes of
// its best fit. All arithmetic is float32 in ggml's order (src/ggml-quants.c, named at each routine), so that blocks
// agree bit for bit.
#pragma once
#include <cmath>
#include <cstdint>

#include "runtime/scalar.h"

namespace tsq::gguf {

constexpr int kMaxGroup = 32;
// Groups below this are written as zeros.
constexpr float kLeastMagnitude = 1e-15f;

// Nearest integer, ties to even, for |x| < 2^22; some integer of that size for anything else (NaN included).
TSQ_INLINE int nearest(float x) {
  return static_cast<int>(floatToBits(x + 12582912.f) & 0x007fffffu) - 0x00400000;
}

TSQ_INLINE int clampTo(int value, int low, int high) {
  return value < low ? low : value > high ? high : value;
}

// Index and value of the element of largest magnitude, the first of equals.
struct Peak {
  float magnitude = 0, value = 0;
};
inline Peak peakOf(const float* x, int n) {
  Peak peak;
  for (int i = 0; i < n; ++i)
    if (std::fabs(x[i]) > peak.magnitude) peak = {std::fabs(x[i]), x[i]};
  return peak;
}

struct MinMaxFit {
  float scale, min;  // x ~ scale * code - min, both at least 0
};
struct MinMaxSearch {
  int top;  // largest code
  float first, step;
  int steps;
  bool absolute;  // error |e| in place of e^2
};
MinMaxFit fitMinMax(const float* x, int n, const float* w, const MinMaxSearch& search, uint8_t* codes);

// x ~ scale * (code - top) with codes 0 … 2 top - 1; weights x^2 where w is null.
float fitSigned(const float* x, int n, int top, const float* w, uint8_t* codes);

// The same with weights x^2, improved by moving one code at a time.
float fitSignedByMoves(const float* x, int n, int top, uint8_t* codes);

// x ~ scale * code with codes 0 … top for x >= 0.
float fitPositive(const float* x, int n, int top, const float* w, uint8_t* codes);

}  // namespace tsq::gguf
