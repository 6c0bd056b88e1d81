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

template <int kBits>
constexpr int kCodesPerWord = 32 / kBits;

template <int kShift>
constexpr float kMagic = static_cast<float>(1 << (23 - kShift));

// Code minus zero point, for the zero points of 16 outputs in one group.
template <int kBits>
struct Decoder {
  static constexpr int kHalf = 16 / kBits;
  Lanes bias[kHalf];

  // `at`: index of the 16 outputs' scales and zero points.
  __attribute__((always_inline)) void setZero(const PackedView& w, int64_t at) {
    const Lanes zero = w.zeros != nullptr ? load(w.zeros + at) : set1(w.zero);
    bias[0] = add(set1(kMagic<0>), zero);
    bias[1] = add(set1(kMagic<kBits>), zero);
    if constexpr (kBits == 4) {
      bias[2] = add(set1(kMagic<8>), zero);
      bias[3] = add(set1(kMagic<12>), zero);
    }
  }
  // Code kIndex of each word, given the words and their upper halves.
  template <int kIndex>
  __attribute__((always_inline)) Lanes decode(Words lower, Words upper) const {
    constexpr int kPlace = kIndex % kHalf, kShift = kPlace * kBits;
    return sub(overlay(kIndex < kHalf ? lower : upper, ((1u << kBits) - 1) << kShift, kMagic<kShift>), bias[kPlace]);
  }
};

}  // namespace
}  // namespace tsq
