// How `linear` takes a step of packed codes apart. Include after an instruction set's parts.h.
#pragma once

#include "kernels/generic/codes.h"
#include "layout/packed.h"

namespace tsq {
namespace {

// A step of integer codes as words of which each half holds kPlaces codes, kBits apart.
template <layout::WeightKind kKind>
struct Step {
  using Kind = layout::WeightKind;
  static constexpr int kLines = kKind == Kind::kU3 ? 3 : 1;
  static constexpr int kColumns = kLines * 32 / layout::codeBits(kKind);  // packed k
  static constexpr int kBits = kKind == Kind::kU8 ? 8 : 4;
  static constexpr int kPlaces = 16 / kBits;
  static constexpr int kWords = kColumns / (2 * kPlaces);
  static constexpr uint32_t kMask = (1u << layout::codeBits(kKind)) - 1;

  // Packed column of a place in a half of a word. Codes of 2 and 3 bits: words of even and of odd columns.
  static constexpr int column(int word, int half, int place) {
    if (kWords == 1) return half * kPlaces + place;
    return word / 2 * 16 + half * 8 + place * 2 + word % 2;
  }

  // W: Words, or the words of a part.
  template <typename W>
  TSQ_INLINE void words(const W (&lines)[kLines], W (&out)[kWords]) {
    out[0] = lines[0];
    if constexpr (kKind == Kind::kU2) out[1] = shiftDown<2>(out[0]);
    if constexpr (kKind == Kind::kU3) {
      const W first = lines[0], second = lines[1];
      const W tops = spread(lines[2]), tops2 = spread(shiftDown<8>(lines[2]));
      out[0] = selectBits(kPairs, first, shiftDown<-2>(tops));
      out[1] = selectBits(kPairs, shiftDown<2>(first), shiftDown<-1>(tops));
      out[2] = selectBits(kPairs, second, shiftDown<-2>(tops2));
      out[3] = selectBits(kPairs, shiftDown<2>(second), shiftDown<-1>(tops2));
    }
  }

 private:
  static constexpr uint32_t kPairs = 0x33333333;
  // Bits 2 i and 2 i + 1 (i < 4) of each half to its bits 4 i and 4 i + 1; the others are not cleared.
  template <typename W>
  TSQ_INLINE W spread(W w) {
    const W nibbles = selectBits(0x000f000f, w, shiftDown<-4>(w));
    return selectBits(0x03030303, nibbles, shiftDown<-2>(nibbles));
  }
};

// What a code stands for in a part P of a panel: code minus zero point. kScaled: times 2^(kFactorBits place), since a
// code laid over the same float at every place keeps its factor. That is one instruction less where overlaying takes
// two, for sums of one place each.
template <typename P, layout::WeightKind kKind, bool kScaled>
struct PartDecoder {
  using S = Step<kKind>;
  using Half = typename P::Codes;
  static constexpr int kFactorBits = 0;
  typename P::Floats bias[S::kPlaces];

  // `at`: index of the 16 outputs' zero points.
  __attribute__((always_inline)) void set(const PackedView& w, int64_t at, int part) {
    setZero(P::of(loadZeros(w, at), part));
  }
  __attribute__((always_inline)) void setZero(typename P::Floats zero) {
    bias[0] = add(P::every(kMagic<0>), zero);
    bias[1] = add(P::every(kMagic<S::kBits>), zero);
    if constexpr (S::kPlaces == 4) {
      bias[2] = add(P::every(kMagic<8>), zero);
      bias[3] = add(P::every(kMagic<12>), zero);
    }
  }
  TSQ_INLINE Half half(typename P::Codes w) { return w; }
  template <int kPlace>
  __attribute__((always_inline)) typename P::Floats code(Half w) const {
    constexpr int kShift = kPlace * S::kBits;
    return sub(overlay(w, S::kMask << kShift, kMagic<kShift>), bias[kPlace]);
  }
};

template <typename P, layout::WeightKind kKind>
struct PartDecoder<P, kKind, true> {
  using S = Step<kKind>;
  using Half = typename P::Marked;
  static constexpr int kFactorBits = S::kBits;
  typename P::Floats bias[S::kPlaces];

  __attribute__((always_inline)) void set(const PackedView& w, int64_t at, int part) {
    setZero(P::of(loadZeros(w, at), part));
  }
  __attribute__((always_inline)) void setZero(typename P::Floats zero) {
#pragma GCC unroll 4
    for (int i = 0; i < S::kPlaces; ++i) {
      bias[i] = fma(P::every(static_cast<float>(1 << i * S::kBits)), zero, P::every(kMagic<0>));
    }
  }
  TSQ_INLINE Half half(typename P::Codes w) {
    return P::markLower(w);
  }
  template <int kPlace>
  __attribute__((always_inline)) typename P::Floats code(Half w) const {
    return sub(P::markedBits(w, S::kMask << kPlace * S::kBits), bias[kPlace]);
  }
};

// The value in the code book.
template <typename P>
struct BookDecoder {
  using Half = typename P::Codes;
  static constexpr int kFactorBits = 0;
  Book book;

  __attribute__((always_inline)) void set(const PackedView& w, int64_t, int) { book = loadBook(w.book); }
  TSQ_INLINE Half half(typename P::Codes w) { return w; }
  template <int kPlace>
  __attribute__((always_inline)) typename P::Floats code(Half w) const {
    return choose<kPlace * 4>(book, w);
  }
};
template <typename P>
struct PartDecoder<P, layout::WeightKind::kB4, false> : BookDecoder<P> {};
template <typename P>
struct PartDecoder<P, layout::WeightKind::kB4, true> : BookDecoder<P> {};

// The same for whole panels: code kIndex of each word, given the words and their upper halves.
template <layout::WeightKind kKind>
struct WordDecoder {
  Decoder<Step<kKind>::kBits> codes;

  __attribute__((always_inline)) void set(const PackedView& w, int64_t at) { codes.setZero(w, at); }
  template <int kIndex>
  __attribute__((always_inline)) Lanes decode(Words lower, Words upper) const {
    return codes.template decode<kIndex, Step<kKind>::kMask>(lower, upper);
  }
};
template <>
struct WordDecoder<layout::WeightKind::kB4> {
  Book book;

  __attribute__((always_inline)) void set(const PackedView& w, int64_t) { book = loadBook(w.book); }
  template <int kIndex>
  __attribute__((always_inline)) Lanes decode(Words lower, Words upper) const {
    return choose<kIndex % 4 * 4>(book, kIndex < 4 ? lower : upper);
  }
};

}  // namespace
}  // namespace tsq
