#include "rounding/row_set.h"

#include <algorithm>
#include <cstring>

#include "kernels/kernels.h"

namespace tsq::rounding {

uint64_t RowSet::floats(const LearnJob& job) {
  const uint64_t matrices = job.spec.steps > 0 ? 6 : 4;
  return matrices * static_cast<uint64_t>(job.padded() * kRows) + 2 * RowGrid::floats(job);
}

RowSet::RowSet(float* memory, const LearnJob& job, int64_t firstRow)
    : target(memory),
      difference(target + job.padded() * kRows),
      gradient(difference + job.padded() * kRows),
      change(gradient + job.padded() * kRows),
      offsets(change + job.padded() * kRows),
      base(offsets + (job.spec.steps > 0 ? job.padded() * kRows : 0)),
      current(base + (job.spec.steps > 0 ? job.padded() * kRows : 0), job),
      kept(current.codes + RowGrid::floats(job), job),
      job_(job),
      first_(firstRow),
      rows_(std::min(kRows, job.n - firstRow)) {
  for (int64_t lane = 0; lane < kRows; ++lane) {
    const float* row = job.target + (first_ + std::min(lane, rows_ - 1)) * job.k;
    for (int64_t c = 0; c < job.k; ++c) target[c * kRows + lane] = row[job.columns[static_cast<size_t>(c)]];
  }
}

void RowSet::load(const RoundedWeight& start) {
  for (int64_t lane = 0; lane < kRows; ++lane) {
    const int64_t row = first_ + std::min(lane, rows_ - 1);
    const uint8_t* codes = start.codes + row * job_.k;
    for (int64_t c = 0; c < job_.k; ++c) current.codes[c * kRows + lane] = codes[job_.columns[static_cast<size_t>(c)]];
    for (int64_t g = 0; g < job_.groups; ++g) {
      current.scales[g * kRows + lane] = start.scales[row * job_.groups + g];
      current.zeros[g * kRows + lane] =
          start.zeros == nullptr ? job_.grid.symmetricZero : start.zeros[row * job_.groups + g];
    }
  }
}

void RowSet::keepBetter(const double* error) {
  bool better[kRows];
  bool all = true, none = true;
  for (int64_t lane = 0; lane < kRows; ++lane) {
    better[lane] = !any_ || error[lane] < keptError[lane];
    if (better[lane]) keptError[lane] = error[lane];
    all = all && better[lane];
    none = none && !better[lane];
  }
  any_ = true;
  if (none) return;
  const int64_t vectors = job_.padded() + 2 * job_.groups;
  if (all) {
    std::memcpy(kept.codes, current.codes, static_cast<size_t>(vectors * kRows) * sizeof(float));
    return;
  }
  for (int64_t v = 0; v < vectors; ++v) {
    for (int64_t lane = 0; lane < kRows; ++lane) {
      if (better[lane]) kept.codes[v * kRows + lane] = current.codes[v * kRows + lane];
    }
  }
}

void RowSet::restore() {
  std::memcpy(current.codes, kept.codes, RowGrid::floats(job_) * sizeof(float));
}

void RowSet::store(RoundedWeight out) const {
  for (int64_t lane = 0; lane < rows_; ++lane) {
    const int64_t row = first_ + lane;
    for (int64_t c = 0; c < job_.k; ++c) {
      out.codes[row * job_.k + job_.columns[static_cast<size_t>(c)]] =
          static_cast<uint8_t>(static_cast<int32_t>(kept.codes[c * kRows + lane]));
    }
    for (int64_t g = 0; g < job_.groups; ++g) {
      out.scales[row * job_.groups + g] = kept.scales[g * kRows + lane];
      if (out.zeros != nullptr)
        out.zeros[row * job_.groups + g] = static_cast<uint8_t>(static_cast<int32_t>(kept.zeros[g * kRows + lane]));
    }
  }
}

GroupRows RowSet::group(int64_t g) const {
  const int64_t begin = job_.groupBegin[static_cast<size_t>(g)];
  return {.target = target + begin * kRows,
          .codes = current.codes + begin * kRows,
          .difference = difference + begin * kRows,
          .gradient = gradient + begin * kRows,
          .scale = current.scales + g * kRows,
          .zero = current.zeros + g * kRows,
          .columns = job_.groupBegin[static_cast<size_t>(g) + 1] - begin};
}

void RowSet::subtract() {
  for (int64_t g = 0; g < job_.groups; ++g) rowLoops().subtract(group(g));
}

void RowSet::objective(double* error) const {
  std::fill(error, error + kRows, 0.0);
  rowLoops().dot(difference, gradient, job_.k, error);
}

void addProducts(const PackedSquare& h, int64_t begin, int64_t end, const std::vector<Product>& products) {
  const KernelTable& table = kernels();
  for (int64_t p = 0; p < h.panels(); ++p) {
    for (int64_t row = begin; row < end; row += kChain) {
      const float* left = h.panel(p) + row * kPanel;
      const int64_t rows = std::min(kChain, end - row), from = (row - begin) * kRows, to = p * kPanel * kRows;
      size_t s = 0;
      for (; s + 1 < products.size(); s += 2) {
        const Product& one = products[s];
        const Product& two = products[s + 1];
        table.gramPair(left, one.x + from, two.x + from, rows, one.sum + to, two.sum + to, kRows);
      }
      if (s < products.size()) table.gramTile(left, products[s].x + from, rows, products[s].sum + to, kRows);
    }
  }
}

void computeGradients(const LearnJob& job, std::vector<RowSet>& sets) {
  std::vector<Product> products;
  for (RowSet& set : sets) {
    std::memset(set.gradient, 0, static_cast<size_t>(job.padded() * kRows) * sizeof(float));
    products.push_back({set.difference, set.gradient});
  }
  addProducts(job.h, 0, job.padded(), products);
}

}  // namespace tsq::rounding
