// Conversions and activations, one element at a time.
#include <cmath>
#include <cstring>

#include "kernels/reference/reference.h"

namespace tsq::reference {

void toFloat(const void* source, Dtype from, float* out, int64_t count) {
  if (from == Dtype::kF32) {
    if (count > 0) std::memmove(out, source, static_cast<size_t>(count) * 4);
    return;
  }
  const char* bytes = static_cast<const char*>(source);
  for (int64_t i = 0; i < count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, bytes + i * 2, 2);
    out[i] = from == Dtype::kF16 ? f16ToFloat(bits) : bf16ToFloat(bits);
  }
}

void fromFloat(const float* source, void* out, Dtype to, int64_t count) {
  if (to == Dtype::kF32) {
    if (count > 0) std::memmove(out, source, static_cast<size_t>(count) * 4);
    return;
  }
  char* bytes = static_cast<char*>(out);
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t bits = to == Dtype::kF16 ? floatToF16(source[i]) : floatToBf16(source[i]);
    std::memcpy(bytes + i * 2, &bits, 2);
  }
}

namespace {

double factor(const float* up, int64_t i) {
  return up == nullptr ? 1.0 : static_cast<double>(up[i]);
}

}  // namespace

void silu(const float* gate, const float* up, float* y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const double g = gate[i];
    y[i] = static_cast<float>(g / (1 + std::exp(-g)) * factor(up, i));
  }
}

void geluTanh(const float* gate, const float* up, float* y, int64_t count) {
  const double root = std::sqrt(2 / 3.14159265358979323846);
  for (int64_t i = 0; i < count; ++i) {
    const double g = gate[i];
    y[i] = static_cast<float>(0.5 * g * (1 + std::tanh(root * (g + 0.044715 * g * g * g))) * factor(up, i));
  }
}

void geluErf(const float* gate, const float* up, float* y, int64_t count) {
  const double root = std::sqrt(0.5);
  for (int64_t i = 0; i < count; ++i) {
    const double g = gate[i];
    y[i] = static_cast<float>(0.5 * g * std::erfc(-g * root) * factor(up, i));
  }
}

void add(const float* a, const float* b, float* y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) y[i] = a[i] + b[i];
}

void axpy(float a, const float* x, float* y, int64_t count) {
  for (int64_t i = 0; i < count; ++i) y[i] = std::fma(a, x[i], y[i]);
}

void rope(const float* x, float* y, int64_t headDim, int64_t rotaryDim, const float* cosine, const float* sine) {
  const int64_t half = rotaryDim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const double first = x[i], second = x[i + half];
    y[i] = static_cast<float>(first * cosine[i] - second * sine[i]);
    y[i + half] = static_cast<float>(second * cosine[i] + first * sine[i]);
  }
  for (int64_t i = 2 * half; i < headDim; ++i) y[i] = x[i];
}

}  // namespace tsq::reference
