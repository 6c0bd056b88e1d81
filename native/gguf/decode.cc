// The order of the float32 operations is ggml's (src/ggml-quants.c, dequantize_row_*), so that values agree bit for
// bit.
#include "gguf/decode.h"

namespace tsq::gguf {
namespace {

// Calls put(e, code) for the 32 four-bit codes of a small block.
template <typename Put>
TSQ_INLINE void eachNibble(const uint8_t* qs, Put put) {
  for (int j = 0; j < 16; ++j) put(j, qs[j] & 15);
  for (int j = 0; j < 16; ++j) put(j + 16, qs[j] >> 4);
}

TSQ_INLINE uint32_t word(const uint8_t* bytes) {
  uint32_t value;
  std::memcpy(&value, bytes, 4);
  return value;
}

// Codes of five bits.
template <typename Put>
TSQ_INLINE void eachFive(const uint8_t* qs, const uint8_t* qh, Put put) {
  const uint32_t high = word(qh);
  eachNibble(qs, [&](int e, int low) { put(e, low | static_cast<int>((high >> e & 1u) << 4)); });
}

// Base-3 digit n of a byte, the first digit being the most significant of a fixed-point number below 1.
TSQ_INLINE int ternaryDigit(uint8_t byte, int n) {
  constexpr uint8_t kPowers[5] = {1, 3, 9, 27, 81};
  const auto shifted = static_cast<uint8_t>(byte * kPowers[n]);
  return (shifted * 3) >> 8;
}

}  // namespace

void decodeBlock(const Q4_0& block, float* y) {
  const float d = block.d.get();
  eachNibble(block.qs, [&](int e, int code) { y[e] = static_cast<float>(code - 8) * d; });
}

void decodeBlock(const Q4_1& block, float* y) {
  const float d = block.d.get(), m = block.m.get();
  eachNibble(block.qs, [&](int e, int code) { y[e] = static_cast<float>(code) * d + m; });
}

void decodeBlock(const Q5_0& block, float* y) {
  const float d = block.d.get();
  eachFive(block.qs, block.qh, [&](int e, int code) { y[e] = static_cast<float>(code - 16) * d; });
}

void decodeBlock(const Q5_1& block, float* y) {
  const float d = block.d.get(), m = block.m.get();
  eachFive(block.qs, block.qh, [&](int e, int code) { y[e] = static_cast<float>(code) * d + m; });
}

void decodeBlock(const Q8_0& block, float* y) {
  const float d = block.d.get();
  for (int e = 0; e < kSmall; ++e) y[e] = static_cast<float>(block.qs[e]) * d;
}

void decodeBlock(const Q8_1& block, float* y) {
  const float d = block.d.get();
  for (int e = 0; e < kSmall; ++e) y[e] = static_cast<float>(block.qs[e]) * d;
}

void decodeBlock(const IQ4_NL& block, float* y) {
  const float d = block.d.get();
  eachNibble(block.qs, [&](int e, int code) { y[e] = d * static_cast<float>(kIq4Values[code]); });
}

void decodeBlock(const MXFP4& block, float* y) {
  const float d = halfOfExponent(block.e);
  eachNibble(block.qs, [&](int e, int code) { y[e] = static_cast<float>(kE2M1Doubled[code]) * d; });
}

void decodeBlock(const Q2_K& block, float* y) {
  const float d = block.d.get(), dmin = block.dmin.get();
  for (int group = 0; group < 16; ++group) {
    const float scale = d * static_cast<float>(block.scales[group] & 15);
    const float min = dmin * static_cast<float>(block.scales[group] >> 4);
    const Place place = twoBits(16 * group);
    for (int i = 0; i < 16; ++i)
      y[16 * group + i] = scale * static_cast<float>(block.qs[place.byte + i] >> place.shift & 3) - min;
  }
}

void decodeBlock(const Q3_K& block, float* y) {
  const float d = block.d.get();
  for (int group = 0; group < 16; ++group) {
    const float scale = d * static_cast<float>(q3Scale(block.scales, group));
    const Place place = twoBits(16 * group);
    const int first = 16 * group % 32, bit = group / 2;
    for (int i = 0; i < 16; ++i) {
      const int low = block.qs[place.byte + i] >> place.shift & 3;
      const int code = low - ((block.hmask[first + i] >> bit & 1) != 0 ? 0 : 4);
      y[16 * group + i] = scale * static_cast<float>(code);
    }
  }
}

void decodeBlock(const Q4_K& block, float* y) {
  const float d = block.d.get(), dmin = block.dmin.get();
  for (int group = 0; group < 8; ++group) {
    const ScaleMin stored = scaleMin(block.scales, group);
    const float scale = d * static_cast<float>(stored.scale), min = dmin * static_cast<float>(stored.min);
    const Place place = fourBits(32 * group);
    for (int i = 0; i < 32; ++i)
      y[32 * group + i] = scale * static_cast<float>(block.qs[place.byte + i] >> place.shift & 15) - min;
  }
}

void decodeBlock(const Q5_K& block, float* y) {
  const float d = block.d.get(), dmin = block.dmin.get();
  for (int group = 0; group < 8; ++group) {
    const ScaleMin stored = scaleMin(block.scales, group);
    const float scale = d * static_cast<float>(stored.scale), min = dmin * static_cast<float>(stored.min);
    const Place place = fourBits(32 * group);
    for (int i = 0; i < 32; ++i) {
      const int code = (block.qs[place.byte + i] >> place.shift & 15) | (block.qh[i] >> group & 1) << 4;
      y[32 * group + i] = scale * static_cast<float>(code) - min;
    }
  }
}

void decodeBlock(const Q6_K& block, float* y) {
  const float d = block.d.get();
  for (int group = 0; group < 16; ++group) {
    const float scale = d * static_cast<float>(block.scales[group]);
    const Place low = sixBits(16 * group), high = twoBits(16 * group);
    for (int i = 0; i < 16; ++i) {
      const int code = (block.ql[low.byte + i] >> low.shift & 15) | (block.qh[high.byte + i] >> high.shift & 3) << 4;
      y[16 * group + i] = scale * static_cast<float>(code - 32);
    }
  }
}

void decodeBlock(const Q8_K& block, float* y) {
  const float d = block.d.get();
  for (int e = 0; e < kLarge; ++e) y[e] = d * static_cast<float>(block.qs[e]);
}

void decodeBlock(const IQ4_XS& block, float* y) {
  const float d = block.d.get();
  const int highBits = block.scalesHigh[0] | block.scalesHigh[1] << 8;
  for (int group = 0; group < 8; ++group) {
    const int low = block.scalesLow[group / 2] >> (4 * (group % 2)) & 15;
    const int stored = low | (highBits >> (2 * group) & 3) << 4;
    const float scale = d * static_cast<float>(stored - 32);
    float* out = y + 32 * group;
    eachNibble(block.qs + 16 * group, [&](int e, int code) { out[e] = scale * static_cast<float>(kIq4Values[code]); });
  }
}

void decodeBlock(const TQ1_0& block, float* y) {
  const float d = block.d.get();
  auto value = [&](uint8_t byte, int digit) { return static_cast<float>(ternaryDigit(byte, digit) - 1) * d; };
  for (int n = 0; n < 5; ++n)
    for (int m = 0; m < 32; ++m) y[32 * n + m] = value(block.qs[m], n);
  for (int n = 0; n < 5; ++n)
    for (int m = 0; m < 16; ++m) y[160 + 16 * n + m] = value(block.qs[32 + m], n);
  for (int n = 0; n < 4; ++n)
    for (int m = 0; m < 4; ++m) y[240 + 4 * n + m] = value(block.qh[m], n);
}

void decodeBlock(const TQ2_0& block, float* y) {
  const float d = block.d.get();
  for (int group = 0; group < 8; ++group) {
    const Place place = twoBits(32 * group);
    for (int i = 0; i < 32; ++i)
      y[32 * group + i] = static_cast<float>((block.qs[place.byte + i] >> place.shift & 3) - 1) * d;
  }
}

}  // namespace tsq::gguf
