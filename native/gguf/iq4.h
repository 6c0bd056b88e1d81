// The nearest entry of IQ4's table, without branches, so that it can be had for many numbers at once.
// ggml (src/ggml-quants.c, best_index_int8) compares the distances to the two neighbours and takes the upper one of
// equals. Near the middle of two entries both distances are exact in f32, and so is the middle: the same is to count
// the middles that a number reaches. NaN reaches none.
#pragma once
#include "gguf/blocks.h"

namespace tsq::gguf {

TSQ_INLINE int iq4Index(float x) {
  int index = 0;
  for (int i = 0; i < 15; ++i)
    index += x >= 0.5f * (static_cast<float>(kIq4Values[i]) + static_cast<float>(kIq4Values[i + 1])) ? 1 : 0;
  return index;
}

TSQ_INLINE float iq4Value(float x) {
  auto value = static_cast<float>(kIq4Values[0]);
  for (int i = 0; i < 15; ++i) {
    const auto low = static_cast<float>(kIq4Values[i]), high = static_cast<float>(kIq4Values[i + 1]);
    value += x >= 0.5f * (low + high) ? high - low : 0.f;
  }
  return value;
}

}  // namespace tsq::gguf
