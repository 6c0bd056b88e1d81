// Quads by one instruction that multiplies and adds them. Include after an instruction set's words.h and a function
// dotQuads(sum, codes, x).
#pragma once

#include "kernels/generic/quads.h"

namespace tsq {
namespace {

// kFused: panels side by side for one row, two rows and so on.
template <int kRows, int kPanels, int... kFused>
struct DirectQuads : QuadBase {
  static constexpr int kTileRows = kRows, kTilePanels = kPanels;
  TSQ_METHOD static constexpr int fusedPanels(int rows) {
    constexpr int kCount = sizeof...(kFused), kPanelsOf[] = {kFused...};
    return rows <= kCount ? kPanelsOf[rows - 1] : 0;
  }
  static constexpr int kNibblePlanes = 1;
  static constexpr int64_t kRun = 16;  // quads between two flushes

  TSQ_METHOD static constexpr int64_t decodedBytes(layout::WeightKind, int64_t length) {
    return length * layout::kPanel;
  }
  TSQ_METHOD static Words dot(Words sum, Words codes, Words x) { return dotQuads(sum, codes, x); }

  template <int kTall, int kAcross>
  TSQ_METHOD static void accumulate(Words (&sums)[kTall][kAcross], layout::WeightKind, const uint8_t* weights,
                                    const uint8_t* x, int64_t apart, int64_t quads, Fetch& fetch) {
    accumulateDirect<DirectQuads, kTall, kAcross>(sums, weights, x, apart, quads, fetch);
  }
  template <class Codes>
  TSQ_METHOD static constexpr int64_t runSteps() {
    return kChunk / Codes::kStep;
  }

  template <int>
  struct Partial {
    Words total;
    TSQ_METHOD void start(Words sum) { total = sum; }
    template <int>
    TSQ_METHOD void add(Words codes, Words x) {
      total = dotQuads(total, codes, x);
    }
    TSQ_METHOD void flush() {}
  };
};

}  // namespace
}  // namespace tsq
