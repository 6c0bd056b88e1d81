// Codes into blocks: the other way of codes.h. Scales and minima of the block stay as they are.
#pragma once
#include <cstdint>

#include "gguf/blocks.h"

namespace tsq::gguf {

// codes [Block::kSize] as Codes<Block>::codes gives them.
void storeCodes(const uint8_t* codes, Q4_0& block);
void storeCodes(const uint8_t* codes, Q4_1& block);
void storeCodes(const uint8_t* codes, Q5_0& block);
void storeCodes(const uint8_t* codes, Q5_1& block);
void storeCodes(const uint8_t* codes, Q8_0& block);
void storeCodes(const uint8_t* codes, Q2_K& block);
void storeCodes(const uint8_t* codes, Q3_K& block);
void storeCodes(const uint8_t* codes, Q4_K& block);
void storeCodes(const uint8_t* codes, Q5_K& block);
void storeCodes(const uint8_t* codes, Q6_K& block);
void storeCodes(const uint8_t* codes, IQ4_NL& block);
void storeCodes(const uint8_t* codes, IQ4_XS& block);

// Four bits each, as blocks of 32 have them.
inline void packNibbles(const uint8_t* codes, uint8_t* qs) {
  for (int j = 0; j < 16; ++j) qs[j] = static_cast<uint8_t>((codes[j] & 15) | (codes[j + 16] & 15) << 4);
}
// Bits shift and shift + 1 of 256 codes.
void packTwoBits(const uint8_t* codes, int shift, uint8_t* qs);

}  // namespace tsq::gguf
