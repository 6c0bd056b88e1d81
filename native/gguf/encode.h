// One overload for each block type: the block that ggml's reference encoder makes of its numbers, which are finite.
// Source of all: ggml-org/ggml, src/ggml-quants.c, quantize_row_*_ref and, with weights, quantize_row_*_impl.
#pragma once
#include "gguf/blocks.h"

namespace tsq::gguf {

// Weights of the squared errors, from an importance matrix.
struct Importance {
  const float* columns;  // of the block's columns; null: none
  float rowMeanSquare;   // of the whole row; read only with columns
};

void encodeBlock(const float* x, const Importance& importance, Q4_0& block);
void encodeBlock(const float* x, const Importance& importance, Q4_1& block);
void encodeBlock(const float* x, const Importance& importance, Q5_0& block);
void encodeBlock(const float* x, const Importance& importance, Q5_1& block);
void encodeBlock(const float* x, const Importance& importance, Q8_0& block);
void encodeBlock(const float* x, const Importance& importance, MXFP4& block);
void encodeBlock(const float* x, const Importance& importance, IQ4_NL& block);
void encodeBlock(const float* x, const Importance& importance, IQ4_XS& block);
void encodeBlock(const float* x, const Importance& importance, Q2_K& block);
void encodeBlock(const float* x, const Importance& importance, Q3_K& block);
void encodeBlock(const float* x, const Importance& importance, Q4_K& block);
void encodeBlock(const float* x, const Importance& importance, Q5_K& block);
void encodeBlock(const float* x, const Importance& importance, Q6_K& block);
void encodeBlock(const float* x, const Importance& importance, Q8_K& block);
void encodeBlock(const float* x, const Importance& importance, TQ1_0& block);
void encodeBlock(const float* x, const Importance& importance, TQ2_0& block);

}  // namespace tsq::gguf
