// One to four rows times packed weights, decoded in registers and used at once: bound by memory. Include after
// generic/dots.h.
//
// Several panels run side by side: their sums hide the latency of each other, and an activation serves all of them. The
// limbs of a row lie like rows of their own and are multiplied at the same time, each into its own sum.
#pragma once

#include "kernels/generic/dots.h"
#include "kernels/generic/stream.h"

namespace tsq {
namespace {

constexpr int64_t kFetchGroups = 8;  // ahead, of scales and zero points

TSQ_INLINE void prefetchGroup(const PackedView& w, int64_t at) {
  const int64_t bytes = w.scaleType == layout::ScaleType::kF32 ? 4 : 2;
  prefetch(static_cast<const uint8_t*>(w.scales) + at * bytes);
  if (w.zeros != nullptr) prefetch(w.zeros + at);
}

// Terms kTerm … of one step of every panel.
template <class Codes, int kRows, int kPanels, class Partial, int kTerm = 0>
TSQ_INLINE void fusedTerms(const Codes (&codes)[kPanels], const Words (&lines)[kPanels][Codes::kLines],
                           const uint8_t* x, Partial (&sums)[kPanels][kRows]) {
  constexpr int kVector = kTerm / Codes::kPlanes, kPlane = kTerm % Codes::kPlanes;
  Words weights[kPanels];
#pragma GCC unroll 8
  for (int q = 0; q < kPanels; ++q) weights[q] = codes[q].template term<kTerm>(lines[q]);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const Words value = broadcastWord(x + r * layout::kChunkBytes + kVector * 4);
#pragma GCC unroll 8
    for (int q = 0; q < kPanels; ++q) sums[q][r].template add<kPlane>(weights[q], value);
  }
  if constexpr (kTerm + 1 < Codes::kTerms) {
    fusedTerms<Codes, kRows, kPanels, Partial, kTerm + 1>(codes, lines, x, sums);
  }
}

// One block of kPanels panels, `bytes` bytes apart. Moves line and x to the next block.
template <class Dot, class Codes, int kRows, int kPanels, class Partial>
TSQ_INLINE void fusedBlock(const Codes (&codes)[kPanels], const uint8_t*& line, int64_t bytes, Ahead ahead,
                           const uint8_t*& x, int64_t length, Partial (&sums)[kPanels][kRows]) {
  constexpr int64_t kChunkSteps = Dot::kChunk / Codes::kStep, kRunSteps = Dot::template runSteps<Codes>();
  constexpr int64_t kStepX = Codes::kTerms / Codes::kPlanes * 4;
  for (int64_t steps = length / Codes::kStep; steps > 0; steps -= kChunkSteps, x += kRows * layout::kChunkBytes) {
    const uint8_t* at = x;
    for (int64_t left = least(steps, kChunkSteps); left > 0; left -= kRunSteps) {
      for (int64_t i = least(left, kRunSteps); i > 0; --i, line += Codes::kLines * 64, at += kStepX) {
        Words lines[kPanels][Codes::kLines];
#pragma GCC unroll 8
        for (int q = 0; q < kPanels; ++q) {
#pragma GCC unroll 8
          for (int l = 0; l < Codes::kLines; ++l) {
            const uint8_t* p = line + q * bytes + l * 64;
            lines[q][l] = loadWords(p);
            ahead.fetch(p);
          }
        }
        fusedTerms<Codes, kRows, kPanels>(codes, lines, at, sums);
      }
#pragma GCC unroll 8
      for (int q = 0; q < kPanels; ++q) {
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) sums[q][r].flush();
      }
    }
  }
}

// kLimbs limbs of kRows rows, kPanels neighbouring panels.
template <class Dot, class Codes, int kRows, int kLimbs, int kPanels>
__attribute__((noinline)) void fusedPanels(const DotCall& call, const Codes& shared, int64_t panel) {
  constexpr int kParts = kRows * kLimbs;
  using Partial = typename Dot::template Partial<Codes::kPlanes>;
  const PackedView& w = *call.w;
  const layout::Shape& shape = w.shape;
  const int64_t groups = layout::groups(shape), stride = layout::groupStride(shape), width = layout::packedK(shape);
  const int64_t bytes = layout::panelBytes(shape);
  const uint8_t* begin = static_cast<const uint8_t*>(w.data) + panel * bytes;
  const uint8_t* line = begin;
  const uint8_t* x = call.chunks;
  const float* scales = call.scales;
  const int32_t* inputSums = call.sums;
  Lanes totals[kPanels][kRows];
#pragma GCC unroll 8
  for (int q = 0; q < kPanels; ++q) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) totals[q][r] = zeros();
  }
  int64_t p = 0;
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t groupEnd = least(p + stride, width);
    const int64_t at = (panel * groups + group) * layout::kPanel;
    Codes codes[kPanels];
    typename Dot::Params params[kPanels];
    // At its end a panel's successor is the next one that no other stream reads.
    const int64_t far = group + kFetchGroups + (group + kFetchGroups < groups ? 0 : (kPanels - 1) * groups);
#pragma GCC unroll 8
    for (int q = 0; q < kPanels; ++q) {
      const int64_t index = at + q * groups * layout::kPanel;
      codes[q] = shared;
      codes[q].setGroup(w, index);
      params[q] = Dot::read(w, index);
      if (Codes::kScaled) prefetchGroup(w, index + (far - group) * layout::kPanel);
    }
    while (p < groupEnd) {
      const int64_t length = Dot::kByRow && call.byRow ? groupEnd : least(groupEnd - p, layout::kBlock);
      Partial sums[kPanels][kParts];
#pragma GCC unroll 8
      for (int q = 0; q < kPanels; ++q) {
#pragma GCC unroll 8
        for (int r = 0; r < kParts; ++r) sums[q][r].start(Dot::start(params[q], inputSums, r));
      }
      if constexpr (Dot::kByRow) {
        for (int q = 0; call.byRow && q < kPanels; ++q) {
#pragma GCC unroll 8
          for (int r = 0; r < kParts; ++r) sums[q][r].start(Dot::startByRow(w, panel + q, inputSums[r]));
        }
      }
      fusedBlock<Dot, Codes, kParts, kPanels>(codes, line, bytes, Ahead(line - begin, bytes, kPanels), x, length, sums);
#pragma GCC unroll 8
      for (int limb = 0; limb < kLimbs; ++limb) {
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const Lanes rowScale = Dot::rowScale(scales, r);
#pragma GCC unroll 8
          for (int q = 0; q < kPanels; ++q) {
            totals[q][r] = Dot::finish(params[q], sums[q][limb * kRows + r].total, rowScale, totals[q][r]);
          }
        }
      }
      scales += kRows;
      if constexpr (Dot::kRowSums) inputSums += kRows;
      p += length;
    }
  }
  alignas(64) float out[kRows * kPanels * layout::kPanel];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int q = 0; q < kPanels; ++q) store(out + (r * kPanels + q) * layout::kPanel, totals[q][r]);
  }
  writePanels(call, 0, kRows, panel, kPanels, out);
}

// All panels of the call, kPanels at a time; what is left over goes the way of many rows.
template <class Dot, class Codes, int kRows, int kLimbs, int kPanels>
void multiplyFused(const DotCall& call) {
  const Codes codes(*call.w);
  int64_t panel = call.panelBegin;
  for (; panel + kPanels <= call.panelEnd; panel += kPanels) {
    fusedPanels<Dot, Codes, kRows, kLimbs, kPanels>(call, codes, panel);
  }
  if (panel == call.panelEnd) return;
  DotCall rest = call;
  rest.panelBegin = panel;
  multiplyMany<Dot, Codes>(rest);
}

}  // namespace
}  // namespace tsq
