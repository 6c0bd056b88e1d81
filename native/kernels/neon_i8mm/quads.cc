// Quads of int8 with FEAT_I8MM: USDOT reads unsigned codes as they are, SMMLA multiplies tiles of 2 outputs x 2 rows.
#include "kernels/neon/quads.h"
#include "kernels/tables.h"

namespace tsq {
namespace {

struct MatrixEngine : QuadEngine {
  static constexpr bool kMatrix = true, kUnsigned = true;
  static constexpr bool kByElement = true;
  static constexpr int kChains = 2;
  static constexpr int kTileRows = 8, kTileColumns = 2;

  template <int kElement>
  __attribute__((always_inline)) static Sum dot(Sum sum, uint8x16_t w, uint8x16_t x) {
    return vusdotq_laneq_s32(sum, w, vreinterpretq_s8_u8(x), kElement);
  }
  // Tiles decode to centered codes, signed ones, which spares symmetric weights the correction.
  __attribute__((always_inline)) static Sum matrix(Sum sum, uint8x16_t w, uint8x16_t x) {
    return vmmlaq_s32(sum, vreinterpretq_s8_u8(w), vreinterpretq_s8_u8(x));
  }
  // Of two such sums, the four outputs of either row.
  __attribute__((always_inline)) static Sum firstRow(Sum a, Sum b) { return vuzp1q_s32(a, b); }
  __attribute__((always_inline)) static Sum secondRow(Sum a, Sum b) { return vuzp2q_s32(a, b); }
};

template <WeightKind>
using Engine = MatrixEngine;

}  // namespace

const DotKernel kNeonI8mmQuads = quadKernel<Engine>();

}  // namespace tsq
