// Right-looking blocked Cholesky on PackedUpper, and the inverse of the triangular factor by forward substitution on
// strips of 64 right-hand sides. All heavy work is 16 x 16 tiles of U^T U, whose operands lie contiguous in the panels.
#include "rounding/cholesky.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "rounding/group_grid.h"
#include "rounding/tile.h"

namespace tsq::rounding {
namespace {

constexpr int64_t kBlock = 128;     // rows of R made at a time
constexpr int64_t kTaskPanels = 4;  // panels of 16 columns a task updates

// Factors the block of rows [begin, end) within its own panels. Returns the failing row or -1.
template <typename T>
int64_t factorDiagonal(PackedUpper<T>* m, int64_t begin, int64_t end, const std::vector<T>& smallest, T* dense) {
  const int64_t size = end - begin;
  for (int64_t r = 0; r < size; ++r) {
    for (int64_t c = r; c < size; ++c) dense[r * kBlock + c] = m->at(begin + r, begin + c);
  }
  for (int64_t r = 0; r < size; ++r) {
    T* row = dense + r * kBlock;
    // A negated comparison, so that NaN fails.
    if (!(row[r] > smallest[static_cast<size_t>(begin + r)]) || !(row[r] <= std::numeric_limits<T>::max()))
      return begin + r;
    const T pivot = std::sqrt(row[r]);
    row[r] = pivot;
    const T inverse = T{1} / pivot;
    for (int64_t c = r + 1; c < size; ++c) row[c] *= inverse;
    for (int64_t i = r + 1; i < size; ++i) {
      T* target = dense + i * kBlock;
      const T factor = row[i];
      for (int64_t c = i; c < size; ++c) target[c] -= factor * row[c];
    }
  }
  for (int64_t r = 0; r < size; ++r) {
    for (int64_t c = r; c < size; ++c) m->at(begin + r, begin + c) = dense[r * kBlock + c];
  }
  return -1;
}

// Solves R^T x = b for 16 right-hand sides over rows [begin, end) of R, both multiples of 16: x [end - begin][16], in
// place of b.
template <typename T>
void forwardSolve(TileKernel<T> tile, const PackedUpper<T>& r, int64_t begin, int64_t end, T* x) {
  for (int64_t row = begin; row < end; row += kPanel) {
    const T* panel = r.panel(row / kPanel);
    alignas(64) T known[kPanel * kPanel] = {};
    chainedTile(tile, panel + begin * kPanel, x, row - begin, known, kPanel);
    T* target = x + (row - begin) * kPanel;
    for (int64_t i = 0; i < kPanel; ++i) {
      T* line = target + i * kPanel;
      for (int64_t lane = 0; lane < kPanel; ++lane) line[lane] -= known[i * kPanel + lane];
      for (int64_t q = 0; q < i; ++q) {
        const T factor = panel[(row + q) * kPanel + i];
        for (int64_t lane = 0; lane < kPanel; ++lane) line[lane] -= factor * target[q * kPanel + lane];
      }
      const T inverse = T{1} / panel[(row + i) * kPanel + i];
      for (int64_t lane = 0; lane < kPanel; ++lane) line[lane] *= inverse;
    }
  }
}

}  // namespace

template <typename T>
int64_t choleskyUpper(PackedUpper<T>* matrix, AbortFlag abort) {
  PackedUpper<T>& m = *matrix;
  const int64_t k = m.k(), padded = m.padded(), panels = m.panels();
  const TileKernel<T> tile = tileKernel<T>();
  // Padding: an identity block, which takes no part.
  for (int64_t column = k; column < padded; ++column) {
    for (int64_t row = 0; row < padded; ++row) m.at(row, column) = row == column ? T{1} : T{0};
  }
  // A pivot is A_ii less a sum of squares: below the error of that sum it is noise. The error grows as the root of the
  // terms.
  const T noise = std::numeric_limits<T>::epsilon() * std::sqrt(static_cast<T>(padded));
  std::vector<T> smallest(static_cast<size_t>(padded));
  for (int64_t i = 0; i < padded; ++i) smallest[static_cast<size_t>(i)] = noise * m.at(i, i);
  std::vector<T> dense(static_cast<size_t>(kBlock * kBlock));
  for (int64_t begin = 0; begin < padded; begin += kBlock) {
    if (abort.raised()) return -2;
    const int64_t end = std::min(padded, begin + kBlock), rest = end / kPanel;
    const int64_t failed = factorDiagonal(&m, begin, end, smallest, dense.data());
    if (failed >= 0) return failed;
    ThreadPool::instance().run(panels - rest, [&](int64_t task, int) {
      forwardSolve(tile, m, begin, end, m.panel(rest + task) + begin * kPanel);
    });
    // Trailing update, the longest columns first so that the threads end together.
    const int64_t tasks = (panels - rest + kTaskPanels - 1) / kTaskPanels;
    ThreadPool::instance().run(tasks, [&](int64_t task, int) {
      const int64_t last = panels - task * kTaskPanels, first = std::max(rest, last - kTaskPanels);
      for (int64_t q = rest; q < last; ++q) {
        for (int64_t p = std::max(first, q); p < last; ++p) {
          alignas(64) T product[kPanel * kPanel] = {};
          tile(m.panel(q) + begin * kPanel, m.panel(p) + begin * kPanel, end - begin, product, kPanel);
          T* target = m.panel(p) + q * kPanel * kPanel;
          for (int64_t i = 0; i < kPanel * kPanel; ++i) target[i] -= product[i];
        }
      }
    });
  }
  return -1;
}

template <typename T>
bool invertReversed(const PackedUpper<T>& factor, PackedUpper<float>* inverse, AbortFlag abort, bool* outOfMemory) {
  *outOfMemory = false;
  const int64_t k = factor.k(), padded = factor.padded(), panels = factor.panels();
  const TileKernel<T> tile = tileKernel<T>();
  // Four panels of right-hand sides share one pass over R.
  WorkerScratch scratch(static_cast<uint64_t>(kTaskPanels * kPanel * padded) * sizeof(T));
  const int64_t tasks = (panels + kTaskPanels - 1) / kTaskPanels;
  ThreadPool::instance().run(tasks, [&](int64_t task, int worker) {
    if (abort.raised()) return;
    T* strips = static_cast<T*>(scratch.get(worker));
    if (strips == nullptr) return;
    const int64_t first = task * kTaskPanels, last = std::min(panels, first + kTaskPanels);
    // Strip s holds columns [16 (first + s), +16) of R^-T, rows from `begin` on (above them it is zero).
    const int64_t begin = first * kPanel, height = padded - begin;
    for (int64_t s = 0; s < last - first; ++s) {
      T* x = strips + s * kPanel * height;
      std::fill(x, x + kPanel * height, T{0});
      for (int64_t i = 0; i < kPanel; ++i) x[(s * kPanel + i) * kPanel + i] = T{1};
    }
    for (int64_t row = begin; row < padded; row += kPanel) {
      const T* panel = factor.panel(row / kPanel);
      // A stretch of R's panel stays in the cache for all strips.
      alignas(64) T known[kTaskPanels][kPanel * kPanel] = {};
      for (int64_t r = begin; r < row; r += kBlock) {
        const int64_t rows = std::min(kBlock, row - r);
        for (int64_t s = 0; s < last - first; ++s) {
          tile(panel + r * kPanel, strips + s * kPanel * height + (r - begin) * kPanel, rows, known[s], kPanel);
        }
      }
      for (int64_t s = 0; s < last - first; ++s) {
        T* target = strips + s * kPanel * height + (row - begin) * kPanel;
        for (int64_t i = 0; i < kPanel * kPanel; ++i) target[i] -= known[s][i];
        forwardSolve(tile, factor, row, row + kPanel, target);
      }
    }
    // Column b, row a of R^-T is U(k - 1 - a, k - 1 - b).
    for (int64_t s = 0; s < last - first; ++s) {
      const T* x = strips + s * kPanel * height;
      for (int64_t i = 0; i < kPanel; ++i) {
        const int64_t b = (first + s) * kPanel + i;
        if (b >= k) break;
        for (int64_t a = b; a < k; ++a)
          inverse->at(k - 1 - a, k - 1 - b) = static_cast<float>(x[(a - begin) * kPanel + i]);
      }
    }
  });
  *outOfMemory = scratch.failed();
  return !*outOfMemory && !abort.raised();
}

template int64_t choleskyUpper<float>(PackedUpper<float>*, AbortFlag);
template int64_t choleskyUpper<double>(PackedUpper<double>*, AbortFlag);
template bool invertReversed<float>(const PackedUpper<float>&, PackedUpper<float>*, AbortFlag, bool*);
template bool invertReversed<double>(const PackedUpper<double>&, PackedUpper<float>*, AbortFlag, bool*);

}  // namespace tsq::rounding
