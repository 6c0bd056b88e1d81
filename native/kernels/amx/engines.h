// What the products over tiles multiply and how their sums become outputs: one engine for pairs of bf16, one for quads
// of int8.
#pragma once

#include "kernels/amx/decode.h"
#include "kernels/amx/tiles.h"
#include "kernels/kernels.h"

namespace tsq {
namespace {

using layout::kBundle;
using layout::kPanel;

TSQ_INLINE int64_t smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// Exact products: bf16 parts of the activations with codes less zero points, scaled by the group.
template <typename PairCodes>
struct TilePairs {
  using Codes = PairCodes;
  static constexpr int64_t kChunk = layout::kPairChunk;

  template <int kSums, int kX, int kW>
  TSQ_METHOD static void multiply() {
    tilePairs<kSums, kX, kW>();
  }
  // What the sums of a block add to the totals of one row, for 16 outputs of a group. `at`: of their first scale.
  struct Finish {
    Lanes scale;
    TSQ_METHOD Finish(const PackedView& w, int64_t at) : scale(pairScales(w, at)) {}
    TSQ_METHOD Lanes operator()(const uint8_t* sums, const float* rowScale, const int32_t*, Lanes total) const {
      return fma(mul(scale, set1(*rowScale)), load(reinterpret_cast<const float*>(sums)), total);
    }
  };
};

// Activations of 8 bits with codes as they are.
template <typename QuadCodes>
struct TileQuads {
  using Codes = QuadCodes;
  static constexpr int64_t kChunk = layout::kQuadChunk;

  template <int kSums, int kX, int kW>
  TSQ_METHOD static void multiply() {
    tileQuads<kSums, kX, kW>();
  }
  struct Finish {
    Lanes scale, zero;
    TSQ_METHOD Finish(const PackedView& w, int64_t at) : scale(loadScales(w, at)), zero(loadZeros(w, at)) {}
    // Sums of codes, and their products with zero points, are below 2^24: exact in f32.
    TSQ_METHOD Lanes operator()(const uint8_t* sums, const float* rowScale, const int32_t* rowSum, Lanes total) const {
      const Lanes dot = fmaNegated(zero, set1(static_cast<float>(*rowSum)), floats(loadWords(sums)));
      return fma(mul(scale, set1(*rowScale)), dot, total);
    }
  };
};

// Where a block begins in the packed panel and in the activations.
template <typename Engine>
struct BlockPlace {
  layout::Block block;
  const uint8_t* lines;  // panel 0
  int64_t chunk;         // its first chunk
  TSQ_METHOD BlockPlace(const PackedView& w, int64_t index)
      : block(layout::blockAt(w.shape, index)),
        lines(static_cast<const uint8_t*>(w.data) + lineBytes<Engine::Codes::kKind>(block.p)),
        chunk(layout::firstChunk(w.shape, index, Engine::kChunk)) {}
};

TSQ_INLINE void writeRow(const DotCall& call, int64_t row, int64_t panel, Lanes total) {
  const int64_t column = panel * kPanel, count = call.w->shape.n - column;
  float* y = call.y + row * call.ldy + column;
  if (count >= kPanel) {
    store(y, call.bias != nullptr ? add(total, load(call.bias + column)) : total);
  } else {
    storePartial(y, call.bias != nullptr ? add(total, loadPartial(call.bias + column, count)) : total, count);
  }
}

}  // namespace
}  // namespace tsq
