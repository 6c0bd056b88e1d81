// Quads of int8 on Advanced SIMD: what every engine of neon/dots.h for them shares, and its DotKernel.
#pragma once

#include "kernels/neon/code_bytes.h"
#include "kernels/neon/dot_tiles.h"

#include "kernels/generic/split_quads.h"

namespace tsq {
namespace {

// Codes less kCenter, a step of 16 columns to four registers. Centered codes fit signed bytes, and where kCenter is the
// zero point of symmetric codes nothing is left to correct.
template <WeightKind kKind, int kCenter_>
struct QuadCodes {
  static constexpr int kCenter = kCenter_;
  static constexpr int64_t kColumns = kKind == WeightKind::kU3 ? 32 : 16;
  static constexpr int64_t kBytes = kColumns * layout::kPanel * layout::codeBits(kKind) / 8;
  static constexpr int kSteps = kColumns / 16;
  static constexpr bool kHalves = layout::groupAlign(kKind) == 8;  // a block may end with half a step
  static constexpr bool kUnrolled = true;

  explicit QuadCodes(const PackedView&) {}
  __attribute__((always_inline)) void setGroup(const PackedView&, int64_t) {}
  template <bool kHalf>
  __attribute__((always_inline)) void load(const uint8_t* line, int c, uint8x16_t (&w)[kSteps][4]) const {
    using Bytes = CodeBytes<kKind>;
    constexpr int kQuads = kHalf ? 2 : 4 * kSteps;
    uint8x16_t out[4 * kSteps];
#pragma GCC unroll 4
    for (int i = 0; i < kQuads; i += Bytes::kQuads, line += Bytes::kLines * kLineBytes) Bytes::take(line, c, out + i);
#pragma GCC unroll 8
    for (int i = 0; i < 4 * kSteps; ++i) {
      w[i / 4][i % 4] = i < kQuads ? vsubq_u8(out[i], vdupq_n_u8(kCenter)) : vdupq_n_u8(0);
    }
  }
};

// Scales and zero points of 16 outputs in one group.
struct QuadTerms {
  float32x4_t scale[4];
  int32x4_t zero[4];  // less the center of the codes
  bool shifted;       // not all of them 0

  // `at`: index of the first output's scale.
  __attribute__((always_inline)) QuadTerms(const PackedView& w, int64_t at, int center) {
    const Lanes scales = loadScales(w, at);
    scale[0] = scales.a, scale[1] = scales.b, scale[2] = scales.c, scale[3] = scales.d;
    shifted = w.zeros != nullptr || w.zero != center;
    if (w.zeros == nullptr) {
      zero[0] = zero[1] = zero[2] = zero[3] = vdupq_n_s32(w.zero - center);
      return;
    }
    const uint8x16_t bytes = vld1q_u8(w.zeros + at);
    const uint8x8_t less = vdup_n_u8(static_cast<uint8_t>(center));
    const int16x8_t low = vreinterpretq_s16_u16(vsubl_u8(vget_low_u8(bytes), less));
    const int16x8_t high = vreinterpretq_s16_u16(vsubl_u8(vget_high_u8(bytes), less));
    zero[0] = vmovl_s16(vget_low_s16(low)), zero[1] = vmovl_s16(vget_high_s16(low));
    zero[2] = vmovl_s16(vget_low_s16(high)), zero[3] = vmovl_s16(vget_high_s16(high));
  }
  // total + scale * (sum - zero * sum of the row) * scale of the row: integers of a block stay below 2^24, by row below
  // 2^31.
  __attribute__((always_inline)) float32x4_t addTo(float32x4_t total, int32x4_t sum, int c, const RowTerms& rows,
                                                   int64_t r) const {
    if (shifted) sum = vmlsq_n_s32(sum, zero[c], rows.sums[r]);
    return vfmaq_n_f32(total, vmulq_f32(scale[c], vcvtq_f32_s32(sum)), rows.scales[r]);
  }
};

// What engines for quads have in common.
struct QuadEngine {
  using Sum = int32x4_t;
  using Terms = QuadTerms;
  static constexpr int64_t kStep = 16;
  static constexpr int kMostLimbs = 1;
  static constexpr bool kByRow = true;
  __attribute__((always_inline)) static Sum zero() { return vdupq_n_s32(0); }
  __attribute__((always_inline)) static Sum add(Sum a, Sum b) { return vaddq_s32(a, b); }
};

TSQ_INLINE bool quadsPay(WeightKind kind, Dtype, int64_t) {
  return layout::isInteger(kind);
}

// Engine: of a kind of codes.
template <template <WeightKind> class Engine, WeightKind kKind>
TSQ_INLINE void multiplyKind(const DotCall& call) {
  // Fused, codes go in as they are where the engine can read them.
  constexpr int kMiddle = 1 << (layout::codeBits(kKind) - 1);
  constexpr int kFused = kKind == WeightKind::kU8 && !Engine<kKind>::kUnsigned ? kMiddle : 0;
  multiplyBundles<Engine<kKind>, QuadCodes<kKind, kFused>, QuadCodes<kKind, kMiddle>>(call);
}

template <template <WeightKind> class Engine>
void multiplyQuads(const DotCall& call) {
  switch (call.w->shape.kind) {
    case WeightKind::kU2:
      return multiplyKind<Engine, WeightKind::kU2>(call);
    case WeightKind::kU3:
      return multiplyKind<Engine, WeightKind::kU3>(call);
    case WeightKind::kU8:
      return multiplyKind<Engine, WeightKind::kU8>(call);
    default:
      return multiplyKind<Engine, WeightKind::kU4>(call);
  }
}

template <template <WeightKind> class Engine>
constexpr DotKernel quadKernel(int leastCode = -128) {
  DotKernel kernel = {quadsPay, splitQuads, multiplyQuads<Engine>, dotScratch<Engine<WeightKind::kU4>>};
  kernel.leastCode = leastCode;
  return kernel;
}

}  // namespace
}  // namespace tsq
