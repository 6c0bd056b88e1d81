// The inverse of gguf/codes.h: codes, scales and offsets into blocks, exactly. Code books keep their codes.
#pragma once
#include "gguf/blocks.h"
#include "gguf/factor.h"

namespace tsq::gguf {

// Byte j: code j low, code j + 16 high.
TSQ_INLINE void putNibbles(const uint8_t* codes, uint8_t* qs) {
  for (int j = 0; j < 16; ++j) qs[j] = static_cast<uint8_t>((codes[j] & 15) | codes[j + 16] << 4);
}
TSQ_INLINE void putFifthBits(const uint8_t* codes, uint8_t* qh) {
  uint32_t high = 0;
  for (int e = 0; e < kSmall; ++e) high |= static_cast<uint32_t>(codes[e] >> 4 & 1) << e;
  std::memcpy(qh, &high, 4);
}
// Of 256 codes: two bits from `shift` on, four bits in one of the two orders, bit `bit` of each in planes of 32 bytes.
TSQ_INLINE void putTwoBits(const uint8_t* codes, int shift, uint8_t* qs) {
  std::memset(qs, 0, 64);
  for (int e = 0; e < kLarge; ++e) {
    const Place place = twoBits(e);
    qs[place.byte] = static_cast<uint8_t>(qs[place.byte] | (codes[e] >> shift & 3) << place.shift);
  }
}
template <Place (*kPlace)(int)>
void putFourBits(const uint8_t* codes, uint8_t* qs) {
  std::memset(qs, 0, 128);
  for (int e = 0; e < kLarge; ++e) {
    const Place place = kPlace(e);
    qs[place.byte] = static_cast<uint8_t>(qs[place.byte] | (codes[e] & 15) << place.shift);
  }
}
TSQ_INLINE void putPlane(const uint8_t* codes, int bit, uint8_t* planes) {
  std::memset(planes, 0, 32);
  for (int e = 0; e < kLarge; ++e)
    planes[e % 32] = static_cast<uint8_t>(planes[e % 32] | (codes[e] >> bit & 1) << (e / 32));
}

TSQ_INLINE bool putHalf(float value, Half& half) {
  return floatToBits(half.set(value)) == floatToBits(value) && std::isfinite(value);
}
// Scales and minima of Q4_K and Q5_K; offsets are minima with the other sign.
template <typename Block>
bool putScaledMinima(const float* scales, const float* offsets, Block& block) {
  int scale[8], min[8];
  float minima[8];
  for (int i = 0; i < 8; ++i) minima[i] = -offsets[i];
  if (!factorScales(scales, 8, 0, 63, block.d, scale) || !factorScales(minima, 8, 0, 63, block.dmin, min)) return false;
  std::memset(block.scales, 0, sizeof block.scales);
  for (int i = 0; i < 8; ++i) setScaleMin(block.scales, i, {scale[i], min[i]});
  return true;
}

// put(codes, block): codes [Block::kSize] of the type's width. putGroups(scales, offsets, block): false where f16
// numbers, and the block's whole factors of them, do not make these floats.
inline void put(const uint8_t* codes, Q4_0& block) {
  putNibbles(codes, block.qs);
}
inline void put(const uint8_t* codes, Q4_1& block) {
  putNibbles(codes, block.qs);
}
inline void put(const uint8_t* codes, IQ4_NL& block) {
  putNibbles(codes, block.qs);
}
inline void put(const uint8_t* codes, MXFP4& block) {
  putNibbles(codes, block.qs);
}
inline void put(const uint8_t* codes, Q5_0& block) {
  putNibbles(codes, block.qs);
  putFifthBits(codes, block.qh);
}
inline void put(const uint8_t* codes, Q5_1& block) {
  putNibbles(codes, block.qs);
  putFifthBits(codes, block.qh);
}
inline void put(const uint8_t* codes, Q8_0& block) {
  for (int e = 0; e < kSmall; ++e) block.qs[e] = static_cast<int8_t>(codes[e] - 128);
}
inline void put(const uint8_t* codes, TQ2_0& block) {
  uint8_t digits[kLarge];
  for (int e = 0; e < kLarge; ++e) digits[e] = static_cast<uint8_t>(codes[e] - 1);
  putTwoBits(digits, 0, block.qs);
}
inline void put(const uint8_t* codes, Q2_K& block) {
  putTwoBits(codes, 0, block.qs);
}
inline void put(const uint8_t* codes, Q3_K& block) {
  putTwoBits(codes, 0, block.qs);
  putPlane(codes, 2, block.hmask);
}
inline void put(const uint8_t* codes, Q4_K& block) {
  putFourBits<fourBits>(codes, block.qs);
}
inline void put(const uint8_t* codes, Q5_K& block) {
  putFourBits<fourBits>(codes, block.qs);
  putPlane(codes, 4, block.qh);
}
inline void put(const uint8_t* codes, Q6_K& block) {
  putFourBits<sixBits>(codes, block.ql);
  putTwoBits(codes, 4, block.qh);
}
inline void put(const uint8_t* codes, IQ4_XS& block) {
  for (int group = 0; group < 8; ++group) putNibbles(codes + 32 * group, block.qs + 16 * group);
}

template <typename Block>
bool putGroups(const float* scales, const float*, Block& block) {
  return putHalf(*scales, block.d);
}
inline bool putGroups(const float* scales, const float* offsets, Q4_1& block) {
  return putHalf(*scales, block.d) && putHalf(*offsets, block.m);
}
inline bool putGroups(const float* scales, const float* offsets, Q5_1& block) {
  return putHalf(*scales, block.d) && putHalf(*offsets, block.m);
}
inline bool putGroups(const float* scales, const float*, MXFP4& block) {
  // 2^(e - 127): the exponent of a float, whose 0 stands for a subnormal number.
  const uint32_t bits = floatToBits(*scales);
  block.e = static_cast<uint8_t>(bits >> 23);
  return bits == (block.e == 0 ? 0x00400000u : static_cast<uint32_t>(block.e) << 23) && block.e != 255;
}
inline bool putGroups(const float* scales, const float* offsets, Q2_K& block) {
  int scale[16], min[16];
  float minima[16];
  for (int i = 0; i < 16; ++i) minima[i] = -offsets[i];
  if (!factorScales(scales, 16, 0, 15, block.d, scale) || !factorScales(minima, 16, 0, 15, block.dmin, min))
    return false;
  for (int i = 0; i < 16; ++i) block.scales[i] = static_cast<uint8_t>(scale[i] | min[i] << 4);
  return true;
}
inline bool putGroups(const float* scales, const float*, Q3_K& block) {
  int scale[16];
  if (!factorScales(scales, 16, -32, 31, block.d, scale)) return false;
  std::memset(block.scales, 0, sizeof block.scales);
  for (int i = 0; i < 16; ++i) setQ3Scale(block.scales, i, scale[i]);
  return true;
}
inline bool putGroups(const float* scales, const float* offsets, Q4_K& block) {
  return putScaledMinima(scales, offsets, block);
}
inline bool putGroups(const float* scales, const float* offsets, Q5_K& block) {
  return putScaledMinima(scales, offsets, block);
}
inline bool putGroups(const float* scales, const float*, Q6_K& block) {
  int scale[16];
  if (!factorScales(scales, 16, -128, 127, block.d, scale)) return false;
  for (int i = 0; i < 16; ++i) block.scales[i] = static_cast<int8_t>(scale[i]);
  return true;
}
inline bool putGroups(const float* scales, const float*, IQ4_XS& block) {
  int scale[8];
  if (!factorScales(scales, 8, -32, 31, block.d, scale)) return false;
  int high = 0;
  std::memset(block.scalesLow, 0, sizeof block.scalesLow);
  for (int i = 0; i < 8; ++i) {
    const int stored = scale[i] + 32;
    block.scalesLow[i / 2] = static_cast<uint8_t>(block.scalesLow[i / 2] | (stored & 15) << (4 * (i % 2)));
    high |= stored >> 4 << (2 * i);
  }
  block.scalesHigh[0] = static_cast<uint8_t>(high);
  block.scalesHigh[1] = static_cast<uint8_t>(high >> 8);
  return true;
}

}  // namespace tsq::gguf
