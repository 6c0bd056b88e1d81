// Half-quadratic quantization: the error w - dequantized is split into a sparse part e, by shrinkage of the lp norm,
// and a quadratic rest, whose best zero point (and scale) is a mean (a quotient of sums). Groups are held as
// [columns][32].
#include "rounding/hqq.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "rounding/loop_isa.h"
#include "rounding/round_groups.h"

namespace tsq {

using namespace rounding;  // NOLINT: the pieces that this file puts together

namespace {

// Sums of one alternation by lane: of what the zero point should be, and for the quotient that is the scale.
struct HalfSums {
  double zero[kLanes] = {}, numerator[kLanes] = {}, denominator[kLanes] = {};
};

// Errors are taken in steps of the grid, so that the weights' size does not matter. zero may be any number here.
TSQ_INLINE void alternateBody(const float* w, int64_t columns, const LaneScales& scales, float maxCode, float norm,
                              float beta, HalfSums* sums) {
  const float inverseBeta = 1.f / beta;
  for (int64_t first = 0; first < columns; first += kErrorChain) {
    const int64_t last = columns - first < kErrorChain ? columns : first + kErrorChain;
    alignas(64) float zero[kLanes] = {}, numerator[kLanes] = {}, denominator[kLanes] = {};
    for (int64_t c = first; c < last; ++c) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const float steps = w[c * kLanes + lane] / scales.scale[lane];
        const float code = toInteger(least(most(steps + scales.zero[lane], 0.f), maxCode));
        const float step = code - scales.zero[lane], x = steps - step;
        const float size = x < 0 ? -x : x;
        const float shrunk = most(size - power(most(size, 1e-6f), norm - 1.f) * inverseBeta, 0.f);
        const float rest = steps - (x < 0 ? -shrunk : shrunk);  // w - e, in steps
        zero[lane] += code - rest;
        numerator[lane] += rest * step;
        denominator[lane] += step * step;
      }
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      sums->zero[lane] += static_cast<double>(zero[lane]);
      sums->numerator[lane] += static_cast<double>(numerator[lane]);
      sums->denominator[lane] += static_cast<double>(denominator[lane]);
    }
  }
}

#define TSQ_ALTERNATE(name, attribute)                                                                      \
  attribute void name(const float* w, int64_t columns, const LaneScales& scales, float maxCode, float norm, \
                      float beta, HalfSums* sums) {                                                         \
    alternateBody(w, columns, scales, maxCode, norm, beta, sums);                                           \
  }
TSQ_ALTERNATE(alternateBaseline, )
#if defined(__x86_64__)
TSQ_ALTERNATE(alternateAvx2, __attribute__((target("avx2"))))
#if defined(__clang__)
TSQ_ALTERNATE(alternateAvx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))))
#else
TSQ_ALTERNATE(alternateAvx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"))))
#endif
#endif

auto alternate() {
#if defined(__x86_64__)
  if (loopIsa() == LoopIsa::kAvx512) return alternateAvx512;
  if (loopIsa() == LoopIsa::kAvx2) return alternateAvx2;
#endif
  return alternateBaseline;
}

// The scales of one group of 32 rows; *out holds those of its range.
void improve(const LaneGrid& grid, const HqqSpec& spec, const float* w, int64_t columns, LaneScales* out) {
  const LaneKernels& loops = laneKernels();
  const float norm = static_cast<float>(spec.norm);
  const LaneScales range = *out;
  LaneScales trial = range, stored = range;  // trial: zero points of any value
  double best[kLanes] = {};
  loops.error(w, nullptr, columns, range, grid.maxCode, norm, range.scale, best);
  bool done[kLanes] = {};
  double beta = spec.beta;
  for (int step = 0; step < spec.steps; ++step, beta *= spec.kappa) {
    HalfSums sums;
    alternate()(w, columns, trial, grid.maxCode, norm, static_cast<float>(beta), &sums);
    for (int lane = 0; lane < kLanes; ++lane) {
      if (!grid.symmetric) {
        trial.zero[lane] = static_cast<float>(sums.zero[lane] / static_cast<double>(columns));
        stored.zero[lane] = most(toInteger(least(most(trial.zero[lane], 0.f), grid.maxCode)), grid.minZero);
      }
      const double share = sums.numerator[lane] / sums.denominator[lane];
      const double wanted = static_cast<double>(trial.scale[lane]) * share;
      if (!(sums.denominator[lane] > 0) || !(wanted > 0) || !std::isfinite(wanted)) continue;
      trial.scale[lane] = static_cast<float>(
          std::min(std::max(wanted, static_cast<double>(grid.minScale)), static_cast<double>(grid.maxScale)));
      stored.scale[lane] = toStored(trial.scale[lane], grid.dropBits, grid.subnormalBelow);
    }
    double errors[kLanes] = {};
    loops.error(w, nullptr, columns, stored, grid.maxCode, norm, range.scale, errors);
    bool all = true;
    for (int lane = 0; lane < kLanes; ++lane) {
      if (done[lane]) continue;
      if (errors[lane] < best[lane]) {
        best[lane] = errors[lane];
        out->scale[lane] = stored.scale[lane];
        out->zero[lane] = stored.zero[lane];
        all = false;
      } else if (step > 0) {  // the first step may only leave the range behind
        done[lane] = true;
      } else {
        all = false;
      }
    }
    if (all) return;
  }
}

Status checkSpec(const HqqSpec& spec) {
  const auto refused = [](const char* what, double value, const char* expected) {
    return Status(Code::kOption,
                  std::string("hqq: ") + what + " is " + std::to_string(value) + ", expected " + expected);
  };
  if (spec.steps < 0 || spec.steps > 100000) return refused("steps", spec.steps, "0 to 100000");
  if (!(spec.norm > 0 && spec.norm <= 1)) return refused("norm", spec.norm, "above 0, at most 1");
  if (!(spec.beta > 0 && std::isfinite(spec.beta))) return refused("beta", spec.beta, "a positive number");
  if (!(spec.kappa >= 1 && spec.kappa <= 10)) return refused("kappa", spec.kappa, "1 to 10");
  return {};
}

}  // namespace

Status roundHqq(const float* w, int64_t n, int64_t k, const HqqSpec& spec, const float* clip, RoundedWeight out,
                AbortFlag abort) {
  const GridSpec& grid = spec.grid;
  TSQ_RETURN_IF_ERROR(checkGrid("hqq", n, k, grid, nullptr));
  TSQ_RETURN_IF_ERROR(checkSpec(spec));
  const LaneGrid lanes = makeLaneGrid(grid);
  SearchSpec search;  // of one scale for all: the least error of the same norm among shrunken ranges
  search.enabled = spec.steps > 0;
  search.norm = spec.norm;
  const auto choose = [&](const float* group, int64_t, int64_t columns, const float* limits, LaneScales* scales) {
    chooseScales(lanes, SearchSpec(), group, nullptr, columns, limits, scales);
    improve(lanes, spec, group, columns, scales);
  };
  return roundGroups("hqq", w, n, k, grid, search, clip, choose, out, abort);
}

}  // namespace tsq
