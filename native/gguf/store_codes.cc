#include "gguf/store_codes.h"

#include "gguf/iq4.h"

namespace tsq::gguf {
namespace {

void packFifthBits(const uint8_t* codes, uint8_t* qh) {
  uint32_t bits = 0;
  for (int e = 0; e < kSmall; ++e) bits |= static_cast<uint32_t>(codes[e] >> 4 & 1) << e;
  std::memcpy(qh, &bits, 4);
}

template <Place (*kPlace)(int)>
void packFourBits(const uint8_t* codes, uint8_t* qs) {
  std::memset(qs, 0, 128);
  for (int e = 0; e < kLarge; ++e) {
    const Place place = kPlace(e);
    qs[place.byte] = static_cast<uint8_t>(qs[place.byte] | (codes[e] & 15) << place.shift);
  }
}

// Bit `bit` of every code, 32 codes a bit plane.
void packHighBits(const uint8_t* codes, int bit, uint8_t* qh) {
  std::memset(qh, 0, 32);
  for (int e = 0; e < kLarge; ++e) qh[e % 32] = static_cast<uint8_t>(qh[e % 32] | (codes[e] >> bit & 1) << (e / 32));
}

// Values of the table, above 128, as indices of the table.
void packTable(const uint8_t* codes, uint8_t* qs) {
  uint8_t indices[kSmall];
  for (int e = 0; e < kSmall; ++e) indices[e] = static_cast<uint8_t>(iq4Index(static_cast<float>(codes[e] - 128)));
  packNibbles(indices, qs);
}

}  // namespace

void packTwoBits(const uint8_t* codes, int shift, uint8_t* qs) {
  std::memset(qs, 0, 64);
  for (int e = 0; e < kLarge; ++e) {
    const Place place = twoBits(e);
    qs[place.byte] = static_cast<uint8_t>(qs[place.byte] | (codes[e] >> shift & 3) << place.shift);
  }
}

void storeCodes(const uint8_t* codes, Q4_0& block) {
  packNibbles(codes, block.qs);
}
void storeCodes(const uint8_t* codes, Q4_1& block) {
  packNibbles(codes, block.qs);
}
void storeCodes(const uint8_t* codes, Q5_0& block) {
  packNibbles(codes, block.qs);
  packFifthBits(codes, block.qh);
}
void storeCodes(const uint8_t* codes, Q5_1& block) {
  packNibbles(codes, block.qs);
  packFifthBits(codes, block.qh);
}
void storeCodes(const uint8_t* codes, Q8_0& block) {
  for (int e = 0; e < kSmall; ++e) block.qs[e] = static_cast<int8_t>(codes[e] - 128);
}
void storeCodes(const uint8_t* codes, Q2_K& block) {
  packTwoBits(codes, 0, block.qs);
}
void storeCodes(const uint8_t* codes, Q3_K& block) {
  packTwoBits(codes, 0, block.qs);
  packHighBits(codes, 2, block.hmask);
}
void storeCodes(const uint8_t* codes, Q4_K& block) {
  packFourBits<fourBits>(codes, block.qs);
}
void storeCodes(const uint8_t* codes, Q5_K& block) {
  packFourBits<fourBits>(codes, block.qs);
  packHighBits(codes, 4, block.qh);
}
void storeCodes(const uint8_t* codes, Q6_K& block) {
  packFourBits<sixBits>(codes, block.ql);
  packTwoBits(codes, 4, block.qh);
}
void storeCodes(const uint8_t* codes, IQ4_NL& block) {
  packTable(codes, block.qs);
}
void storeCodes(const uint8_t* codes, IQ4_XS& block) {
  for (int group = 0; group < 8; ++group) packTable(codes + 32 * group, block.qs + 16 * group);
}

}  // namespace tsq::gguf
