// Matmul of one to eight rows: weights are decoded in registers and used at once. Bound by memory. Include after an
// instruction set's parts.h.
//
// Sums run over at most blocking::kDepth packed columns inside one group, in kChains interleaved chains, and are then
// scaled and added to the total. The order of additions depends on the number of rows only, never on panels or
// instruction set. Four chains of integer codes hold one place of the words each, times that place's power of two.
#pragma once

#include "kernels/blocking.h"
#include "kernels/generic/codes.h"
#include "kernels/generic/steps.h"
#include "kernels/kernels.h"

namespace tsq {
namespace {

constexpr int64_t kFusedMost = 8;  // rows

// Bytes between the line in use and the one fetched ahead, where the hardware's own fetching stops at page ends.
constexpr int64_t kPrefetchBytes = 3072;

// Where to fetch from when a panel is at `offset` of its `bytes`: behind its end follow the next kPanels panels.
template <int kPanels>
TSQ_INLINE int64_t fetchOffset(int64_t offset, int64_t bytes) {
  const int64_t ahead = offset + kPrefetchBytes;
  return ahead < bytes ? ahead : ahead + (kPanels - 1) * bytes;
}

template <int kRows>
constexpr int kParts = layout::kPanel / Part<kRows>::kLanes;

// More rows are independent anyway.
template <int kRows>
constexpr int kChains = kRows <= 2 ? 4 : 1;

// The rows of x. Separate pointers with one common offset, so that the compiler keeps kRows + 1 registers for them.
template <int kRows>
struct Activations {
  const float* row[kRows];
  __attribute__((always_inline)) Activations(const float* x, int64_t ldx) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) row[r] = x + r * ldx;
  }
};

// The running sums of one block and part.
template <int kRows>
struct Sums {
  using P = Part<kRows>;
  using Floats = typename P::Floats;
  static constexpr int kCount = kChains<kRows>;
  Floats chain[kRows][kCount];

  __attribute__((always_inline)) void clear() {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < kCount; ++c) chain[r][c] = P::zero();
    }
  }
  // Weights of packed column p + kColumn.
  template <int kColumn, int kChain>
  __attribute__((always_inline)) void add(Floats weights, const Activations<kRows>& x, int64_t p) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      Floats& sum = chain[r][kChain % kCount];
      sum = fma(weights, P::every(x.row[r][p + kColumn]), sum);
    }
  }
  // kBits: from place to place of the codes that four chains hold; 0: chains of plain weights.
  template <int kBits>
  __attribute__((always_inline)) Floats total(int r) const {
    if constexpr (kCount == 1) return chain[r][0];
    constexpr float kSecond = 1.0f / (1 << kBits), kThird = kBits == 4 ? kSecond * kSecond : 1;
    return tsq::add(fma(chain[r][1], P::every(kSecond), chain[r][0]),
                    fma(chain[r][3], P::every(kThird * kSecond), mul(chain[r][2], P::every(kThird))));
  }
};

// Adds the bias and writes the panel's columns that exist.
TSQ_INLINE void finish(Lanes total, float* y, const float* bias, int64_t column, int64_t n) {
  const int64_t count = n - column;
  if (count >= layout::kPanel) {
    store(y + column, bias != nullptr ? add(total, load(bias + column)) : total);
  } else {
    storePartial(y + column, bias != nullptr ? add(total, loadPartial(bias + column, count)) : total, count);
  }
}

struct Call {
  const PackedView* w;
  const float* x;
  int64_t ldx;
  float* y;
  int64_t ldy;
  const float* bias;
};

// The totals of kPanels neighbouring panels.
template <int kRows, int kPanels>
struct Totals {
  using P = Part<kRows>;
  typename P::Floats sum[kPanels][kRows][kParts<kRows>];

  __attribute__((always_inline)) Totals() {
    for (int q = 0; q < kPanels; ++q) {
      for (int r = 0; r < kRows; ++r) {
        for (int h = 0; h < kParts<kRows>; ++h) sum[q][r][h] = P::zero();
      }
    }
  }
  __attribute__((always_inline)) void write(const Call& call, int64_t panel) const {
    for (int q = 0; q < kPanels; ++q) {
      for (int r = 0; r < kRows; ++r) {
        finish(P::joined(sum[q][r]), call.y + r * call.ldy, call.bias, (panel + q) * layout::kPanel, call.w->shape.n);
      }
    }
  }
};

template <int kRows, layout::WeightKind kKind>
using FusedDecoder = PartDecoder<Part<kRows>, kKind, kChains<kRows> == 4>;

// One place of a half word in every panel, then the next: a broadcast activation serves all panels and is dropped.
template <layout::WeightKind kKind, int kWord, int kHalf, int kPlace, int kRows, int kPanels>
TSQ_INLINE void fusedPlaces(const FusedDecoder<kRows, kKind> (&decoders)[kPanels],
                            const typename FusedDecoder<kRows, kKind>::Half (&halves)[kPanels],
                            const Activations<kRows>& x, int64_t p, Sums<kRows> (&sums)[kPanels]) {
  using S = Step<kKind>;
#pragma GCC unroll 2
  for (int q = 0; q < kPanels; ++q) {
    sums[q].template add<S::column(kWord, kHalf, kPlace), kHalf * S::kPlaces + kPlace>(
        decoders[q].template code<kPlace>(halves[q]), x, p);
  }
  if constexpr (kPlace + 1 < S::kPlaces) {
    fusedPlaces<kKind, kWord, kHalf, kPlace + 1, kRows, kPanels>(decoders, halves, x, p, sums);
  }
}

// The words of a step one after the other, lower halves first.
template <layout::WeightKind kKind, int kWord, int kRows, int kPanels>
TSQ_INLINE void fusedWords(const FusedDecoder<kRows, kKind> (&decoders)[kPanels],
                           const typename Part<kRows>::Codes (&words)[kPanels][Step<kKind>::kWords],
                           const Activations<kRows>& x, int64_t p, Sums<kRows> (&sums)[kPanels]) {
  using D = FusedDecoder<kRows, kKind>;
  typename D::Half lower[kPanels], upper[kPanels];
#pragma GCC unroll 2
  for (int q = 0; q < kPanels; ++q) {
    lower[q] = D::half(words[q][kWord]);
    upper[q] = D::half(upperHalves(words[q][kWord]));
  }
  fusedPlaces<kKind, kWord, 0, 0, kRows, kPanels>(decoders, lower, x, p, sums);
  fusedPlaces<kKind, kWord, 1, 0, kRows, kPanels>(decoders, upper, x, p, sums);
  if constexpr (kWord + 1 < Step<kKind>::kWords) {
    fusedWords<kKind, kWord + 1, kRows, kPanels>(decoders, words, x, p, sums);
  }
}

// One block of kPanels panels, `apart` bytes apart: packed columns [p, end). `fetch`: offset of the lines to fetch.
// `at`: indices of the scales.
template <layout::WeightKind kKind, int kRows, int kPanels>
TSQ_INLINE void fusedBlock(const PackedView& w, const uint8_t* line, int64_t apart, int64_t fetch,
                           const int64_t (&at)[kPanels], const Activations<kRows>& x, int64_t p, int64_t end,
                           Totals<kRows, kPanels>& totals) {
  using S = Step<kKind>;
  using P = Part<kRows>;
  constexpr int64_t kLine = 64, kPartBytes = P::kLanes * 4;
#pragma GCC unroll 2
  for (int h = 0; h < kParts<kRows>; ++h) {
    Sums<kRows> sums[kPanels];
    FusedDecoder<kRows, kKind> decoders[kPanels];
#pragma GCC unroll 2
    for (int q = 0; q < kPanels; ++q) {
      sums[q].clear();
      decoders[q].set(w, at[q], h);
    }
    const uint8_t* from = line + h * kPartBytes;
    for (int64_t i = p; i < end; i += S::kColumns, from += S::kLines * kLine) {
      typename P::Codes words[kPanels][S::kWords];
#pragma GCC unroll 2
      for (int q = 0; q < kPanels; ++q) {
        typename P::Codes lines[S::kLines];
#pragma GCC unroll 3
        for (int l = 0; l < S::kLines; ++l) {
          lines[l] = P::loadCodes(from + q * apart + l * kLine);
          if (h == 0) prefetch(from + q * apart + l * kLine + fetch);
        }
        S::words(lines, words[q]);
      }
      fusedWords<kKind, 0, kRows, kPanels>(decoders, words, x, i, sums);
    }
#pragma GCC unroll 2
    for (int q = 0; q < kPanels; ++q) {
      const typename P::Floats scale = P::of(loadScales(w, at[q]), h);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        totals.sum[q][r][h] =
            fma(scale, sums[q].template total<FusedDecoder<kRows, kKind>::kFactorBits>(r), totals.sum[q][r][h]);
      }
    }
  }
}

// Whether codes lie in words, or one column after the other.
template <layout::WeightKind kKind>
constexpr bool kInWords = layout::hasScales(kKind) && !layout::isSmallFloat(kKind);
template <layout::WeightKind kKind>
constexpr int64_t kColumnBytes = layout::kPanel * (layout::isSmallFloat(kKind)         ? 1
                                                   : kKind == layout::WeightKind::kF32 ? 4
                                                                                       : 2);
// Of packed column p, which begins a step, in its panel.
template <layout::WeightKind kKind>
TSQ_INLINE int64_t offsetOf(int64_t p) {
  if constexpr (kInWords<kKind>) {
    return p / Step<kKind>::kColumns * Step<kKind>::kLines * 64;
  } else {
    return p * kColumnBytes<kKind>;
  }
}

// Weights of one packed column of 16 outputs, and of a part of them.
template <layout::WeightKind kKind>
TSQ_INLINE Lanes loadWeights(const void* data) {
  if constexpr (kKind == layout::WeightKind::kF16) return loadHalf(data);
  if constexpr (kKind == layout::WeightKind::kE4M3) return loadE4m3(data);
  if constexpr (kKind == layout::WeightKind::kE5M2) return loadE5m2(data);
  return loadBfloat(data);
}
template <layout::WeightKind kKind, typename P>
TSQ_INLINE typename P::Floats loadWeightsPart(const void* data) {
  if constexpr (kKind == layout::WeightKind::kF32) return P::load(static_cast<const float*>(data));
  if constexpr (kKind == layout::WeightKind::kF16) return P::loadHalf(data);
  if constexpr (kKind == layout::WeightKind::kE4M3) return P::loadE4m3(data);
  if constexpr (kKind == layout::WeightKind::kE5M2) return P::loadE5m2(data);
  return P::loadBfloat(data);
}
// What they are still to be multiplied by.
template <layout::WeightKind kKind>
constexpr float kFactor = kKind == layout::WeightKind::kE4M3 ? 256.0f : 1.0f;

// One block of float kinds, as fusedBlock: packed k is a multiple of 8, so that four columns are a step.
template <layout::WeightKind kKind, int kRows, int kPanels>
TSQ_INLINE void fusedFloatBlock(const PackedView& w, const uint8_t* data, int64_t apart, int64_t fetch,
                                const int64_t (&at)[kPanels], const Activations<kRows>& x, int64_t p, int64_t end,
                                Totals<kRows, kPanels>& totals) {
  using P = Part<kRows>;
  constexpr int64_t kColumn = kColumnBytes<kKind>, kElement = kColumn / layout::kPanel;
#pragma GCC unroll 2
  for (int h = 0; h < kParts<kRows>; ++h) {
    Sums<kRows> sums[kPanels];
#pragma GCC unroll 2
    for (int q = 0; q < kPanels; ++q) sums[q].clear();
    const uint8_t* from = data + h * P::kLanes * kElement;
    for (int64_t i = p; i < end; i += 4, from += 4 * kColumn) {
#pragma GCC unroll 2
      for (int q = 0; q < kPanels; ++q) {
        const uint8_t* column = from + q * apart;
        if (h == 0) {
#pragma GCC unroll 4
          for (int64_t line = 0; line < 4 * kColumn; line += 64) prefetch(column + fetch + line);
        }
        sums[q].template add<0, 0>(loadWeightsPart<kKind, P>(column), x, i);
        sums[q].template add<1, 1>(loadWeightsPart<kKind, P>(column + kColumn), x, i);
        sums[q].template add<2, 2>(loadWeightsPart<kKind, P>(column + 2 * kColumn), x, i);
        sums[q].template add<3, 3>(loadWeightsPart<kKind, P>(column + 3 * kColumn), x, i);
      }
    }
#pragma GCC unroll 2
    for (int q = 0; q < kPanels; ++q) {
      typename P::Floats scale = P::zero();
      if constexpr (layout::hasScales(kKind)) scale = mul(P::of(loadScales(w, at[q]), h), P::every(kFactor<kKind>));
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const typename P::Floats sum = sums[q].template total<0>(r);
        typename P::Floats& total = totals.sum[q][r][h];
        if constexpr (layout::hasScales(kKind)) {
          total = fma(scale, sum, total);
        } else {
          total = add(total, sum);
        }
      }
    }
  }
}

// kPanels neighbouring panels of one kind.
template <layout::WeightKind kKind, int kRows, int kPanels>
TSQ_INLINE void fusedKind(const Call& call, int64_t panel) {
  const PackedView& w = *call.w;
  const layout::Shape& shape = w.shape;
  const int64_t bytes = layout::panelBytes(shape), width = layout::packedK(shape), stride = layout::groupStride(shape);
  const int64_t groups = layout::groups(shape);
  const uint8_t* data = static_cast<const uint8_t*>(w.data) + panel * bytes;
  const Activations<kRows> x(call.x, call.ldx);
  Totals<kRows, kPanels> totals;
  int64_t p = 0;
  for (int64_t group = 0; group < groups; ++group) {
    int64_t at[kPanels];
    for (int q = 0; q < kPanels; ++q) at[q] = ((panel + q) * groups + group) * layout::kPanel;
    const int64_t groupEnd = p + stride < width ? p + stride : width;
    while (p < groupEnd) {
      const int64_t end = p + blocking::kDepth < groupEnd ? p + blocking::kDepth : groupEnd;
      const int64_t offset = offsetOf<kKind>(p), fetch = fetchOffset<kPanels>(offset, bytes) - offset;
      if constexpr (kInWords<kKind>) {
        fusedBlock<kKind>(w, data + offset, bytes, fetch, at, x, p, end, totals);
      } else {
        fusedFloatBlock<kKind>(w, data + offset, bytes, fetch, at, x, p, end, totals);
      }
      p = end;
    }
  }
  totals.write(call, panel);
}

template <int kRows, int kPanels>
__attribute__((noinline)) void fusedPanels(const Call& call, int64_t panel) {
  using layout::WeightKind;
  switch (call.w->shape.kind) {
    case WeightKind::kF32:
      return fusedKind<WeightKind::kF32, kRows, kPanels>(call, panel);
    case WeightKind::kF16:
      return fusedKind<WeightKind::kF16, kRows, kPanels>(call, panel);
    case WeightKind::kBF16:
      return fusedKind<WeightKind::kBF16, kRows, kPanels>(call, panel);
    case WeightKind::kU8:
      return fusedKind<WeightKind::kU8, kRows, kPanels>(call, panel);
    case WeightKind::kU4:
      return fusedKind<WeightKind::kU4, kRows, kPanels>(call, panel);
    case WeightKind::kU3:
      return fusedKind<WeightKind::kU3, kRows, kPanels>(call, panel);
    case WeightKind::kU2:
      return fusedKind<WeightKind::kU2, kRows, kPanels>(call, panel);
    case WeightKind::kB4:
    case WeightKind::kI4:
      return fusedKind<WeightKind::kB4, kRows, kPanels>(call, panel);
    case WeightKind::kE4M3:
      return fusedKind<WeightKind::kE4M3, kRows, kPanels>(call, panel);
    case WeightKind::kE5M2:
      return fusedKind<WeightKind::kE5M2, kRows, kPanels>(call, panel);
  }
}

// `rows` is one of 1 … kFusedMost.
template <int kRows = kFusedMost>
void fusedRows(const Call& call, int64_t rows, int64_t panelBegin, int64_t panelEnd) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return fusedRows<kRows - 1>(call, rows, panelBegin, panelEnd);
  }
  constexpr int kPanels = kFusedPanels;
  int64_t panel = panelBegin;
  if constexpr (kPanels > 1) {
    for (; panel + kPanels <= panelEnd; panel += kPanels) fusedPanels<kRows, kPanels>(call, panel);
  }
  for (; panel < panelEnd; ++panel) fusedPanels<kRows, 1>(call, panel);
}

}  // namespace
}  // namespace tsq
