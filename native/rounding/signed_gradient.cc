// SignRound (arXiv 2309.05516): offsets of the rounding and factors of the range follow the sign of the gradient of
// d^T H d, which a rounded value passes on as if it had not been rounded; the rate falls from 1 / steps to 0. With the
// offsets left alone the step sizes are learned as in LSQ (arXiv 1902.08153). The best of all steps is kept.
#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "rounding/row_set.h"

namespace tsq::rounding {
namespace {

// The ends of a group's range as multiples of where they started.
constexpr float kNarrowest = 0.5f, kWidest = 1.5f;

struct RangeFactors {
  float low[kRows], high[kRows];
};

// One set's learned values beside its offsets.
struct Factors {
  std::vector<float> scales, zeros;   // [groups][16] of the start
  std::vector<RangeFactors> factors;  // [groups]

  Factors(const LearnJob& job, const RowSet& set)
      : scales(set.current.scales, set.current.scales + job.groups * kRows),
        zeros(set.current.zeros, set.current.zeros + job.groups * kRows),
        factors(static_cast<size_t>(job.groups)) {
    for (RangeFactors& both : factors) {
      std::fill(both.low, both.low + kRows, 1.f);
      std::fill(both.high, both.high + kRows, 1.f);
    }
  }
};

// Scale and zero point of one group of the range that its factors give.
void applyFactors(const LearnJob& job, const Factors& learned, int64_t g, RowSet& set) {
  const LaneGrid& grid = job.grid;
  const RangeFactors& factors = learned.factors[static_cast<size_t>(g)];
  for (int64_t i = 0; i < kRows; ++i) {
    const float scale = learned.scales[static_cast<size_t>(g * kRows + i)];
    const float zero = learned.zeros[static_cast<size_t>(g * kRows + i)];
    float* to = set.current.scales + g * kRows + i;
    const bool start = factors.low[i] == 1.f && factors.high[i] == 1.f;
    if (start) {
      *to = scale;
      set.current.zeros[g * kRows + i] = zero;
      continue;
    }
    const float low = -zero * factors.low[i], high = (grid.maxCode - zero) * factors.high[i];  // in units of scale
    const float units = grid.symmetric ? factors.high[i] : (high - low) / grid.maxCode;
    *to = toStored(least(most(scale * units, grid.minScale), grid.maxScale), grid.dropBits, grid.subnormalBelow);
    if (!grid.symmetric)
      set.current.zeros[g * kRows + i] = most(toInteger(least(most(-low / units, 0.f), grid.maxCode)), grid.minZero);
  }
}

float towards(float factor, double descent, float rate) {
  const float sign = descent > 0 ? 1.f : descent < 0 ? -1.f : 0.f;
  return least(most(factor + rate * sign, kNarrowest), kWidest);
}

// Moves offsets and factors of one group; set.gradient is up to date.
void climbGroup(const LearnJob& job, Factors* learned, int64_t g, float rate, RowSet& set) {
  const GroupRows rows = set.group(g);
  const int64_t begin = job.groupBegin[static_cast<size_t>(g)];
  double byScale[kRows] = {}, byZero[kRows] = {};
  rowLoops().climb(rows, set.base + begin * kRows, job.grid.maxCode, job.spec.offsets ? rate : 0.f,
                   set.offsets + begin * kRows, {byScale, byZero});
  if (job.spec.grid.perTensor) return;
  RangeFactors& factors = learned->factors[static_cast<size_t>(g)];
  for (int64_t i = 0; i < kRows; ++i) {
    if (job.grid.symmetric) {
      factors.high[i] = towards(factors.high[i], byScale[i], rate);
      continue;
    }
    // scale = (high b - low a) / max, zero = -low a / scale, by the ends' factors a and b.
    const double scale = static_cast<double>(learned->scales[static_cast<size_t>(g * kRows + i)]);
    const double zero = static_cast<double>(learned->zeros[static_cast<size_t>(g * kRows + i)]);
    const double max = static_cast<double>(job.grid.maxCode), low = -zero * scale, high = (max - zero) * scale;
    const double now = static_cast<double>(rows.scale[i]), a = static_cast<double>(factors.low[i]);
    const double byLow = byScale[i] * (-low / max) + byZero[i] * (-low / now - low * a * low / (now * now * max));
    const double byHigh = byScale[i] * (high / max) + byZero[i] * (low * a * high / (now * now * max));
    factors.low[i] = towards(factors.low[i], byLow, rate);
    factors.high[i] = towards(factors.high[i], byHigh, rate);
  }
}

}  // namespace

void followSigns(const LearnJob& job, std::vector<RowSet>& sets, AbortFlag abort) {
  std::vector<Factors> learned;
  for (RowSet& set : sets) {
    set.restore();
    learned.emplace_back(job, set);
    for (int64_t g = 0; g < job.groups; ++g)
      rowLoops().offsetsOf(set.group(g), job.grid.maxCode,
                           set.offsets + job.groupBegin[static_cast<size_t>(g)] * kRows);
    if (!job.spec.offsets) std::memset(set.offsets, 0, static_cast<size_t>(job.padded() * kRows) * sizeof(float));
    std::memcpy(set.base, set.offsets, static_cast<size_t>(job.padded() * kRows) * sizeof(float));
  }
  for (int step = 0; step <= job.spec.steps && !abort.raised(); ++step) {
    for (size_t s = 0; s < sets.size(); ++s) {
      for (int64_t g = 0; g < job.groups; ++g) {
        applyFactors(job, learned[s], g, sets[s]);
        rowLoops().encode(sets[s].group(g), sets[s].offsets + job.groupBegin[static_cast<size_t>(g)] * kRows,
                          job.grid.maxCode);
      }
    }
    computeGradients(job, sets);
    const float share = static_cast<float>(job.spec.steps - step) / static_cast<float>(job.spec.steps);
    for (size_t s = 0; s < sets.size(); ++s) {
      double error[kRows];
      sets[s].objective(error);
      sets[s].keepBetter(error);
      if (step == job.spec.steps) continue;
      for (int64_t g = 0; g < job.groups; ++g)
        climbGroup(job, &learned[s], g, share / static_cast<float>(job.spec.steps), sets[s]);
    }
  }
}

}  // namespace tsq::rounding
