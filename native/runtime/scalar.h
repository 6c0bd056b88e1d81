// Storage scalars: IEEE half and bfloat16 as 16-bit patterns, conversions with round to nearest even.
// Always inlined, so that no out-of-line copy compiled for one instruction set can end up in another's path.
#pragma once
#include <cstdint>
#include <cstring>

#define TSQ_INLINE __attribute__((always_inline)) static inline
#define TSQ_METHOD __attribute__((always_inline))  // of a class

namespace tsq {

enum class Dtype : uint8_t { kF32 = 0, kF16 = 1, kBF16 = 2, kI8 = 3, kU8 = 4, kI32 = 5 };

TSQ_INLINE int dtypeBytes(Dtype dtype) {
  return dtype == Dtype::kF32 || dtype == Dtype::kI32 ? 4 : dtype == Dtype::kF16 || dtype == Dtype::kBF16 ? 2 : 1;
}

TSQ_INLINE float bitsToFloat(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

TSQ_INLINE uint32_t floatToBits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  return bits;
}

TSQ_INLINE float bf16ToFloat(uint16_t bits) {
  return bitsToFloat(static_cast<uint32_t>(bits) << 16);
}

TSQ_INLINE uint16_t floatToBf16(float value) {
  const uint32_t bits = floatToBits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);  // quiet NaN
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

TSQ_INLINE float f16ToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  if (magnitude >= 0x7c00u) return bitsToFloat(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  if (magnitude >= 0x0400u) return bitsToFloat(sign | ((magnitude << 13) + 0x38000000u));
  const float subnormal = static_cast<float>(magnitude) * 5.9604644775390625e-8f;  // 2^-24
  return bitsToFloat(sign | floatToBits(subnormal));
}

// 8-bit floats of OCP: E4M3 has no infinity, and one NaN of each sign.
TSQ_INLINE float e4m3ToFloat(uint8_t bits) {
  if ((bits & 0x7fu) == 0x7fu) return bitsToFloat(static_cast<uint32_t>(bits & 0x80u) << 24 | 0x7fc00000u);
  return 256 * f16ToFloat(static_cast<uint16_t>((bits & 0x80u) << 8 | (bits & 0x7fu) << 7));
}
TSQ_INLINE float e5m2ToFloat(uint8_t bits) {
  return f16ToFloat(static_cast<uint16_t>(bits << 8));
}

// Nearest even; beyond 448, the largest, it saturates. NaN stays NaN.
TSQ_INLINE uint8_t floatToE4m3(float value) {
  const uint32_t bits = floatToBits(value), magnitude = bits & 0x7fffffffu;
  const uint8_t sign = static_cast<uint8_t>(bits >> 24 & 0x80u);
  if (magnitude > 0x7f800000u) return static_cast<uint8_t>(sign | 0x7fu);
  if (magnitude >= 0x43e00000u) return static_cast<uint8_t>(sign | 0x7eu);
  if (magnitude < 0x3c800000u) {                             // below 2^-6: subnormal
    const float scaled = bitsToFloat(magnitude) + 16384.0f;  // the low mantissa bits are x in steps of 2^-9
    return static_cast<uint8_t>(sign | (floatToBits(scaled) - 0x46800000u));
  }
  return static_cast<uint8_t>(sign | (((magnitude + 0x7ffffu + (magnitude >> 20 & 1u)) >> 20) - (120u << 3)));
}

TSQ_INLINE uint16_t floatToF16(float value) {
  const uint32_t bits = floatToBits(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and above round to infinity
  if (magnitude < 0x38800000u) {                                               // below 2^-14: subnormal half
    const float scaled = bitsToFloat(magnitude) + 0.5f;  // 0.5 + x: the low mantissa bits are x in steps of 2^-24
    return static_cast<uint16_t>(sign | (floatToBits(scaled) - 0x3f000000u));
  }
  return static_cast<uint16_t>(sign | ((magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13));
}

}  // namespace tsq
