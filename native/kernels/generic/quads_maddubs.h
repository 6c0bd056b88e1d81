// Quads by maddubs, which adds two products of bytes to a saturated 16-bit number. Sums of codes below 16 leave room
// there for several more, so that they are added up as they are and widened only once a run; codes of 8 bits are taken
// as two planes of nibbles. Include after an instruction set's words.h.
#pragma once

#include "kernels/generic/quads.h"

namespace tsq {
namespace {

template <int kRows, int kPanels, int kPanelsOfTwoRows, int kPanelsOfFourRows>
struct MaddubsQuads : QuadBase {
  static constexpr int kTileRows = kRows, kTilePanels = kPanels;
  TSQ_METHOD static constexpr int fusedPanels(int rows) {
    return rows <= 2 ? kPanelsOfTwoRows : rows <= 4 ? kPanelsOfFourRows : 0;
  }
  static constexpr int kNibblePlanes = 2;
  static constexpr int64_t kRun = 8;        // quads of codes below 16: 8 * 2 * 15 * 127 < 2^15
  static constexpr int64_t kShortRun = 16;  // below 8

  TSQ_METHOD static constexpr bool isShort(layout::WeightKind kind) {
    return kind == layout::WeightKind::kU2 || kind == layout::WeightKind::kU3;
  }
  TSQ_METHOD static constexpr int64_t decodedBytes(layout::WeightKind kind, int64_t length) {
    return length * layout::kPanel * (kind == layout::WeightKind::kU8 ? kNibblePlanes : 1);
  }
  // 16-bit sums of a plane to 32 bits, upper nibbles sixteenfold.
  template <int kPlane>
  TSQ_METHOD static Words widen(Words halves) {
    return halfProducts(halves, everyWord(kPlane == 0 ? 0x00010001 : 0x00100010));
  }

  template <int kTall, int kAcross, int kPlane>
  TSQ_METHOD static void addRun(Words (&sums)[kTall][kAcross], const uint8_t* weights, const uint8_t* x,
                                int64_t quads) {
    Words halves[kTall][kAcross];
#pragma GCC unroll 8
    for (int r = 0; r < kTall; ++r) {
#pragma GCC unroll 4
      for (int q = 0; q < kAcross; ++q) halves[r][q] = zeroWords();
    }
    do {
#pragma GCC unroll 2
      for (int s = 0; s < 2; ++s) {
        Words w[kAcross];
#pragma GCC unroll 4
        for (int q = 0; q < kAcross; ++q) w[q] = loadWords(weights + (s * kAcross + q) * 64);
#pragma GCC unroll 8
        for (int r = 0; r < kTall; ++r) {
          const Words value = broadcastWord(x + r * layout::kChunkBytes + s * 4);
#pragma GCC unroll 4
          for (int q = 0; q < kAcross; ++q) halves[r][q] = addHalves(halves[r][q], byteProducts(w[q], value));
        }
      }
      quads -= 2;
      x += 8;
      weights += 2 * kAcross * 64;
    } while (quads > 0);
#pragma GCC unroll 8
    for (int r = 0; r < kTall; ++r) {
#pragma GCC unroll 4
      for (int q = 0; q < kAcross; ++q) sums[r][q] = addWords(sums[r][q], widen<kPlane>(halves[r][q]));
    }
  }

  // Where there are planes, those of a run follow each other in `weights`.
  template <int kTall, int kAcross>
  TSQ_METHOD static void accumulate(Words (&sums)[kTall][kAcross], layout::WeightKind kind, const uint8_t* weights,
                                    const uint8_t* x, int64_t apart, int64_t quads, Fetch& fetch) {
    const int64_t most = isShort(kind) ? kShortRun : kRun;
    for (; quads > 0; quads -= 16, x += apart) {
      fetch.chunk<kTall, kAcross>(x);
      const uint8_t* at = x;
      for (int64_t left = least(quads, 16); left > 0; left -= most, at += 4 * most) {
        const int64_t run = least(left, most), bytes = run * kAcross * 64;
        addRun<kTall, kAcross, 0>(sums, weights, at, run);
        weights += bytes;
        if (kind != layout::WeightKind::kU8) continue;
        addRun<kTall, kAcross, 1>(sums, weights, at, run);
        weights += bytes;
      }
    }
  }
  template <class Codes>
  TSQ_METHOD static constexpr int64_t runSteps() {
    return (isShort(Codes::kKind) ? kShortRun : kRun) * 4 / Codes::kStep;
  }

  template <int kPlanes>
  struct Partial {
    Words total;
    Words halves[kPlanes];
    TSQ_METHOD void start(Words sum) {
      total = sum;
      for (int i = 0; i < kPlanes; ++i) halves[i] = zeroWords();
    }
    template <int kPlane>
    TSQ_METHOD void add(Words codes, Words x) {
      halves[kPlane] = addHalves(halves[kPlane], byteProducts(codes, x));
    }
    TSQ_METHOD void flush() {
      total = addWords(total, widen<0>(halves[0]));
      if constexpr (kPlanes > 1) total = addWords(total, widen<1>(halves[1]));
      for (int i = 0; i < kPlanes; ++i) halves[i] = zeroWords();
    }
  };
};

}  // namespace
}  // namespace tsq
