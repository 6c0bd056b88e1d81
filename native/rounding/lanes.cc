// The loops of lanes.h, written once as always-inlined bodies that each instruction set compiles for itself. They use
// no fused multiply-add and no reduction across lanes, so every instruction set computes the same bits.
#include "rounding/lanes.h"

#include <cfloat>
#include <cstring>

#include "rounding/loop_isa.h"

namespace tsq::rounding {
namespace {

TSQ_INLINE void rangeBody(const float* w, int64_t columns, float* low, float* high) {
  for (int64_t c = 0; c < columns; ++c) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const float value = w[c * kLanes + lane];
      low[lane] = least(value, low[lane]);
      high[lane] = most(value, high[lane]);
    }
  }
}

TSQ_INLINE void fitBody(const LaneGrid& grid, const float* low, const float* high, float shrink, LaneScales* out) {
  const LaneGrid g = grid;  // of its own, so that no store may change it
  if (g.symmetric) {
    for (int lane = 0; lane < kLanes; ++lane) {
      out->scale[lane] = symmetricScale(g, low[lane], high[lane], shrink);
      out->zero[lane] = g.symmetricZero;
    }
    return;
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    out->scale[lane] = asymmetricScale(g, low[lane], high[lane], shrink, &out->zero[lane]);
  }
}

TSQ_INLINE void errorBody(const float* w, const float* importance, int64_t columns, const LaneScales& scales,
                          float maxCode, float norm, bool square, const float* reference, double* sums) {
  alignas(64) float inverse[kLanes], low[kLanes], high[kLanes], unit[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    inverse[lane] = 1.f / scales.scale[lane];
    low[lane] = -scales.zero[lane];
    high[lane] = maxCode - scales.zero[lane];
    unit[lane] = errorUnit(scales.scale[lane], reference != nullptr ? reference[lane] : 1.f, square, norm);
  }
  for (int64_t first = 0; first < columns; first += kErrorChain) {
    const int64_t last = columns - first < kErrorChain ? columns : first + kErrorChain;
    alignas(64) float partial[2][kLanes] = {};  // two chains hide the latency of the addition
    for (int64_t c = first; c < last; ++c) {
      const float weight = importance != nullptr ? importance[c] : 1.f;
      float* chain = partial[c & 1];
      for (int lane = 0; lane < kLanes; ++lane) {
        const float difference = stepError(w[c * kLanes + lane], inverse[lane], low[lane], high[lane]);
        chain[lane] += weight * (square ? difference * difference : power(difference, norm));
      }
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      sums[lane] += static_cast<double>(partial[0][lane] + partial[1][lane]) * static_cast<double>(unit[lane]);
    }
  }
}

TSQ_INLINE void encodeBody(const float* w, int64_t columns, const LaneScales& scales, float maxCode, uint8_t* codes) {
  for (int64_t c = 0; c < columns; ++c) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const float step = nearestStep(w[c * kLanes + lane], scales.scale[lane], scales.zero[lane], maxCode);
      codes[c * kLanes + lane] = static_cast<uint8_t>(static_cast<int32_t>(step + scales.zero[lane]));
    }
  }
}

TSQ_INLINE void encodeColumnBody(const float* w, const LaneScales& scales, float maxCode, float inversePivot,
                                 uint8_t* codes, float* error, int64_t panelStride) {
  for (int panel = 0; panel < kLanes / 16; ++panel) {
    for (int i = 0; i < 16; ++i) {
      const int lane = panel * 16 + i;
      const float scale = scales.scale[lane], zero = scales.zero[lane];
      const float code = nearestStep(w[lane], scale, zero, maxCode);
      codes[lane] = static_cast<uint8_t>(static_cast<int32_t>(code + zero));
      error[panel * panelStride + i] = (scale * code - w[lane]) * inversePivot;
    }
  }
}

TSQ_INLINE void addOuterBody(float* w, const float* factors, int64_t columns, const float* error, int64_t panelStride) {
  for (int panel = 0; panel < kLanes / 16; ++panel) {
    const float* from = error + panel * panelStride;
    float* to = w + panel * 16;
    for (int64_t c = 0; c < columns; ++c) {
      for (int i = 0; i < 16; ++i) to[c * kLanes + i] += factors[c] * from[i];
    }
  }
}

TSQ_INLINE void residualBody(const float* w, int64_t columns, const LaneScales& scales, float maxCode, float* error,
                             int64_t panelStride) {
  for (int panel = 0; panel < kLanes / 16; ++panel) {
    const float* scale = scales.scale + panel * 16;
    const float* zero = scales.zero + panel * 16;
    for (int64_t c = 0; c < columns; ++c) {
      const float* from = w + c * kLanes + panel * 16;
      for (int i = 0; i < 16; ++i) {
        const float code = nearestStep(from[i], scale[i], zero[i], maxCode);
        error[panel * panelStride + c * 16 + i] = from[i] - scale[i] * code;
      }
    }
  }
}

// One set of functions and their table for a target.
#define TSQ_LANE_KERNELS(name, attribute)                                                                              \
  attribute void name##Range(const float* w, int64_t columns, float* low, float* high) {                               \
    rangeBody(w, columns, low, high);                                                                                  \
  }                                                                                                                    \
  attribute void name##Fit(const LaneGrid& grid, const float* low, const float* high, float shrink, LaneScales* out) { \
    fitBody(grid, low, high, shrink, out);                                                                             \
  }                                                                                                                    \
  attribute void name##Error(const float* w, const float* importance, int64_t columns, const LaneScales& scales,       \
                             float maxCode, float norm, const float* reference, double* sums) {                        \
    if (norm == 2.f) {                                                                                                 \
      errorBody(w, importance, columns, scales, maxCode, norm, true, reference, sums);                                 \
    } else {                                                                                                           \
      errorBody(w, importance, columns, scales, maxCode, norm, false, reference, sums);                                \
    }                                                                                                                  \
  }                                                                                                                    \
  attribute void name##Encode(const float* w, int64_t columns, const LaneScales& scales, float maxCode,                \
                              uint8_t* codes) {                                                                        \
    encodeBody(w, columns, scales, maxCode, codes);                                                                    \
  }                                                                                                                    \
  attribute void name##EncodeColumn(const float* w, const LaneScales& scales, float maxCode, float inversePivot,       \
                                    uint8_t* codes, float* error, int64_t panelStride) {                               \
    encodeColumnBody(w, scales, maxCode, inversePivot, codes, error, panelStride);                                     \
  }                                                                                                                    \
  attribute void name##AddOuter(float* w, const float* factors, int64_t columns, const float* error,                   \
                                int64_t panelStride) {                                                                 \
    addOuterBody(w, factors, columns, error, panelStride);                                                             \
  }                                                                                                                    \
  attribute void name##Residual(const float* w, int64_t columns, const LaneScales& scales, float maxCode,              \
                                float* error, int64_t panelStride) {                                                   \
    residualBody(w, columns, scales, maxCode, error, panelStride);                                                     \
  }                                                                                                                    \
  const LaneKernels name##Kernels = {name##Range,        name##Fit,      name##Error,   name##Encode,                  \
                                     name##EncodeColumn, name##AddOuter, name##Residual};

TSQ_LANE_KERNELS(baseline, )
#if defined(__x86_64__)
TSQ_LANE_KERNELS(avx2, __attribute__((target("avx2"))))
#if defined(__clang__)
TSQ_LANE_KERNELS(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))))
#else
TSQ_LANE_KERNELS(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))))
#endif
#endif

}  // namespace

const LaneKernels& laneKernels() {
#if defined(__x86_64__)
  if (loopIsa() == LoopIsa::kAvx512) return avx512Kernels;
  if (loopIsa() == LoopIsa::kAvx2) return avx2Kernels;
#endif
  return baselineKernels;
}

LaneGrid makeLaneGrid(const GridSpec& grid) {
  LaneGrid made;
  made.symmetric = grid.symmetric;
  made.maxCode = static_cast<float>((1 << grid.bits) - 1);
  made.symmetricZero = static_cast<float>(1 << (grid.bits - 1));
  made.minZero = static_cast<float>(grid.minZero);
  made.minScale = grid.scaleType == Dtype::kF16 ? 5.9604644775390625e-8f : FLT_MIN;
  made.subnormalBelow = grid.scaleType == Dtype::kF16 ? 6.103515625e-5f : 0.f;
  made.maxScale = grid.scaleType == Dtype::kF16    ? 65504.f
                  : grid.scaleType == Dtype::kBF16 ? bf16ToFloat(0x7f7f)
                                                   : FLT_MAX;
  made.dropBits = grid.scaleType == Dtype::kF16 ? 13 : grid.scaleType == Dtype::kBF16 ? 16 : 0;
  return made;
}

void loadLanes(const float* w, int64_t ld, int64_t rows, int64_t columns, float* lanes) {
  if (rows < kLanes) std::memset(lanes, 0, static_cast<size_t>(columns) * kLanes * sizeof(float));
  // A cache line of every row at a time: rows a power of two apart share a cache set.
  for (int64_t first = 0; first < columns; first += 16) {
    const int64_t count = columns - first < 16 ? columns - first : 16;
    for (int64_t lane = 0; lane < rows; ++lane) {
      const float* from = w + lane * ld + first;
      float* to = lanes + first * kLanes + lane;
      for (int64_t c = 0; c < count; ++c) to[c * kLanes] = from[c];
    }
  }
}

void storeCodes(const uint8_t* lanes, int64_t ld, int64_t rows, int64_t columns, uint8_t* codes) {
  for (int64_t first = 0; first < columns; first += 64) {
    const int64_t count = columns - first < 64 ? columns - first : 64;
    for (int64_t lane = 0; lane < rows; ++lane) {
      const uint8_t* from = lanes + first * kLanes + lane;
      uint8_t* to = codes + lane * ld + first;
      for (int64_t c = 0; c < count; ++c) to[c] = from[c * kLanes];
    }
  }
}

}  // namespace tsq::rounding
