// Packed words to quads of unsigned bytes, four k of each output (layout/activations.h, quadColumn). Include after an
// instruction set's words.h.
#pragma once

#include <type_traits>

#include "kernels/packed_weight.h"
#include "layout/activations.h"

namespace tsq {
namespace {

// Zero points of 16 outputs from scale `at`, negated, as half words: times the sum of a block of x (16 bits too) they
// are what the sum of its products starts with.
TSQ_INLINE Words negatedZeros(const PackedView& w, int64_t at) {
  const Words zero = w.zeros != nullptr ? widenBytes(w.zeros + at) : everyWord(w.zero);
  return keepBits(subWords(zeroWords(), zero), 0xffff);
}

// One step of packed lines. A term is one vector of bytes for one quad; where kPlanes is 2, 8-bit codes are two terms,
// lower and upper nibbles, since a sum of two products with 8 bits does not fit the 16 that maddubs leaves for it.
template <layout::WeightKind kWeights, int kNibblePlanes>
struct QuadCodes {
  using Kind = layout::WeightKind;
  static constexpr Kind kKind = kWeights;
  static constexpr int kPlanes = kKind == Kind::kU8 ? kNibblePlanes : 1;
  static constexpr bool kScaled = true;
  static constexpr int kLines = kKind == Kind::kU8 ? 2 : kKind == Kind::kU3 ? 3 : 1;
  static constexpr int kStep = kKind == Kind::kU3 ? 32 : kKind == Kind::kU2 ? 16 : 8;  // packed k
  static constexpr int kTerms = kStep / 4 * kPlanes;

  struct Nothing {};
  struct Table {
    Words bytes;
  };
  std::conditional_t<kKind == Kind::kI4, Table, Nothing> table;  // the book's whole numbers above their zero point

  QuadCodes() = default;
  TSQ_METHOD explicit QuadCodes(const PackedView& w) {
    if constexpr (kKind == Kind::kI4) {
      uint8_t bytes[layout::kBookSize];
      for (int i = 0; i < layout::kBookSize; ++i)
        bytes[i] = static_cast<uint8_t>(static_cast<int>(w.book[i]) + layout::kBookZero);
      table.bytes = byteTable(bytes);
    }
  }
  // Codes go in as they are: nothing changes from group to group.
  TSQ_METHOD void setGroup(const PackedView&, int64_t) {}

  template <int kTerm>
  TSQ_METHOD Words term(const Words (&lines)[kLines]) const {
    if constexpr (kKind == Kind::kU8) {
      const Words bytes = lines[kTerm / kPlanes];
      if constexpr (kPlanes == 1) return bytes;
      return keepBits(shiftDown<kTerm % 2 * 4>(bytes), 0x0f0f0f0f);
    } else if constexpr (kKind == Kind::kU4) {
      return keepBits(shiftDown<kTerm * 4>(lines[0]), 0x0f0f0f0f);
    } else if constexpr (kKind == Kind::kI4) {
      return lookUpBytes(table.bytes, keepBits(shiftDown<kTerm * 4>(lines[0]), 0x0f0f0f0f));
    } else if constexpr (kKind == Kind::kU2) {
      return keepBits(shiftDown<kTerm * 2>(lines[0]), 0x03030303);
    } else {
      constexpr int kHalf = kTerm / 4, kQuad = kTerm % 4;
      const Words low = shiftDown<kQuad * 2>(lines[kHalf]), top = shiftDown<kQuad - 2>(topBits<kHalf>(lines[2]));
      return keepBits(selectBits(0x03030303, low, top), 0x07070707);
    }
  }

 private:
  // Lower nibble of byte e: the top bits of k = 16 kHalf + 4 e + (0 … 3).
  template <int kHalf>
  TSQ_METHOD static Words topBits(Words plane) {
    return selectBits(0x00ff00ff, shiftDown<kHalf * 8>(plane), shiftDown<kHalf * 8 - 4>(plane));
  }
};

}  // namespace
}  // namespace tsq
