// Quads of int8 by SDOT (FEAT_DotProd).
#include "kernels/neon/quads.h"
#include "kernels/tables.h"

namespace tsq {
namespace {

struct DotEngine : QuadEngine {
  static constexpr bool kMatrix = false, kUnsigned = false;
  static constexpr bool kByElement = true;
  static constexpr int kChains = 2;
  static constexpr int kTileRows = 8, kTileColumns = 2;

  template <int kElement>
  __attribute__((always_inline)) static Sum dot(Sum sum, uint8x16_t w, uint8x16_t x) {
    return vdotq_laneq_s32(sum, vreinterpretq_s8_u8(w), vreinterpretq_s8_u8(x), kElement);
  }
};

template <WeightKind>
using Engine = DotEngine;

}  // namespace

const DotKernel kNeonDotprodQuads = quadKernel<Engine>();

}  // namespace tsq
