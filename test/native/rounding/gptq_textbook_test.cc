// GPTQ against algorithm 1 of arXiv 2210.17323 written plainly in float64.
#include "gptq_textbook.h"
#include "gptq_run.h"

using namespace rounding_test;

namespace {

// One row after the other, one column after the other, no blocks, everything in float64. Scales from the range, f32.
std::vector<float> textbook(const std::vector<float>& w, int64_t n, int64_t k, const Hessian& h, const GptqSpec& spec,
                            std::vector<int64_t>* groupOfColumn) {
  const GridSpec& grid = spec.grid;
  const std::vector<int64_t> visit = order(spec.order, h, grid.groupSize);
  double mean = 0;
  for (int64_t c = 0; c < k; ++c) mean += static_cast<double>(h.data()[c * k + c]) / static_cast<double>(k);
  Matrix a(static_cast<size_t>(k), std::vector<double>(static_cast<size_t>(k)));
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      a[static_cast<size_t>(i)][static_cast<size_t>(j)] =
          static_cast<double>(h.data()[visit[static_cast<size_t>(i)] * k + visit[static_cast<size_t>(j)]]) +
          (i == j ? spec.damp * mean : 0);
    }
  }
  const Matrix u = inverseFactor(a);
  const bool fixed = spec.order == ActOrder::kStatic;
  const auto group = [&](int64_t j) {
    return spec.order == ActOrder::kDynamic ? j / grid.groupSize : visit[static_cast<size_t>(j)] / grid.groupSize;
  };
  groupOfColumn->resize(static_cast<size_t>(k));
  for (int64_t j = 0; j < k; ++j) (*groupOfColumn)[static_cast<size_t>(visit[static_cast<size_t>(j)])] = group(j);
  const double maxCode = (1 << grid.bits) - 1;
  std::vector<float> result(w.size());
  for (int64_t r = 0; r < n; ++r) {
    std::vector<double> row(static_cast<size_t>(k));
    for (int64_t j = 0; j < k; ++j)
      row[static_cast<size_t>(j)] = static_cast<double>(w[static_cast<size_t>(r * k + visit[static_cast<size_t>(j)])]);
    const std::vector<double> original = row;
    std::vector<float> scales(static_cast<size_t>((k + grid.groupSize - 1) / grid.groupSize), 0.f), zeros = scales;
    for (int64_t j = 0; j < k; ++j) {
      const size_t g = static_cast<size_t>(group(j));
      if (scales[g] == 0) {
        float lo = 0, hi = 0;
        for (int64_t i = 0; i < k; ++i) {
          if (group(i) != group(j)) continue;
          const float value =
              static_cast<float>(fixed ? original[static_cast<size_t>(i)] : row[static_cast<size_t>(i)]);
          lo = std::min(lo, value);
          hi = std::max(hi, value);
        }
        scales[g] = grid.symmetric ? std::max(-lo, hi) / static_cast<float>(maxCode / 2)
                                   : (hi - lo) / static_cast<float>(maxCode);
        zeros[g] = grid.symmetric ? static_cast<float>(1 << (grid.bits - 1)) : std::nearbyint(-lo / scales[g]);
      }
      const double scale = static_cast<double>(scales[g]), zero = static_cast<double>(zeros[g]);
      // In f32: on a symmetric grid the least weight of a group is a tie, -(2^bits - 1) / 2 steps, which must fall the
      // same way.
      const double steps = static_cast<double>(static_cast<float>(row[static_cast<size_t>(j)]) / scales[g]);
      const double code = std::min(std::max(std::nearbyint(steps) + zero, 0.0), maxCode);
      const double value = scale * (code - zero);
      result[static_cast<size_t>(r * k + visit[static_cast<size_t>(j)])] = static_cast<float>(value);
      const double error = (row[static_cast<size_t>(j)] - value) / u[static_cast<size_t>(j)][static_cast<size_t>(j)];
      for (int64_t i = j; i < k; ++i)
        row[static_cast<size_t>(i)] -= error * u[static_cast<size_t>(j)][static_cast<size_t>(i)];
    }
  }
  return result;
}

}  // namespace

TEST(gptq_agrees_with_the_textbook) {
  const int64_t shapes[][4] = {{5, 24, 8, 128}, {40, 60, 16, 32},   {33, 96, 96, 32},
                               {3, 50, 20, 16}, {8, 130, 128, 128}, {7, 100, 32, 1}};
  for (const auto& shape : shapes) {
    const int64_t n = shape[0], k = shape[1], rows = 3 * k;
    const std::unique_ptr<Hessian> h = hessianOf(activations(rows, k, 31), rows, k);
    const std::vector<float> w = gaussian(n * k, 32, 0.1f);
    for (int bits : {2, 4}) {
      for (bool symmetric : {true, false}) {
        for (ActOrder kind : kOrders) {
          const GptqSpec spec = specOf(bits, symmetric, shape[2], kind, static_cast<int>(shape[3]));
          const std::string what = describe(n, k, spec.grid) + " order " + kOrderNames[static_cast<int>(kind)];
          const Run done = run(w, n, k, *h, spec);
          CHECK_MSG(done.status.ok(), done.status.message());
          std::vector<int64_t> groups;
          const std::vector<float> expected = textbook(w, n, k, *h, spec, &groups);
          const std::vector<float> got = dequantized(done, n, k, spec);
          if (kind == ActOrder::kDynamic) {
            bool same = true;
            for (int64_t c = 0; c < k; ++c)
              same = same && groups[static_cast<size_t>(c)] == done.index[static_cast<size_t>(c)];
            CHECK_MSG(same, what + ": group index");
          }
          // A row goes its own way once a rounding tie falls the other way; most rows must agree, and the objective
          // must.
          int64_t equalRows = 0;
          for (int64_t r = 0; r < n; ++r) {
            bool equal = true;
            for (int64_t c = 0; c < k; ++c) {
              const size_t at = static_cast<size_t>(r * k + c);
              equal = equal && std::abs(got[at] - expected[at]) <= 1e-4f * std::abs(expected[at]) + 1e-6f;
            }
            equalRows += equal ? 1 : 0;
          }
          const double own = referenceError(w, got, n, k, *h), reference = referenceError(w, expected, n, k, *h);
          CHECK_MSG(equalRows == n || std::abs(own / reference - 1) < 0.01,
                    what + " error " + std::to_string(own / reference));
          CHECK_MSG(equalRows * 10 >= n * 9 || n < 10, what + ": " + std::to_string(equalRows) + " rows agree");
          CHECK_MSG(!done.report.degraded && done.report.damp == 0.01 && done.report.deadColumns == 0, what);
          CHECK_MSG(std::abs(done.report.error / own - 1) < 1e-4,
                    what + ": reported " + std::to_string(done.report.error) + " is " + std::to_string(own));
        }
      }
    }
  }
}
