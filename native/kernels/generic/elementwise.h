// Conversions, activations, rotary embedding. Include after an instruction set's simd.h.
#pragma once

#include "kernels/generic/math.h"
#include "kernels/kernels.h"

namespace tsq {
namespace {

TSQ_INLINE Lanes loadSome(const float* p, int64_t count) {
  return count >= 16 ? load(p) : loadPartial(p, count);
}
TSQ_INLINE void storeSome(float* p, Lanes x, int64_t count) {
  if (count >= 16) {
    store(p, x);
  } else {
    storePartial(p, x, count);
  }
}

template <bool kHalf>
TSQ_INLINE void widenAll(const uint8_t* source, float* out, int64_t count) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) store(out + i, kHalf ? loadHalf(source + 2 * i) : loadBfloat(source + 2 * i));
  if (i == count) return;
  uint8_t rest[32] = {};
  __builtin_memcpy(rest, source + 2 * i, static_cast<size_t>(count - i) * 2);
  storePartial(out + i, kHalf ? loadHalf(rest) : loadBfloat(rest), count - i);
}

template <bool kHalf>
TSQ_INLINE void storeNarrow(void* out, Lanes x) {
  if constexpr (kHalf) {
    storeHalf(out, x);
  } else {
    storeBfloat(out, x);
  }
}

template <bool kHalf>
TSQ_INLINE void narrowAll(const float* source, uint8_t* out, int64_t count) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) storeNarrow<kHalf>(out + 2 * i, load(source + i));
  if (i == count) return;
  uint8_t rest[32];
  storeNarrow<kHalf>(rest, loadPartial(source + i, count - i));
  __builtin_memcpy(out + 2 * i, rest, static_cast<size_t>(count - i) * 2);
}

void toFloat(const void* source, Dtype from, float* out, int64_t count) {
  const uint8_t* bytes = static_cast<const uint8_t*>(source);
  if (from == Dtype::kF16) return widenAll<true>(bytes, out, count);
  if (from == Dtype::kBF16) return widenAll<false>(bytes, out, count);
  if (count > 0) __builtin_memmove(out, source, static_cast<size_t>(count) * 4);
}

void fromFloat(const float* source, void* out, Dtype to, int64_t count) {
  uint8_t* bytes = static_cast<uint8_t*>(out);
  if (to == Dtype::kF16) return narrowAll<true>(source, bytes, count);
  if (to == Dtype::kBF16) return narrowAll<false>(source, bytes, count);
  if (count > 0) __builtin_memmove(out, source, static_cast<size_t>(count) * 4);
}

// y = f(gate) * up, or f(gate) alone.
template <typename Activation>
TSQ_INLINE void activate(const float* gate, const float* up, float* y, int64_t count, Activation f) {
  for (int64_t i = 0; i < count; i += 16) {
    const Lanes activated = f(loadSome(gate + i, count - i));
    storeSome(y + i, up == nullptr ? activated : mul(activated, loadSome(up + i, count - i)), count - i);
  }
}

void silu(const float* gate, const float* up, float* y, int64_t count) {
  activate(
      gate, up, y, count,
      [](Lanes g) __attribute__((always_inline)) { return div(g, add(set1(1.0f), exp(sub(zeros(), g)))); });
}

// 0.5 g (1 + tanh u) = g / (1 + e^-2u) with u = sqrt(2 / pi) (g + 0.044715 g^3): no cancellation for negative g.
void geluTanh(const float* gate, const float* up, float* y, int64_t count) {
  activate(
      gate, up, y, count, [](Lanes g) __attribute__((always_inline)) {
        const Lanes u = mul(g, fma(mul(g, g), set1(0.0713548163f), set1(1.59576912f)));  // 2 u
        return div(g, add(set1(1.0f), exp(sub(zeros(), u))));
      });
}

// g Phi(g): Phi(-x) = erfc(z) / 2 for x >= 0, z = x / sqrt 2, Phi(x) = 1 - Phi(-x): no cancellation for negative g.
void geluErf(const float* gate, const float* up, float* y, int64_t count) {
  activate(
      gate, up, y, count, [](Lanes g) __attribute__((always_inline)) {
        const Lanes z = mul(abs(g), set1(0.707106781f));
        const Lanes tail = mul(set1(0.5f), erfc(z));
        return mul(g, ifLess(g, zeros(), tail, sub(set1(1.0f), tail)));
      });
}

void add(const float* a, const float* b, float* y, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) {
    storeSome(y + i, add(loadSome(a + i, count - i), loadSome(b + i, count - i)), count - i);
  }
}

void axpy(float a, const float* x, float* y, int64_t count) {
  const Lanes factor = set1(a);
  for (int64_t i = 0; i < count; i += 16) {
    storeSome(y + i, fma(factor, loadSome(x + i, count - i), loadSome(y + i, count - i)), count - i);
  }
}

void rope(const float* x, float* y, int64_t headDim, int64_t rotaryDim, const float* cosine, const float* sine) {
  const int64_t half = rotaryDim / 2;
  for (int64_t i = 0; i < half; i += 16) {
    const int64_t count = half - i;
    const Lanes first = loadSome(x + i, count), second = loadSome(x + half + i, count);
    const Lanes c = loadSome(cosine + i, count), s = loadSome(sine + i, count);
    storeSome(y + i, fmaNegated(second, s, mul(first, c)), count);
    storeSome(y + half + i, fma(first, s, mul(second, c)), count);
  }
  for (int64_t i = 2 * half; i < headDim; i += 16) storeSome(y + i, loadSome(x + i, headDim - i), headDim - i);
}

}  // namespace
}  // namespace tsq
