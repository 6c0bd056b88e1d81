// Integer codes to f32. Include after an instruction set's simd.h.
//
// A code is never shifted down: its bits are laid over a float 2^(23 - s), s the code's bit position, whose last
// mantissa place at position s counts one. That gives 2^(23 - s) + code exactly, and one subtraction of 2^(23 - s) +
// zero leaves code - zero, exact for zero points of up to 8 bits. Codes above bit 15 are first brought into the lower
// half of the word.
#pragma once

#include "kernels/packed_weight.h"

namespace tsq {
namespace {

// Scales of 16 outputs in one group; `at`: index of the first.
TSQ_INLINE Lanes loadScales(const PackedView& w, int64_t at) {
  switch (w.scaleType) {
    case layout::ScaleType::kF16:
      return loadHalf(static_cast<const uint16_t*>(w.scales) + at);
    case layout::ScaleType::kBF16:
      return loadBfloat(static_cast<const uint16_t*>(w.scales) + at);
    default:
      return load(static_cast<const float*>(w.scales) + at);
  }
}

// Their zero points.
TSQ_INLINE Lanes loadZeros(const PackedView& w, int64_t at) {
  return w.zeros != nullptr ? loadBytes(w.zeros + at) : set1(static_cast<float>(w.zero));
}

template <int kShift>
constexpr float kMagic = static_cast<float>(1 << (23 - kShift));

// Code minus zero point, for the zero points of 16 outputs in one group. kBits: from one code of a word to the next.
template <int kBits>
struct Decoder {
  static constexpr int kHalf = 16 / kBits;
  Lanes bias[kHalf];

  // `at`: index of the 16 outputs' scales and zero points.
  __attribute__((always_inline)) void setZero(const PackedView& w, int64_t at) {
    const Lanes zero = loadZeros(w, at);
    bias[0] = add(set1(kMagic<0>), zero);
    bias[1] = add(set1(kMagic<kBits>), zero);
    if constexpr (kBits == 4) {
      bias[2] = add(set1(kMagic<8>), zero);
      bias[3] = add(set1(kMagic<12>), zero);
    }
  }
  // Code kIndex of each word, given the words and their upper halves. kMask: narrower codes than their places.
  template <int kIndex, uint32_t kMask = (1u << kBits) - 1>
  __attribute__((always_inline)) Lanes decode(Words lower, Words upper) const {
    constexpr int kPlace = kIndex % kHalf, kShift = kPlace * kBits;
    return sub(overlay(kIndex < kHalf ? lower : upper, kMask << kShift, kMagic<kShift>), bias[kPlace]);
  }
};

}  // namespace
}  // namespace tsq
