// Blocks of ggml's types as they lie in files, byte for byte; 16-bit fields are little-endian and may lie anywhere.
// Source: ggml-org/ggml, src/ggml-common.h.
#pragma once
#include <cstdint>
#include <cstring>

#include "runtime/scalar.h"

namespace tsq::gguf {

// An f16 number in a block.
struct Half {
  uint8_t bytes[2];

  TSQ_METHOD float get() const { return f16ToFloat(static_cast<uint16_t>(bytes[0] | (bytes[1] << 8))); }
  // Gives the value as it is stored.
  TSQ_METHOD float set(float value) {
    const uint16_t bits = floatToF16(value);
    bytes[0] = static_cast<uint8_t>(bits);
    bytes[1] = static_cast<uint8_t>(bits >> 8);
    return f16ToFloat(bits);
  }
};

// An f32 number in a block.
struct Single {
  uint8_t bytes[4];

  TSQ_METHOD float get() const {
    float value;
    std::memcpy(&value, bytes, 4);
    return value;
  }
  TSQ_METHOD void set(float value) { std::memcpy(bytes, &value, 4); }
};

// Blocks of 32. Byte j of qs holds element j in its low and element j + 16 in its high four bits.
constexpr int kSmall = 32;

struct Q4_0 {
  static constexpr int kSize = kSmall;
  Half d;
  uint8_t qs[16];
};
struct Q4_1 {
  static constexpr int kSize = kSmall;
  Half d, m;
  uint8_t qs[16];
};
struct Q5_0 {
  static constexpr int kSize = kSmall;
  Half d;
  uint8_t qh[4];  // bit e: the fifth bit of element e
  uint8_t qs[16];
};
struct Q5_1 {
  static constexpr int kSize = kSmall;
  Half d, m;
  uint8_t qh[4];
  uint8_t qs[16];
};
struct Q8_0 {
  static constexpr int kSize = kSmall;
  Half d;
  int8_t qs[32];
};
struct Q8_1 {
  static constexpr int kSize = kSmall;
  Half d, s;  // s = d * the sum of qs
  int8_t qs[32];
};
struct IQ4_NL {
  static constexpr int kSize = kSmall;
  Half d;
  uint8_t qs[16];
};
struct MXFP4 {
  static constexpr int kSize = kSmall;
  uint8_t e;
  uint8_t qs[16];
};

// Blocks of 256.
constexpr int kLarge = 256;

struct Q2_K {
  static constexpr int kSize = kLarge;
  uint8_t scales[16];  // of 16 elements: scale in the low, minimum in the high four bits
  uint8_t qs[64];      // see twoBits
  Half d, dmin;
};
struct Q3_K {
  static constexpr int kSize = kLarge;
  uint8_t hmask[32];  // bit e / 32 of byte e % 32: the third bit of element e
  uint8_t qs[64];     // see twoBits
  uint8_t scales[12];
  Half d;
};
struct Q4_K {
  static constexpr int kSize = kLarge;
  Half d, dmin;
  uint8_t scales[12];
  uint8_t qs[128];  // see fourBits
};
struct Q5_K {
  static constexpr int kSize = kLarge;
  Half d, dmin;
  uint8_t scales[12];
  uint8_t qh[32];  // bit e / 32 of byte e % 32: the fifth bit of element e
  uint8_t qs[128];
};
struct Q6_K {
  static constexpr int kSize = kLarge;
  uint8_t ql[128];
  uint8_t qh[64];  // see twoBits
  int8_t scales[16];
  Half d;
};
struct Q8_K {
  static constexpr int kSize = kLarge;
  Single d;
  int8_t qs[256];
  uint8_t bsums[32];  // sums of 16 elements, i16
};
struct IQ4_XS {
  static constexpr int kSize = kLarge;
  Half d;
  uint8_t scalesHigh[2];
  uint8_t scalesLow[4];
  uint8_t qs[128];  // groups of 32 as in IQ4_NL
};
struct TQ1_0 {
  static constexpr int kSize = kLarge;
  uint8_t qs[48];  // five base-3 digits a byte
  uint8_t qh[4];   // four
  Half d;
};
struct TQ2_0 {
  static constexpr int kSize = kLarge;
  uint8_t qs[64];  // see twoBits
  Half d;
};

static_assert(sizeof(Q4_0) == 18 && sizeof(Q4_1) == 20 && sizeof(Q5_0) == 22 && sizeof(Q5_1) == 24);
static_assert(sizeof(Q8_0) == 34 && sizeof(Q8_1) == 36 && sizeof(IQ4_NL) == 18 && sizeof(MXFP4) == 17);
static_assert(sizeof(Q2_K) == 84 && sizeof(Q3_K) == 110 && sizeof(Q4_K) == 144 && sizeof(Q5_K) == 176);
static_assert(sizeof(Q6_K) == 210 && sizeof(Q8_K) == 292 && sizeof(IQ4_XS) == 136);
static_assert(sizeof(TQ1_0) == 54 && sizeof(TQ2_0) == 66);

// Where element e of 256 lies in a plane of two bits an element: byte and shift.
struct Place {
  int byte, shift;
};
constexpr Place twoBits(int e) {
  return {32 * (e / 128) + e % 32, 2 * (e % 128 / 32)};
}
// The same for Q4_K's four bits; Q6_K's low ones go like this within halves of 128 (see sixBits).
constexpr Place fourBits(int e) {
  return {32 * (e / 64) + e % 32, e % 64 < 32 ? 0 : 4};
}
constexpr Place sixBits(int e) {
  const int quarter = e % 128 / 32;
  return {64 * (e / 128) + 32 * (quarter % 2) + e % 32, quarter < 2 ? 0 : 4};
}

// The eight 6-bit scales and minima of Q4_K and Q5_K in their 12 bytes.
struct ScaleMin {
  int scale, min;
};
constexpr ScaleMin scaleMin(const uint8_t* bytes, int group) {
  if (group < 4) return {bytes[group] & 63, bytes[group + 4] & 63};
  return {(bytes[group + 4] & 15) | (bytes[group - 4] >> 6 << 4), (bytes[group + 4] >> 4) | (bytes[group] >> 6 << 4)};
}
constexpr void setScaleMin(uint8_t* bytes, int group, ScaleMin value) {
  if (group < 4) {
    bytes[group] = static_cast<uint8_t>((bytes[group] & 0xc0) | value.scale);
    bytes[group + 4] = static_cast<uint8_t>((bytes[group + 4] & 0xc0) | value.min);
    return;
  }
  bytes[group + 4] = static_cast<uint8_t>((value.scale & 15) | ((value.min & 15) << 4));
  bytes[group - 4] = static_cast<uint8_t>((bytes[group - 4] & 63) | (value.scale >> 4 << 6));
  bytes[group] = static_cast<uint8_t>((bytes[group] & 63) | (value.min >> 4 << 6));
}

// The sixteen 6-bit scales of Q3_K, stored + 32, in their 12 bytes.
constexpr int q3Scale(const uint8_t* bytes, int group) {
  const int low = group < 8 ? bytes[group] & 15 : bytes[group - 8] >> 4;
  return (low | (((bytes[8 + group % 4] >> (2 * (group / 4))) & 3) << 4)) - 32;
}
constexpr void setQ3Scale(uint8_t* bytes, int group, int scale) {  // into zeros
  const int stored = scale + 32;
  bytes[group % 8] = static_cast<uint8_t>(bytes[group % 8] | ((stored & 15) << (group < 8 ? 0 : 4)));
  bytes[8 + group % 4] = static_cast<uint8_t>(bytes[8 + group % 4] | ((stored >> 4) << (2 * (group / 4))));
}

// IQ4's code book, and twice E2M1's values, so that they are whole.
constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr int8_t kE2M1Doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// 2^(e - 128): half of what the exponent byte of an MXFP4 block says, to go with doubled values.
TSQ_INLINE float halfOfExponent(uint8_t e) {
  return bitsToFloat(e < 2 ? 0x00200000u << e : (e - 1u) << 23);
}

}  // namespace tsq::gguf
