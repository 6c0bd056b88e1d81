// The loops of row_loops.h, written once as always-inlined bodies that each instruction set compiles for itself
// (lanes.cc has the reasons).
#include "rounding/row_loops.h"

#include "rounding/loop_isa.h"

namespace tsq::rounding {
namespace {

TSQ_INLINE void subtractBody(const GroupRows& rows) {
  for (int64_t c = 0; c < rows.columns; ++c) {
    for (int i = 0; i < kRows; ++i) {
      const int64_t at = c * kRows + i;
      rows.difference[at] = rows.target[at] - rows.scale[i] * (rows.codes[at] - rows.zero[i]);
    }
  }
}

// Sums of at most kChain products in f32, those in f64.
TSQ_INLINE void dotBody(const float* a, const float* b, int64_t columns, double* sums) {
  for (int64_t first = 0; first < columns; first += kChain) {
    const int64_t last = columns - first < kChain ? columns : first + kChain;
    alignas(64) float partial[kRows] = {};
    for (int64_t c = first; c < last; ++c) {
      for (int i = 0; i < kRows; ++i) partial[i] += a[c * kRows + i] * b[c * kRows + i];
    }
    for (int i = 0; i < kRows; ++i) sums[i] += static_cast<double>(partial[i]);
  }
}

TSQ_INLINE void dotStepsBody(const GroupRows& rows, const float* b, double* sums) {
  for (int64_t first = 0; first < rows.columns; first += kChain) {
    const int64_t last = rows.columns - first < kChain ? rows.columns : first + kChain;
    alignas(64) float partial[kRows] = {};
    for (int64_t c = first; c < last; ++c) {
      for (int i = 0; i < kRows; ++i) partial[i] += (rows.codes[c * kRows + i] - rows.zero[i]) * b[c * kRows + i];
    }
    for (int i = 0; i < kRows; ++i) sums[i] += static_cast<double>(partial[i]);
  }
}

TSQ_INLINE void moveScaleBody(const GroupRows& rows, const float* by, float* change) {
  for (int64_t c = 0; c < rows.columns; ++c) {
    for (int i = 0; i < kRows; ++i) {
      const int64_t at = c * kRows + i;
      change[at] = -((rows.codes[at] - rows.zero[i]) * by[i]);
      rows.difference[at] += change[at];
    }
  }
}

TSQ_INLINE bool descendBody(const float* block, int64_t columns, const float* scales, const float* zeros,
                            const int32_t* groups, float maxCode, float* codes, float* difference, float* gradient,
                            float* change) {
  alignas(64) float moved[kRows] = {};
  for (int64_t j = 0; j < columns; ++j) {
    const float h = block[j * kDescentBlock + j];
    float* own = change + j * kRows;
    if (!(h > 0)) {  // a column that calibration has not seen
      for (int i = 0; i < kRows; ++i) own[i] = 0;
      continue;
    }
    const float* scale = scales + groups[j] * kRows;
    const float* zero = zeros + groups[j] * kRows;
    const float* slope = gradient + j * kRows;
    float* code = codes + j * kRows;
    float* d = difference + j * kRows;
    for (int i = 0; i < kRows; ++i) {
      const float step = code[i] - zero[i];
      const float wanted = step + slope[i] / (h * scale[i]);
      const float next = toInteger(least(most(wanted, -zero[i]), maxCode - zero[i]));
      const float delta = (next - step) * scale[i];
      // What the objective loses; a hair of it is rounding error.
      const bool better = delta * (2.f * slope[i] - h * delta) > 1e-6f * (h * delta * delta);
      const float taken = better ? delta : 0.f;
      code[i] = better ? next + zero[i] : code[i];
      own[i] = -taken;
      d[i] -= taken;
      moved[i] += taken < 0 ? -taken : taken;
    }
    for (int64_t c = j + 1; c < columns; ++c) {
      const float factor = block[j * kDescentBlock + c];
      for (int i = 0; i < kRows; ++i) gradient[c * kRows + i] += factor * own[i];
    }
  }
  float total = 0;
  for (int i = 0; i < kRows; ++i) total += moved[i];
  return total > 0;
}

TSQ_INLINE void encodeBody(const GroupRows& rows, const float* offsets, float maxCode) {
  for (int64_t c = 0; c < rows.columns; ++c) {
    for (int i = 0; i < kRows; ++i) {
      const int64_t at = c * kRows + i;
      const float zero = rows.zero[i];
      const float step = toInteger(least(most(rows.target[at] / rows.scale[i] + offsets[at], -zero), maxCode - zero));
      rows.codes[at] = step + zero;
      rows.difference[at] = rows.target[at] - rows.scale[i] * step;
    }
  }
}

TSQ_INLINE void offsetsOfBody(const GroupRows& rows, float maxCode, float* offsets) {
  for (int64_t c = 0; c < rows.columns; ++c) {
    for (int i = 0; i < kRows; ++i) {
      const int64_t at = c * kRows + i;
      const float zero = rows.zero[i], step = rows.codes[at] - zero;
      const float exact = least(most(rows.target[at] / rows.scale[i], -zero), maxCode - zero);
      // Just inside the code's own interval.
      const float low = step - 0.499f - exact, high = step + 0.499f - exact;
      offsets[at] = least(most(0.f, low), high);
    }
  }
}

TSQ_INLINE void climbBody(const GroupRows& rows, const float* base, float maxCode, float rate, float* offsets,
                          SlopeSums sums) {
  for (int64_t first = 0; first < rows.columns; first += kChain) {
    const int64_t last = rows.columns - first < kChain ? rows.columns : first + kChain;
    alignas(64) float byScale[kRows] = {}, byZero[kRows] = {};
    for (int64_t c = first; c < last; ++c) {
      for (int i = 0; i < kRows; ++i) {
        const int64_t at = c * kRows + i;
        const float slope = rows.gradient[at], zero = rows.zero[i], scale = rows.scale[i];
        const float exact = rows.target[at] / scale, latent = exact + offsets[at];
        const bool inside = latent >= -zero && latent <= maxCode - zero;
        const float step = rows.codes[at] - zero;
        byScale[i] += slope * (step - (inside ? exact : 0.f));
        byZero[i] += inside ? 0.f : -slope * scale;
        const float sign = slope > 0 ? 1.f : slope < 0 ? -1.f : 0.f;
        const float moved = offsets[at] + (inside ? rate * sign : 0.f);
        offsets[at] = least(most(moved, base[at] - 0.5f), base[at] + 0.5f);
      }
    }
    for (int i = 0; i < kRows; ++i) {
      sums.scale[i] += static_cast<double>(byScale[i]);
      sums.zero[i] += static_cast<double>(byZero[i]);
    }
  }
}

// One set of functions and their table for a target.
#define TSQ_ROW_LOOPS(name, attribute)                                                                                 \
  attribute void name##Subtract(const GroupRows& rows) { subtractBody(rows); }                                         \
  attribute void name##Dot(const float* a, const float* b, int64_t columns, double* sums) {                            \
    dotBody(a, b, columns, sums);                                                                                      \
  }                                                                                                                    \
  attribute void name##DotSteps(const GroupRows& rows, const float* b, double* sums) { dotStepsBody(rows, b, sums); }  \
  attribute void name##MoveScale(const GroupRows& rows, const float* by, float* change) {                              \
    moveScaleBody(rows, by, change);                                                                                   \
  }                                                                                                                    \
  attribute bool name##Descend(const float* block, int64_t columns, const float* scales, const float* zeros,           \
                               const int32_t* groups, float maxCode, float* codes, float* difference, float* gradient, \
                               float* change) {                                                                        \
    return descendBody(block, columns, scales, zeros, groups, maxCode, codes, difference, gradient, change);           \
  }                                                                                                                    \
  attribute void name##Encode(const GroupRows& rows, const float* offsets, float maxCode) {                            \
    encodeBody(rows, offsets, maxCode);                                                                                \
  }                                                                                                                    \
  attribute void name##OffsetsOf(const GroupRows& rows, float maxCode, float* offsets) {                               \
    offsetsOfBody(rows, maxCode, offsets);                                                                             \
  }                                                                                                                    \
  attribute void name##Climb(const GroupRows& rows, const float* base, float maxCode, float rate, float* offsets,      \
                             SlopeSums sums) {                                                                         \
    climbBody(rows, base, maxCode, rate, offsets, sums);                                                               \
  }                                                                                                                    \
  const RowLoops name##Loops = {name##Subtract, name##Dot,    name##DotSteps,  name##MoveScale,                        \
                                name##Descend,  name##Encode, name##OffsetsOf, name##Climb};

TSQ_ROW_LOOPS(baseline, )
#if defined(__x86_64__)
TSQ_ROW_LOOPS(avx2, __attribute__((target("avx2"))))
#if defined(__clang__)
TSQ_ROW_LOOPS(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))))
#else
TSQ_ROW_LOOPS(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))))
#endif
#endif

}  // namespace

const RowLoops& rowLoops() {
#if defined(__x86_64__)
  if (loopIsa() == LoopIsa::kAvx512) return avx512Loops;
  if (loopIsa() == LoopIsa::kAvx2) return avx2Loops;
#endif
  return baselineLoops;
}

}  // namespace tsq::rounding
