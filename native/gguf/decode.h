// One overload for each block type: the values of one block.
#pragma once
#include "gguf/blocks.h"

namespace tsq::gguf {

void decodeBlock(const Q4_0& block, float* y);
void decodeBlock(const Q4_1& block, float* y);
void decodeBlock(const Q5_0& block, float* y);
void decodeBlock(const Q5_1& block, float* y);
void decodeBlock(const Q8_0& block, float* y);
void decodeBlock(const Q8_1& block, float* y);
void decodeBlock(const IQ4_NL& block, float* y);
void decodeBlock(const MXFP4& block, float* y);
void decodeBlock(const Q2_K& block, float* y);
void decodeBlock(const Q3_K& block, float* y);
void decodeBlock(const Q4_K& block, float* y);
void decodeBlock(const Q5_K& block, float* y);
void decodeBlock(const Q6_K& block, float* y);
void decodeBlock(const Q8_K& block, float* y);
void decodeBlock(const IQ4_XS& block, float* y);
void decodeBlock(const TQ1_0& block, float* y);
void decodeBlock(const TQ2_0& block, float* y);

}  // namespace tsq::gguf
