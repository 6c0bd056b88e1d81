#include "gguf/codes.h"

namespace tsq::gguf {
namespace {

// Calls put(e, code) for the 32 four-bit codes of a small block.
template <typename Put>
TSQ_INLINE void eachNibble(const uint8_t* qs, Put put) {
  for (int j = 0; j < 16; ++j) put(j, qs[j] & 15);
  for (int j = 0; j < 16; ++j) put(j + 16, qs[j] >> 4);
}

TSQ_INLINE void nibbles(const uint8_t* qs, uint8_t* out) {
  eachNibble(qs, [&](int e, int code) { out[e] = static_cast<uint8_t>(code); });
}

// The same through a table of whole numbers, above `zero`.
TSQ_INLINE void lookedUp(const uint8_t* qs, const int8_t (&table)[16], int zero, uint8_t* out) {
  eachNibble(qs, [&](int e, int code) { out[e] = static_cast<uint8_t>(table[code] + zero); });
}

// Codes of five bits.
TSQ_INLINE void fives(const uint8_t* qs, const uint8_t* qh, uint8_t* out) {
  uint32_t high;
  std::memcpy(&high, qh, 4);
  eachNibble(qs, [&](int e, int low) { out[e] = static_cast<uint8_t>(low | (high >> e & 1u) << 4); });
}

TSQ_INLINE void signedBytes(const int8_t* qs, int count, uint8_t* out) {
  for (int e = 0; e < count; ++e) out[e] = static_cast<uint8_t>(qs[e] + 128);
}

// Base-3 digit n of a byte, the first digit being the most significant of a fixed-point number below 1.
TSQ_INLINE int ternaryDigit(uint8_t byte, int n) {
  constexpr uint8_t kPowers[5] = {1, 3, 9, 27, 81};
  const auto shifted = static_cast<uint8_t>(byte * kPowers[n]);
  return (shifted * 3) >> 8;
}

// Scale and offset of a group of Q4_K and Q5_K.
template <typename Block>
TSQ_INLINE void scaledMinima(const Block& block, float* scales, float* offsets) {
  const float d = block.d.get(), dmin = block.dmin.get();
  for (int group = 0; group < 8; ++group) {
    const ScaleMin stored = scaleMin(block.scales, group);
    scales[group] = d * static_cast<float>(stored.scale);
    offsets[group] = -(dmin * static_cast<float>(stored.min));
  }
}

}  // namespace

void Codes<Q4_0>::codes(const Q4_0& block, uint8_t* out) {
  nibbles(block.qs, out);
}
void Codes<Q4_0>::groups(const Q4_0& block, float* scales, float*) {
  *scales = block.d.get();
}

void Codes<Q4_1>::codes(const Q4_1& block, uint8_t* out) {
  nibbles(block.qs, out);
}
void Codes<Q4_1>::groups(const Q4_1& block, float* scales, float* offsets) {
  *scales = block.d.get();
  *offsets = block.m.get();
}

void Codes<Q5_0>::codes(const Q5_0& block, uint8_t* out) {
  fives(block.qs, block.qh, out);
}
void Codes<Q5_0>::groups(const Q5_0& block, float* scales, float*) {
  *scales = block.d.get();
}

void Codes<Q5_1>::codes(const Q5_1& block, uint8_t* out) {
  fives(block.qs, block.qh, out);
}
void Codes<Q5_1>::groups(const Q5_1& block, float* scales, float* offsets) {
  *scales = block.d.get();
  *offsets = block.m.get();
}

void Codes<Q8_0>::codes(const Q8_0& block, uint8_t* out) {
  signedBytes(block.qs, kSmall, out);
}
void Codes<Q8_0>::groups(const Q8_0& block, float* scales, float*) {
  *scales = block.d.get();
}

void Codes<Q8_1>::codes(const Q8_1& block, uint8_t* out) {
  signedBytes(block.qs, kSmall, out);
}
void Codes<Q8_1>::groups(const Q8_1& block, float* scales, float*) {
  *scales = block.d.get();
}

void Codes<IQ4_NL>::codes(const IQ4_NL& block, uint8_t* out) {
  lookedUp(block.qs, kIq4Values, kZero, out);
}
void Codes<IQ4_NL>::groups(const IQ4_NL& block, float* scales, float*) {
  *scales = block.d.get();
}

void Codes<MXFP4>::codes(const MXFP4& block, uint8_t* out) {
  lookedUp(block.qs, kE2M1Doubled, kZero, out);
}
void Codes<MXFP4>::groups(const MXFP4& block, float* scales, float*) {
  *scales = halfOfExponent(block.e);
}

void Codes<Q2_K>::codes(const Q2_K& block, uint8_t* out) {
  for (int first = 0; first < 256; first += 32) {
    const Place place = twoBits(first);
    for (int i = 0; i < 32; ++i) out[first + i] = block.qs[place.byte + i] >> place.shift & 3;
  }
}
void Codes<Q2_K>::groups(const Q2_K& block, float* scales, float* offsets) {
  const float d = block.d.get(), dmin = block.dmin.get();
  for (int group = 0; group < 16; ++group) {
    scales[group] = d * static_cast<float>(block.scales[group] & 15);
    offsets[group] = -(dmin * static_cast<float>(block.scales[group] >> 4));
  }
}

void Codes<Q3_K>::codes(const Q3_K& block, uint8_t* out) {
  for (int first = 0; first < 256; first += 32) {
    const Place place = twoBits(first);
    const int bit = first / 32;
    for (int i = 0; i < 32; ++i) {
      const int low = block.qs[place.byte + i] >> place.shift & 3;
      out[first + i] = static_cast<uint8_t>(low | (block.hmask[i] >> bit & 1) << 2);
    }
  }
}
void Codes<Q3_K>::groups(const Q3_K& block, float* scales, float*) {
  const float d = block.d.get();
  for (int group = 0; group < 16; ++group) scales[group] = d * static_cast<float>(q3Scale(block.scales, group));
}

void Codes<Q4_K>::codes(const Q4_K& block, uint8_t* out) {
  for (int first = 0; first < 256; first += 32) {
    const Place place = fourBits(first);
    for (int i = 0; i < 32; ++i) out[first + i] = block.qs[place.byte + i] >> place.shift & 15;
  }
}
void Codes<Q4_K>::groups(const Q4_K& block, float* scales, float* offsets) {
  scaledMinima(block, scales, offsets);
}

void Codes<Q5_K>::codes(const Q5_K& block, uint8_t* out) {
  for (int first = 0; first < 256; first += 32) {
    const Place place = fourBits(first);
    for (int i = 0; i < 32; ++i) {
      const int low = block.qs[place.byte + i] >> place.shift & 15;
      out[first + i] = static_cast<uint8_t>(low | (block.qh[i] >> first / 32 & 1) << 4);
    }
  }
}
void Codes<Q5_K>::groups(const Q5_K& block, float* scales, float* offsets) {
  scaledMinima(block, scales, offsets);
}

void Codes<Q6_K>::codes(const Q6_K& block, uint8_t* out) {
  for (int first = 0; first < 256; first += 32) {
    const Place low = sixBits(first), high = twoBits(first);
    for (int i = 0; i < 32; ++i) {
      const int top = block.qh[high.byte + i] >> high.shift & 3;
      out[first + i] = static_cast<uint8_t>((block.ql[low.byte + i] >> low.shift & 15) | top << 4);
    }
  }
}
void Codes<Q6_K>::groups(const Q6_K& block, float* scales, float*) {
  const float d = block.d.get();
  for (int group = 0; group < 16; ++group) scales[group] = d * static_cast<float>(block.scales[group]);
}

void Codes<Q8_K>::codes(const Q8_K& block, uint8_t* out) {
  signedBytes(block.qs, kLarge, out);
}
void Codes<Q8_K>::groups(const Q8_K& block, float* scales, float*) {
  *scales = block.d.get();
}

void Codes<IQ4_XS>::codes(const IQ4_XS& block, uint8_t* out) {
  for (int group = 0; group < 8; ++group) lookedUp(block.qs + 16 * group, kIq4Values, kZero, out + 32 * group);
}
void Codes<IQ4_XS>::groups(const IQ4_XS& block, float* scales, float*) {
  const float d = block.d.get();
  const int highBits = block.scalesHigh[0] | block.scalesHigh[1] << 8;
  for (int group = 0; group < 8; ++group) {
    const int low = block.scalesLow[group / 2] >> (4 * (group % 2)) & 15;
    const int stored = low | (highBits >> (2 * group) & 3) << 4;
    scales[group] = d * static_cast<float>(stored - 32);
  }
}

// Digits 0, 1 and 2 are -1, 0 and 1: one more makes 0 the usual zero point of two bits.
void Codes<TQ1_0>::codes(const TQ1_0& block, uint8_t* out) {
  const auto code = [](uint8_t byte, int digit) { return static_cast<uint8_t>(ternaryDigit(byte, digit) + 1); };
  for (int n = 0; n < 5; ++n)
    for (int m = 0; m < 32; ++m) out[32 * n + m] = code(block.qs[m], n);
  for (int n = 0; n < 5; ++n)
    for (int m = 0; m < 16; ++m) out[160 + 16 * n + m] = code(block.qs[32 + m], n);
  for (int n = 0; n < 4; ++n)
    for (int m = 0; m < 4; ++m) out[240 + 4 * n + m] = code(block.qh[m], n);
}
void Codes<TQ1_0>::groups(const TQ1_0& block, float* scales, float*) {
  *scales = block.d.get();
}

void Codes<TQ2_0>::codes(const TQ2_0& block, uint8_t* out) {
  for (int first = 0; first < 256; first += 32) {
    const Place place = twoBits(first);
    for (int i = 0; i < 32; ++i)
      out[first + i] = static_cast<uint8_t>((block.qs[place.byte + i] >> place.shift & 3) + 1);
  }
}
void Codes<TQ2_0>::groups(const TQ2_0& block, float* scales, float*) {
  *scales = block.d.get();
}

}  // namespace tsq::gguf
