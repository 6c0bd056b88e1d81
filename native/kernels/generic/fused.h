// Matmul of one to four rows: weights are decoded in registers and used at once. Bound by memory. Include after
// an instruction set's simd.h.
//
// Sums run over at most blocking::kDepth packed columns inside one group, in kChains interleaved chains, and are then
// scaled and added to the total. The order of additions depends on the number of rows only, never on panels or
// instruction set.
#pragma once

#include "kernels/blocking.h"
#include "kernels/generic/codes.h"
#include "kernels/kernels.h"

namespace tsq {
namespace {

// Bytes between the line in use and the one fetched ahead, where the hardware's own fetching stops at page ends.
constexpr int64_t kPrefetchBytes = 2048;

// Two for one or two rows; more rows are independent anyway. Wide instruction sets hide the rest by taking two panels
// at a time.
template <int kRows>
constexpr int kChains = kRows <= 2 ? 2 : 1;

// The rows of x. Separate pointers with one common offset, so that the compiler keeps kRows + 1 registers for them.
template <int kRows>
struct Activations {
  const float* row[kRows];
  __attribute__((always_inline)) Activations(const float* x, int64_t ldx) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) row[r] = x + r * ldx;
  }
};

// The running sums of one block.
template <int kRows>
struct Sums {
  static constexpr int kCount = kChains<kRows>;
  Lanes chain[kRows][kCount];

  __attribute__((always_inline)) void clear() {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < kCount; ++c) chain[r][c] = zeros();
    }
  }
  // Weights of packed column p + kColumn.
  template <int kColumn>
  __attribute__((always_inline)) void add(Lanes weights, const Activations<kRows>& x, int64_t p) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      Lanes& sum = chain[r][kColumn % kCount];
      sum = fma(weights, set1(x.row[r][p + kColumn]), sum);
    }
  }
  __attribute__((always_inline)) Lanes total(int r) const {
    if constexpr (kCount == 2) return tsq::add(chain[r][0], chain[r][1]);
    return chain[r][0];
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

// Column kColumn of one step in every panel, then the next: a broadcast activation serves all panels and is dropped.
template <int kColumn, int kBits, int kRows, int kPanels>
TSQ_INLINE void fusedColumns(const Decoder<kBits> (&decoders)[kPanels], const Words (&lower)[kPanels],
                             const Words (&upper)[kPanels], const Activations<kRows>& x, int64_t p,
                             Sums<kRows> (&sums)[kPanels]) {
#pragma GCC unroll 2
  for (int q = 0; q < kPanels; ++q) {
    sums[q].template add<kColumn>(decoders[q].template decode<kColumn>(lower[q], upper[q]), x, p);
  }
  if constexpr (kColumn + 1 < kCodesPerWord<kBits>) fusedColumns<kColumn + 1>(decoders, lower, upper, x, p, sums);
}

// One step of eight (4-bit) or four (8-bit) packed columns; panels lie `apart` bytes apart.
template <int kBits, int kRows, int kPanels>
TSQ_INLINE void fusedStep(const Decoder<kBits> (&decoders)[kPanels], const uint8_t* line, int64_t apart,
                          const Activations<kRows>& x, int64_t p, Sums<kRows> (&sums)[kPanels]) {
  Words lower[kPanels], upper[kPanels];
#pragma GCC unroll 2
  for (int q = 0; q < kPanels; ++q) {
    lower[q] = loadWords(line + q * apart);
    upper[q] = upperHalves(lower[q]);
    prefetch(line + q * apart + kPrefetchBytes);
  }
  fusedColumns<0>(decoders, lower, upper, x, p, sums);
}

// kPanels neighbouring panels, integer codes.
template <int kBits, int kRows, int kPanels>
TSQ_INLINE void fusedCodes(const Call& call, int64_t panel) {
  const layout::Shape& shape = call.w->shape;
  constexpr int64_t kStep = kCodesPerWord<kBits>, kLine = 64;
  const int64_t bytes = layout::panelBytes(shape), width = layout::packedK(shape), stride = layout::groupStride(shape);
  const int64_t groups = layout::groups(shape);
  const uint8_t* line = static_cast<const uint8_t*>(call.w->data) + panel * bytes;
  const float* scales = call.w->scales + panel * groups * layout::kPanel;
  const Activations<kRows> x(call.x, call.ldx);
  Lanes total[kPanels][kRows];
#pragma GCC unroll 2
  for (int q = 0; q < kPanels; ++q) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) total[q][r] = zeros();
  }
  int64_t p = 0;
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t groupEnd = p + stride < width ? p + stride : width;
    while (p < groupEnd) {
      const int64_t end = p + blocking::kDepth < groupEnd ? p + blocking::kDepth : groupEnd;
      Sums<kRows> sums[kPanels];
      Decoder<kBits> decoders[kPanels];
#pragma GCC unroll 2
      for (int q = 0; q < kPanels; ++q) {
        sums[q].clear();
        decoders[q].setZero(*call.w, ((panel + q) * groups + group) * layout::kPanel);
      }
      for (; p < end; p += kStep, line += kLine) fusedStep(decoders, line, bytes, x, p, sums);
#pragma GCC unroll 2
      for (int q = 0; q < kPanels; ++q) {
        const Lanes scale = load(scales + (q * groups + group) * layout::kPanel);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) total[q][r] = fma(scale, sums[q].total(r), total[q][r]);
      }
    }
  }
#pragma GCC unroll 2
  for (int q = 0; q < kPanels; ++q) {
    for (int r = 0; r < kRows; ++r) {
      finish(total[q][r], call.y + r * call.ldy, call.bias, (panel + q) * layout::kPanel, shape.n);
    }
  }
}

// Weights of one packed column of 16 outputs.
template <layout::WeightKind kKind>
TSQ_INLINE Lanes loadWeights(const void* data, int64_t index) {
  if constexpr (kKind == layout::WeightKind::kF32) return load(static_cast<const float*>(data) + index);
  if constexpr (kKind == layout::WeightKind::kF16) return loadHalf(static_cast<const uint16_t*>(data) + index);
  return loadBfloat(static_cast<const uint16_t*>(data) + index);
}

// The same for float kinds: packed k is a multiple of 8, so that four columns are a step.
template <layout::WeightKind kKind, int kRows, int kPanels>
TSQ_INLINE void fusedFloats(const Call& call, int64_t panel) {
  const layout::Shape& shape = call.w->shape;
  const int64_t width = layout::packedK(shape), apart = width * layout::kPanel;
  constexpr int64_t kElement = kKind == layout::WeightKind::kF32 ? 4 : 2;
  const uint8_t* data = static_cast<const uint8_t*>(call.w->data) + panel * apart * kElement;
  const Activations<kRows> x(call.x, call.ldx);
  Lanes total[kPanels][kRows];
#pragma GCC unroll 2
  for (int q = 0; q < kPanels; ++q) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) total[q][r] = zeros();
  }
  for (int64_t begin = 0; begin < width; begin += blocking::kDepth) {
    const int64_t end = begin + blocking::kDepth < width ? begin + blocking::kDepth : width;
    Sums<kRows> sums[kPanels];
#pragma GCC unroll 2
    for (int q = 0; q < kPanels; ++q) sums[q].clear();
    for (int64_t p = begin; p < end; p += 4) {
#pragma GCC unroll 2
      for (int q = 0; q < kPanels; ++q) {
        const uint8_t* at = data + (q * apart + p * layout::kPanel) * kElement;
        prefetch(at + kPrefetchBytes);
        prefetch(at + kPrefetchBytes + 64);
        sums[q].template add<0>(loadWeights<kKind>(at, 0), x, p);
        sums[q].template add<1>(loadWeights<kKind>(at, 16), x, p);
        sums[q].template add<2>(loadWeights<kKind>(at, 32), x, p);
        sums[q].template add<3>(loadWeights<kKind>(at, 48), x, p);
      }
    }
#pragma GCC unroll 2
    for (int q = 0; q < kPanels; ++q) {
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) total[q][r] = add(total[q][r], sums[q].total(r));
    }
  }
#pragma GCC unroll 2
  for (int q = 0; q < kPanels; ++q) {
    for (int r = 0; r < kRows; ++r) {
      finish(total[q][r], call.y + r * call.ldy, call.bias, (panel + q) * layout::kPanel, shape.n);
    }
  }
}

template <int kRows, int kPanels>
__attribute__((noinline)) void fusedPanels(const Call& call, int64_t panel) {
  using layout::WeightKind;
  const PackedView& w = *call.w;
  switch (w.shape.kind) {
    case WeightKind::kF32:
      return fusedFloats<WeightKind::kF32, kRows, kPanels>(call, panel);
    case WeightKind::kF16:
      return fusedFloats<WeightKind::kF16, kRows, kPanels>(call, panel);
    case WeightKind::kBF16:
      return fusedFloats<WeightKind::kBF16, kRows, kPanels>(call, panel);
    case WeightKind::kU8:
      return fusedCodes<8, kRows, kPanels>(call, panel);
    case WeightKind::kU4:
      return fusedCodes<4, kRows, kPanels>(call, panel);
  }
}

template <int kRows>
void fusedRows(const Call& call, int64_t panelBegin, int64_t panelEnd) {
  constexpr int kPanels = kFusedPanels;
  int64_t panel = panelBegin;
  if constexpr (kPanels > 1) {
    for (; panel + kPanels <= panelEnd; panel += kPanels) fusedPanels<kRows, kPanels>(call, panel);
  }
  for (; panel < panelEnd; ++panel) fusedPanels<kRows, 1>(call, panel);
}

}  // namespace
}  // namespace tsq
