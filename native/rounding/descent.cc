// Exact descent on d^T H d, d = target - dequantized: scale and zero point of one group at a time, then one code at a
// time, each to where the objective is least while everything else stays. H d is kept up to date: within a block of
// columns at once, for all others as one product at its end.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "rounding/row_set.h"
#include "rounding/tile.h"

namespace tsq::rounding {
namespace {

// gradient += H change of columns [begin, end), of which `change` holds [end - begin][16] per set, for sets that are
// `live`.
void spread(const LearnJob& job, std::vector<RowSet>& sets, const std::vector<uint8_t>& live, int64_t begin,
            int64_t end) {
  std::vector<Product> products;
  for (size_t s = 0; s < sets.size(); ++s) {
    if (live[s]) products.push_back({sets[s].change, sets[s].gradient});
  }
  addProducts(job.h, begin, end, products);
}

// out [columns][16], columns [begin, end) = H of these columns times x, rows [begin, end) of x + 0.
void multiplyGroup(const LearnJob& job, int64_t begin, int64_t end, const float* x, float* out) {
  const TileKernel<float> tile = tileKernel<float>();
  for (int64_t p = begin / kPanel; p * kPanel < end; ++p) {
    alignas(64) float product[kPanel * kRows] = {};
    chainedTile(tile, job.h.panel(p) + begin * kPanel, x, end - begin, product, kRows);
    const int64_t from = std::max(begin, p * kPanel), to = std::min(end, (p + 1) * kPanel);
    std::memcpy(out + (from - begin) * kRows, product + (from - p * kPanel) * kRows,
                static_cast<size_t>((to - from) * kRows) * sizeof(float));
  }
}

// Where a parabola gain(x) = 2 slope x - curve x² is best, and whether that is worth anything.
bool gains(double slope, double curve, double x) {
  return x * (2 * slope - curve * x) > 1e-6 * curve * x * x;
}

class Descent {
 public:
  Descent(const LearnJob& job, std::vector<RowSet>& sets, AbortFlag abort)
      : job_(job),
        sets_(sets),
        abort_(abort),
        products_(static_cast<size_t>(job.longest * kRows + 16)),
        block_(static_cast<size_t>(kDescentBlock * kDescentBlock)),
        live_(sets.size()) {}

  // Scales and zero points of all groups. Whether any changed.
  bool moveGrids() {
    bool any = false;
    for (int64_t g = 0; g < job_.groups && !abort_.raised(); ++g) {
      const int64_t begin = job_.groupBegin[static_cast<size_t>(g)], end = job_.groupBegin[static_cast<size_t>(g) + 1];
      if (begin == end) continue;
      bool anyLive = false;
      for (size_t s = 0; s < sets_.size(); ++s) {
        live_[s] = moveGrid(sets_[s], g, begin, end);
        anyLive = anyLive || live_[s];
      }
      if (anyLive) spread(job_, sets_, live_, begin, end);
      any = any || anyLive;
    }
    return any;
  }

  // Codes of all columns. Whether any changed.
  bool moveCodes() {
    bool any = false;
    for (int64_t begin = 0; begin < job_.k && !abort_.raised(); begin += kDescentBlock) {
      const int64_t end = std::min(job_.k, begin + kDescentBlock);
      loadBlock(begin, end);
      bool anyLive = false;
      for (size_t s = 0; s < sets_.size(); ++s) {
        RowSet& set = sets_[s];
        alignas(64) float slopes[kDescentBlock * kRows];
        std::memcpy(slopes, set.gradient + begin * kRows, static_cast<size_t>((end - begin) * kRows) * sizeof(float));
        live_[s] = rowLoops().descend(block_.data(), end - begin, set.current.scales, set.current.zeros,
                                      job_.groupOf.data() + begin, job_.grid.maxCode, set.current.codes + begin * kRows,
                                      set.difference + begin * kRows, slopes, set.change);
        anyLive = anyLive || live_[s];
      }
      if (anyLive) spread(job_, sets_, live_, begin, end);
      any = any || anyLive;
    }
    return any;
  }

 private:
  void loadBlock(int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t c = begin; c < end; ++c)
        block_[static_cast<size_t>((row - begin) * kDescentBlock + c - begin)] = job_.h.at(row, c);
    }
  }

  // The scale of one group, then its zero point. Fills set.change and moves set.difference.
  bool moveGrid(RowSet& set, int64_t g, int64_t begin, int64_t end) {
    const GroupRows rows = set.group(g);
    const RowLoops& loops = rowLoops();
    const LaneGrid& grid = job_.grid;
    alignas(64) float by[kRows] = {};
    float* products = products_.data() + alignment();
    // set.change holds the steps code - zero first, and what changes at the end.
    for (int64_t c = 0; c < rows.columns; ++c) {
      for (int64_t i = 0; i < kRows; ++i) set.change[c * kRows + i] = rows.codes[c * kRows + i] - rows.zero[i];
    }
    multiplyGroup(job_, begin, end, set.change, products);
    double slope[kRows] = {}, curve[kRows] = {};
    loops.dotSteps(rows, rows.gradient, slope);
    loops.dotSteps(rows, products, curve);
    float* scales = set.current.scales + g * kRows;
    bool moved = false;
    for (int64_t i = 0; i < kRows; ++i) {
      if (!(curve[i] > 0)) continue;
      const double best = static_cast<double>(scales[i]) + slope[i] / curve[i];
      if (!(best > 0 && std::isfinite(best))) continue;
      const float wanted = static_cast<float>(std::min<double>(best, static_cast<double>(grid.maxScale)));
      const float stored = toStored(most(wanted, grid.minScale), grid.dropBits, grid.subnormalBelow);
      const float step = stored - scales[i];
      if (!(stored > 0) || !gains(slope[i], curve[i], static_cast<double>(step))) continue;
      by[i] = step;
      scales[i] = stored;
      moved = true;
    }
    loops.moveScale(rows, by, set.change);
    if (!job_.spec.grid.symmetric) moved = moveZero(set, rows, g, begin, end, by, products) || moved;
    return moved;
  }

  // products: H of the group times its steps, whose scale has moved by `by`.
  bool moveZero(RowSet& set, const GroupRows& rows, int64_t g, int64_t begin, int64_t end, const float* by,
                const float* products) {
    const double curve = job_.groupSums[static_cast<size_t>(g)];
    if (!(curve > 0)) return false;
    double sums[kRows] = {};
    for (int64_t c = 0; c < end - begin; ++c) {
      for (int64_t i = 0; i < kRows; ++i)
        sums[i] += static_cast<double>(rows.gradient[c * kRows + i] - by[i] * products[c * kRows + i]);
    }
    bool moved = false;
    float* zeros = set.current.zeros + g * kRows;
    alignas(64) float lift[kRows] = {};
    for (int64_t i = 0; i < kRows; ++i) {
      const double scale = static_cast<double>(rows.scale[i]);
      // A zero point that is lower by 1 lifts every weight of the group by the scale.
      const double wanted = static_cast<double>(zeros[i]) - sums[i] / (curve * scale);
      const double next = std::min(std::max(std::nearbyint(wanted), static_cast<double>(job_.grid.minZero)),
                                   static_cast<double>(job_.grid.maxCode));
      const double rise = (static_cast<double>(zeros[i]) - next) * scale;
      if (!(std::isfinite(wanted)) || !gains(sums[i], curve, rise)) continue;
      zeros[i] = static_cast<float>(next);
      lift[i] = static_cast<float>(rise);
      moved = true;
    }
    if (!moved) return false;
    for (int64_t c = 0; c < rows.columns; ++c) {
      for (int64_t i = 0; i < kRows; ++i) {
        set.change[c * kRows + i] -= lift[i];
        rows.difference[c * kRows + i] -= lift[i];
      }
    }
    return true;
  }

  int64_t alignment() const {
    return static_cast<int64_t>((64 - reinterpret_cast<uintptr_t>(products_.data()) % 64) % 64 / sizeof(float));
  }

  const LearnJob& job_;
  std::vector<RowSet>& sets_;
  const AbortFlag abort_;
  std::vector<float> products_, block_;
  std::vector<uint8_t> live_;
};

// A sweep that lowers no row's objective by more than this share was the last.
constexpr double kWorthwhile = 1e-4;

}  // namespace

void descend(const LearnJob& job, std::vector<RowSet>& sets, AbortFlag abort) {
  for (RowSet& set : sets) {
    set.restore();
    set.subtract();
  }
  computeGradients(job, sets);
  Descent descent(job, sets, abort);
  std::vector<std::array<double, kRows>> before(sets.size());
  for (size_t s = 0; s < sets.size(); ++s) sets[s].objective(before[s].data());
  for (int sweep = 0; sweep < job.spec.sweeps && !abort.raised(); ++sweep) {
    bool moved = !job.spec.grid.perTensor && descent.moveGrids();
    if (job.spec.codes) moved = descent.moveCodes() || moved;
    if (!moved) break;
    // Now and then from scratch, so that rounding errors do not add up.
    if (sweep % 4 == 3) {
      for (RowSet& set : sets) set.subtract();
      computeGradients(job, sets);
    }
    bool worthwhile = false;
    for (size_t s = 0; s < sets.size(); ++s) {
      double now[kRows];
      sets[s].objective(now);
      for (int64_t i = 0; i < kRows; ++i) {
        worthwhile = worthwhile || now[i] < (1 - kWorthwhile) * before[s][static_cast<size_t>(i)];
        before[s][static_cast<size_t>(i)] = now[i];
      }
    }
    if (!worthwhile) break;
  }
  if (abort.raised()) return;
  for (RowSet& set : sets) set.subtract();
  computeGradients(job, sets);
  for (RowSet& set : sets) {
    double error[kRows];
    set.objective(error);
    set.keepBetter(error);
  }
}

}  // namespace tsq::rounding
