// Scales of groups and nearest codes: native/rounding's, with the same arithmetic in the same order, so that scales are
// the CPU's to the bit.
#pragma once
#include "cuda/calibration/tile.cuh"
#include "native/rounding/grid_math.h"

namespace tsq::cuda::calibration {

using rounding::LaneGrid;
constexpr int kWarps = kThreads / 32;

// Scales [n][groups] of `count` groups of neighbouring columns, the first of which begins at column `begin` and has
// number `id`.
struct Fit {
  LaneGrid grid;
  Global<const float> w;           // [n][k]
  Global<const uint8_t> dead;      // [k], counts as 0; may be null
  Global<const float> importance;  // [k] or null: ones
  Global<const float> clip;        // [n][groups] or null
  Global<float> scales;
  Global<uint8_t> zeros;  // or null
  int64_t n, k, size, groups;
  int64_t begin, end, id, count;  // columns in [begin, end)
  int32_t steps;                  // of the scale search; 0: none
  float norm;
  double maxShrink;
};

// The weights of a group as scales see them.
struct GroupColumns {
  const Fit& p;
  int64_t row, begin, columns;
  TSQ_DEVICE float operator()(int64_t c) const {
    const int64_t column = begin + c;
    return p.dead && load(p.dead + column) != 0 ? 0.0f : load(p.w + (row * p.k + column));
  }
};

struct Scale {
  float scale, zero;
};
TSQ_DEVICE Scale scaleOf(const LaneGrid& grid, float low, float high, float shrink) {
  if (grid.symmetric) return {rounding::symmetricScale(grid, low, high, shrink), grid.symmetricZero};
  Scale made;
  made.scale = rounding::asymmetricScale(grid, low, high, shrink, &made.zero);
  return made;
}

// Over the columns of a group, by a warp; every lane gets it. Minima do not depend on the order.
template <typename Weights>
TSQ_DEVICE void rangeOf(int64_t columns, const Weights& weights, float* low, float* high) {
  float least = 0, most = 0;
  for (int64_t c = threadIndex() % 32; c < columns; c += 32) {
    const float w = weights(c);
    least = rounding::least(w, least);
    most = rounding::most(w, most);
  }
  TSQ_UNROLL for (int bits = 16; bits > 0; bits /= 2) {
    least = rounding::least(shuffleXor(least, bits), least);
    most = rounding::most(shuffleXor(most, bits), most);
  }
  *low = least;
  *high = most;
}

// Error of nearest codes on this scale, in units of the reference: two chains of columns, as on the CPU.
TSQ_DEVICE double errorOf(const Fit& p, const GroupColumns& weights, Scale scale, float reference) {
  const bool square = p.norm == 2.0f;
  const float inverse = 1.0f / scale.scale, low = -scale.zero, high = p.grid.maxCode - scale.zero;
  const auto unit = static_cast<double>(rounding::errorUnit(scale.scale, reference, square, p.norm));
  const auto term = [&](int64_t c) {
    const float weight = p.importance ? load(p.importance + (weights.begin + c)) : 1.0f;
    const float difference = rounding::stepError(weights(c), inverse, low, high);
    return weight * (square ? difference * difference : rounding::power(difference, p.norm));
  };
  double sum = 0;
  for (int64_t first = 0; first < weights.columns; first += rounding::kErrorChain) {
    const int64_t left = weights.columns - first,
                  last = first + (left < rounding::kErrorChain ? left : rounding::kErrorChain);
    float even = 0, odd = 0;
    int64_t c = first;
    for (; c + 1 < last; c += 2) {
      even += term(c);
      odd += term(c + 1);
    }
    if (c < last) even += term(c);
    sum += static_cast<double>(even + odd) * unit;
  }
  return sum;
}

// The best candidate of the scale search; 0 is the whole range. Every lane has candidates of its own, and goes through
// all columns.
TSQ_DEVICE int searchScale(const Fit& p, const GroupColumns& weights, float low, float high) {
  const float reference = scaleOf(p.grid, low, high, 1.0f).scale;
  double least = 0;
  int chosen = p.steps;  // none
  for (int i = threadIndex() % 32; i < p.steps; i += 32) {
    const Scale candidate = scaleOf(p.grid, low, high, rounding::shrinkOf(p.maxShrink, p.steps, i));
    const double error = errorOf(p, weights, candidate, reference);
    if (chosen < p.steps && !(error < least)) continue;
    least = error;
    chosen = i;
  }
  // A tie keeps the larger range.
  TSQ_UNROLL for (int bits = 16; bits > 0; bits /= 2) {
    const double error = shuffleXor(least, bits);
    const int other = shuffleXor(chosen, bits);
    const bool first = error < least || (error == least && other < chosen);
    if (other == p.steps || (chosen < p.steps && !first)) continue;
    least = error;
    chosen = other;
  }
  return chosen;
}

// A warp a row and group.
TSQ_KERNEL(kThreads) fitScales(Fit p) {
  const int64_t stride = int64_t{blockCount()} * kWarps, all = p.n * p.count;
  for (int64_t at = int64_t{blockIndex()} * kWarps + threadIndex() / 32; at < all; at += stride) {
    const int64_t row = at / p.count, group = at % p.count, begin = p.begin + group * p.size;
    const GroupColumns weights{p, row, begin, begin + p.size < p.end ? p.size : p.end - begin};
    const int64_t place = row * p.groups + p.id + group;
    float low, high;
    rangeOf(weights.columns, weights, &low, &high);
    if (p.clip) {
      const float given = load(p.clip + place), limit = given < 0 ? 0.0f : given;
      if (limit < high) high = limit;
      if (-limit > low) low = -limit;
    }
    const int chosen = p.steps > 0 ? searchScale(p, weights, low, high) : 0;
    const float shrink = chosen > 0 ? rounding::shrinkOf(p.maxShrink, p.steps, chosen) : 1.0f;
    const Scale best = scaleOf(p.grid, low, high, shrink);
    if (threadIndex() % 32 != 0) continue;
    store(p.scales + place, best.scale);
    if (p.zeros) store(p.zeros + place, static_cast<uint8_t>(best.zero));
  }
}

// Codes [n][k] of a weight on scales [n][groups].
struct Codes {
  LaneGrid grid;
  Global<const float> scales;
  Global<const uint8_t> zeros;       // or null
  Global<const int32_t> groupIndex;  // [k] or null: neighbours
  int64_t n, k, size, groups;

  TSQ_DEVICE Scale scaleAt(int64_t row, int64_t column) const {
    const int64_t group = groupIndex ? load(groupIndex + column) : column / size;
    const int64_t at = row * groups + group;
    return {load(scales + at), zeros ? static_cast<float>(load(zeros + at)) : grid.symmetricZero};
  }
};

struct Encode {
  Codes on;
  Global<const float> w;
  Global<const uint8_t> dead;  // [k], counts as 0; may be null
  Global<uint8_t> codes;
};

TSQ_KERNEL(kThreads) encodeNearest(Encode p) {
  const int64_t stride = int64_t{blockCount()} * kThreads, all = p.on.n * p.on.k;
  for (int64_t at = int64_t{blockIndex()} * kThreads + threadIndex(); at < all; at += stride) {
    const int64_t row = at / p.on.k, column = at % p.on.k;
    const float w = p.dead && load(p.dead + column) != 0 ? 0.0f : load(p.w + at);
    const Scale on = p.on.scaleAt(row, column);
    const float step = rounding::nearestStep(w, on.scale, on.zero, p.on.grid.maxCode);
    store(p.codes + at, static_cast<uint8_t>(static_cast<int32_t>(step + on.zero)));
  }
}

}  // namespace tsq::cuda::calibration
