// Packed words to pairs of bf16: code minus zero point of two k of each output (layout/activations.h, pairColumn),
// which is exact, or the weight itself. Include after an instruction set's words.h and generic/codes.h.
#pragma once

#include "kernels/generic/codes.h"
#include "kernels/generic/split_pairs.h"

namespace tsq {
namespace {

// Where the zero point comes in. kShared: one for all, part of the table. kOffset: by output and group, none above
// kMostOffset: moves the index into the table. kAny: subtracted from each code.
enum class ZeroWay { kShared, kOffset, kAny };
constexpr int32_t kMostOffset = 16;

// Two vectors of floats that need no more than 8 bits, as pairs.
TSQ_INLINE Words mergePairs(Lanes first, Lanes second) {
  return selectBits(0xffff0000, bitsOf(second), upperHalves(bitsOf(first)));
}

// The largest zero point of the call's panels.
TSQ_INLINE int32_t mostZero(const DotCall& call) {
  const int64_t apart = layout::groups(call.w->shape) * layout::kPanel;
  Words most = zeroWords();
  for (int64_t i = call.panelBegin * apart; i < call.panelEnd * apart; i += layout::kPanel) {
    most = maxWords(most, widenBytes(call.w->zeros + i));
  }
  return largestWord(most);
}

// bf16 of (i & mask) - zero for i = 0 … 31.
TSQ_INLINE Words pairTable(uint32_t mask, int32_t zero) {
  alignas(64) constexpr int32_t kCount[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const Words count = loadWords(kCount);
  const Words first = subWords(keepBits(count, mask), everyWord(zero));
  const Words second = subWords(keepBits(addWords(count, everyWord(16)), mask), everyWord(zero));
  return chooseHalves(bitsOf(floats(first)), bitsOf(floats(second)), kPairOrder<layout::WeightKind::kBF16>.half);
}

// bf16 of the values, which need no more bits, twice.
TSQ_INLINE Words bookTable(const float* values) {
  const Words book = bitsOf(load(values));
  return chooseHalves(book, book, kPairOrder<layout::WeightKind::kBF16>.half);
}

// Of 16 outputs in a group; 8-bit floats are decoded with an exponent that is off.
TSQ_INLINE Lanes pairScales(const PackedView& w, int64_t at) {
  if (w.scales == nullptr) return set1(1);
  return w.shape.kind == layout::WeightKind::kE4M3 ? mul(set1(256), loadScales(w, at)) : loadScales(w, at);
}

// One step of packed lines. A term is one vector of pairs.
template <layout::WeightKind kWeights, ZeroWay kWay>
struct PairCodes {
  using Kind = layout::WeightKind;
  static constexpr Kind kKind = kWeights;
  static constexpr bool kNibbles = kKind == Kind::kU4 || kKind == Kind::kI4;
  static constexpr int kPlanes = 1;
  static constexpr bool kScaled = kKind != Kind::kBF16;
  static constexpr int kBits = kNibbles ? 4 : 2;  // of a code in a word
  static constexpr uint32_t kMask = kNibbles ? 15 : kKind == Kind::kU3 ? 7 : 3;
  static constexpr bool kSmallFloats = layout::isSmallFloat(kKind);
  static constexpr int kLines = kKind == Kind::kU8 || kSmallFloats ? 2
                                : kKind == Kind::kU3               ? 3
                                : kKind == Kind::kBF16             ? 4
                                                                   : 1;
  static constexpr int kStep = kKind == Kind::kU3 ? 32 : kKind == Kind::kU2 ? 16 : 8;  // packed k
  static constexpr int kTerms = kStep / 2;

  Words table;  // by the lower five bits of an index: of a code whatever is above it, or of code + 16 - zero
  Words zero;   // kOffset: 16 - zero in both halves of a word; kAny: the zero points
  Decoder<8> bytes;

  PairCodes() = default;
  TSQ_METHOD explicit PairCodes(const PackedView& w) {
    if constexpr (kKind == Kind::kU8) bytes.setZero(w, 0);
    if constexpr (kKind == Kind::kI4) {
      table = bookTable(w.book);
    } else if constexpr (kKind != Kind::kU8 && kKind != Kind::kBF16 && !kSmallFloats) {
      table = kWay == ZeroWay::kShared ? pairTable(kMask, w.zero) : pairTable(31, kMostOffset);
      zero = everyWord(w.zero);
    }
  }
  // `at`: index of the 16 outputs' zero points in the group.
  TSQ_METHOD void setGroup(const PackedView& w, int64_t at) {
    if constexpr (kWay == ZeroWay::kShared) return;
    if constexpr (kKind == Kind::kU8) {
      bytes.setZero(w, at);
    } else {
      zero = widenBytes(w.zeros + at);
      if constexpr (kWay == ZeroWay::kOffset) {
        const Words offset = subWords(everyWord(kMostOffset), zero);  // 0 … 16
        zero = addWords(offset, shiftDown<-16>(offset));
      }
    }
  }

  template <int kTerm>
  TSQ_METHOD Words term(const Words (&lines)[kLines]) const {
    if constexpr (kKind == Kind::kBF16) {
      return neighbours(lines[kTerm]);
    } else if constexpr (kSmallFloats) {
      // Columns 2 kTerm and 2 kTerm + 1: a half each of a line.
      return smallFloatPairs<kKind, kTerm % 2>(lines[kTerm / 2]);
    } else if constexpr (kKind == Kind::kU8) {
      constexpr int kByte = kTerm % 2;
      const Words lower = lines[kTerm / 2], upper = upperHalves(lower);
      return mergePairs(bytes.template decode<kByte>(lower, upper), bytes.template decode<kByte + 2>(lower, upper));
    } else if constexpr (kWay == ZeroWay::kShared) {
      return lookUp(table, index<kTerm>(lines));
    } else {
      const Words codes = keepBits(index<kTerm>(lines), kMask * 0x10001);
      if constexpr (kWay == ZeroWay::kOffset) return lookUp(table, addWords(codes, zero));
      return mergePairs(floats(subWords(keepBits(codes, 0xffff), zero)), floats(subWords(upperHalves(codes), zero)));
    }
  }

 private:
  // Two codes at the bottom of the halves of each word, with something above them.
  template <int kTerm>
  TSQ_METHOD static Words index(const Words (&lines)[kLines]) {
    if constexpr (kKind == Kind::kU3) {
      constexpr int kHalf = kTerm / 8, kPair = kTerm % 8;
      return selectBits(0x00030003, shiftDown<kPair * 2>(lines[kHalf]), shiftDown<kHalf * 8 + kPair - 2>(lines[2]));
    } else {
      return shiftDown<kTerm * kBits>(lines[0]);
    }
  }
  // Two packed columns of 16 bf16 as pairs of neighbours.
  TSQ_METHOD static Words neighbours(Words line) {
    alignas(64) static constexpr uint16_t kOrder[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return lookUp(line, loadWords(kOrder));
  }
};

}  // namespace
}  // namespace tsq
