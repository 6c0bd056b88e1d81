// Sums, maxima, norms, statistics. Include after an instruction set's simd.h.
//
// Long sums run in blocks of kBlock elements: four f32 chains of 16 lanes within a block, double between blocks.
#pragma once

#include "kernels/generic/elementwise.h"

namespace tsq {
namespace {

constexpr int64_t kBlock = 4096;

// sum_i term(i, count), where term gives 16 lanes for elements i … and zeros beyond `count` remaining ones.
template <typename Term>
TSQ_INLINE double blockedSum(int64_t count, Term term) {
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = begin + kBlock < count ? begin + kBlock : count;
    Lanes a = zeros(), b = zeros(), c = zeros(), d = zeros();
    int64_t i = begin;
    for (; i + 64 <= end; i += 64) {
      a = term(a, i, 16);
      b = term(b, i + 16, 16);
      c = term(c, i + 32, 16);
      d = term(d, i + 48, 16);
    }
    for (; i < end; i += 16) a = term(a, i, end - i);
    total += sum(add(add(a, b), add(c, d)));
  }
  return total;
}

void rmsnorm(const float* x, const float* weight, float* y, int64_t width, float eps, float offset) {
  const double squares = blockedSum(
      width, [x](Lanes acc, int64_t i, int64_t count) __attribute__((always_inline)) {
        const Lanes value = loadSome(x + i, count);
        return fma(value, value, acc);
      });
  const float mean = static_cast<float>(squares / static_cast<double>(width) + static_cast<double>(eps));
  const Lanes inverse = div(set1(1.0f), sqrt(set1(mean)));
  for (int64_t i = 0; i < width; i += 16) {
    const Lanes gain = add(set1(offset), loadSome(weight + i, width - i));
    storeSome(y + i, mul(mul(loadSome(x + i, width - i), inverse), gain), width - i);
  }
}

// What differs from the mean, 0 beyond the row.
TSQ_INLINE Lanes centred(const float* x, Lanes mean, int64_t count) {
  const Lanes value = sub(loadSome(x, count), mean);
  if (count >= 16) return value;
  alignas(64) float lanes[16];
  store(lanes, value);
  return loadPartial(lanes, count);
}

// A sum of values far from zero is not exact enough for their mean: what differs from it is summed again, beside its
// squares, and is small.
void layernorm(const float* x, const float* weight, const float* bias, float* y, int64_t width, float eps) {
  const double total = blockedSum(
      width, [x](Lanes acc, int64_t i, int64_t count)
                 __attribute__((always_inline)) { return add(acc, loadSome(x + i, count)); });
  const Lanes mean = set1(static_cast<float>(total / static_cast<double>(width)));
  const double differences = blockedSum(
      width, [ x, mean ](Lanes acc, int64_t i, int64_t count)
                 __attribute__((always_inline)) { return add(acc, centred(x + i, mean, count)); });
  const double squares = blockedSum(
      width, [ x, mean ](Lanes acc, int64_t i, int64_t count) __attribute__((always_inline)) {
        const Lanes value = centred(x + i, mean, count);
        return fma(value, value, acc);
      });
  const double rest = differences / static_cast<double>(width);
  const double variance = squares / static_cast<double>(width) - rest * rest;
  const float spread = static_cast<float>((variance > 0 ? variance : 0) + static_cast<double>(eps));
  const Lanes inverse = div(set1(1.0f), sqrt(set1(spread))), remainder = set1(static_cast<float>(rest));
  for (int64_t i = 0; i < width; i += 16) {
    const int64_t left = width - i;
    const Lanes scaled = mul(sub(sub(loadSome(x + i, left), mean), remainder), inverse);
    const Lanes gain = loadSome(weight + i, left);
    storeSome(y + i, bias == nullptr ? mul(scaled, gain) : fma(scaled, gain, loadSome(bias + i, left)), left);
  }
}

float dot(const float* a, const float* b, int64_t count) {
  return static_cast<float>(blockedSum(
      count, [ a, b ](Lanes acc, int64_t i, int64_t left)
                 __attribute__((always_inline)) { return fma(loadSome(a + i, left), loadSome(b + i, left), acc); }));
}

float maximum(const float* x, int64_t count) {
  const float lowest = -__builtin_inff();
  Lanes best = set1(lowest);
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) best = max(best, load(x + i));
  if (i < count) best = max(best, loadPartial(x + i, count - i, lowest));
  return largest(best);
}

double expSum(const float* x, float shift, float* y, int64_t count) {
  const Lanes base = set1(shift);
  return blockedSum(
      count, [ x, y, base ](Lanes acc, int64_t i, int64_t left) __attribute__((always_inline)) {
        if (left >= 16) {
          const Lanes value = exp(sub(load(x + i), base));
          store(y + i, value);
          return add(acc, value);
        }
        storePartial(y + i, exp(sub(loadPartial(x + i, left), base)), left);
        return add(acc, loadPartial(y + i, left));
      });
}

// Tiles of a Gram matrix, `Rows` rows of `Panels` tiles side by side at a time; chains of at most 256 rows. Four rows
// of the operands make an iteration: counters and branches take the ports of the multiply-adds.
template <int Rows, int Panels>
TSQ_INLINE void gramTiles(const float* a, const float* const (&b)[Panels], int64_t rows, float* const (&c)[Panels],
                          int64_t ldc) {
  for (int64_t begin = 0; begin < rows; begin += 256) {
    const int64_t end = begin + 256 < rows ? begin + 256 : rows;
    for (int first = 0; first < 16; first += Rows) {
      Lanes sums[Rows][Panels];
#pragma GCC unroll 16
      for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
        for (int p = 0; p < Panels; ++p) {
          sums[i][p] = zeros();
          prefetch(c[p] + (first + i) * ldc);  // wanted a few thousand cycles from here
        }
      }
#pragma GCC unroll 4
      for (int64_t r = begin; r < end; ++r) {
        Lanes row[Panels];
#pragma GCC unroll 2
        for (int p = 0; p < Panels; ++p) row[p] = load(b[p] + r * 16);
#pragma GCC unroll 16
        for (int i = 0; i < Rows; ++i) {
          const Lanes factor = set1(a[r * 16 + first + i]);
#pragma GCC unroll 2
          for (int p = 0; p < Panels; ++p) sums[i][p] = fma(row[p], factor, sums[i][p]);
        }
      }
#pragma GCC unroll 16
      for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
        for (int p = 0; p < Panels; ++p) {
          float* out = c[p] + (first + i) * ldc;
          store(out, add(load(out), sums[i][p]));
        }
      }
    }
  }
}

void gramTile(const float* a, const float* b, int64_t rows, float* c, int64_t ldc) {
  gramTiles<kGramRows, 1>(a, {b}, rows, {c}, ldc);
}

template <int Rows>
TSQ_INLINE void gramPairs(const float* a, const float* b0, const float* b1, int64_t rows, float* c0, float* c1,
                          int64_t ldc) {
  if constexpr (Rows > 0) {
    gramTiles<Rows, 2>(a, {b0, b1}, rows, {c0, c1}, ldc);
  } else {
    gramTile(a, b0, rows, c0, ldc);
    gramTile(a, b1, rows, c1, ldc);
  }
}

void gramPair(const float* a, const float* b0, const float* b1, int64_t rows, float* c0, float* c1, int64_t ldc) {
  gramPairs<kGramPairRows>(a, b0, b1, rows, c0, c1, ldc);
}

// Two vectors of columns at a time: a whole cache line pair of every row.
void columnStats(const float* x, int64_t ld, int64_t rows, int64_t columns, float* sums, float* peaks) {
  for (int64_t j = 0; j < columns; j += 32) {
    const int64_t left = columns - j < 16 ? columns - j : 16, right = columns - j - 16;
    Lanes peak0 = zeros(), peak1 = zeros();
    for (int64_t begin = 0; begin < rows; begin += 256) {
      const int64_t end = begin + 256 < rows ? begin + 256 : rows;
      Lanes sum0 = zeros(), sum1 = zeros();
      for (int64_t r = begin; r < end; ++r) {
        const Lanes value0 = loadSome(x + r * ld + j, left);
        sum0 = fma(value0, value0, sum0);
        peak0 = max(peak0, abs(value0));
        if (right > 0) {
          const Lanes value1 = loadSome(x + r * ld + j + 16, right);
          sum1 = fma(value1, value1, sum1);
          peak1 = max(peak1, abs(value1));
        }
      }
      if (sums == nullptr) continue;
      storeSome(sums + j, add(loadSome(sums + j, left), sum0), left);
      if (right > 0) storeSome(sums + j + 16, add(loadSome(sums + j + 16, right), sum1), right);
    }
    if (peaks == nullptr) continue;
    storeSome(peaks + j, max(loadSome(peaks + j, left), peak0), left);
    if (right > 0) storeSome(peaks + j + 16, max(loadSome(peaks + j + 16, right), peak1), right);
  }
}

}  // namespace
}  // namespace tsq
