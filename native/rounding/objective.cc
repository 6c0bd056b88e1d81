#include "rounding/objective.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "rounding/group_grid.h"

namespace tsq::rounding {
namespace {

// sums[lane] += sum over 16 columns of a * b, [16][16] each.
void addDots(const float* a, const float* b, double* sums) {
  float lanes[kPanel] = {};
  for (int64_t i = 0; i < kPanel; ++i) {
    for (int64_t lane = 0; lane < kPanel; ++lane) lanes[lane] += a[i * kPanel + lane] * b[i * kPanel + lane];
  }
  for (int64_t lane = 0; lane < kPanel; ++lane) sums[lane] += static_cast<double>(lanes[lane]);
}

}  // namespace

Result<PackedUpper<float>> packQuadratic(const float* h, int64_t k, int64_t first, int64_t size, bool threaded) {
  Result<PackedUpper<float>> made = PackedUpper<float>::create(size);
  if (!made.ok()) return made;
  PackedUpper<float>& packed = made.value();
  const auto packPanel = [&](int64_t p, int) {
    float* panel = packed.panel(p);
    const int64_t columns = std::min(kPanel, size - p * kPanel);
    for (int64_t row = 0; row < std::min(size, (p + 1) * kPanel); ++row) {
      const float* from = h + (first + row) * k + first + p * kPanel;
      for (int64_t i = 0; i < columns; ++i) {
        const int64_t column = p * kPanel + i;
        panel[row * kPanel + i] = column > row ? 2.f * from[i] : column == row ? from[i] : 0.f;
      }
    }
  };
  if (threaded) {
    ThreadPool::instance().run(packed.panels(), packPanel);
  } else {
    for (int64_t p = 0; p < packed.panels(); ++p) packPanel(p, 0);
  }
  return made;
}

void quadraticForms(const PackedUpper<float>& h, int sets, const float* const* d, double* sums) {
  const KernelTable& table = kernels();
  // Four panels of H share a stretch of the vectors while it is in the cache.
  constexpr int64_t kTogether = 4, kStretch = kChain / 2;
  for (int64_t first = 0; first < h.panels(); first += kTogether) {
    const int64_t last = std::min(h.panels(), first + kTogether);
    for (int64_t row = 0; row < last * kPanel; row += kStretch) {
      for (int64_t p = std::max(first, row / kPanel); p < last; ++p) {
        const int64_t rows = std::min(kStretch, (p + 1) * kPanel - row);
        const float* left = h.panel(p) + row * kPanel;
        // Its next stretch, wanted once the other panels are done with this one.
        prefetchRows(left + rows * kPanel, std::min(kStretch, (p + 1) * kPanel - row - rows));
        for (int s = 0; s < sets; s += 2) {
          alignas(64) float product[2][kPanel * kPanel] = {};
          if (s + 1 < sets) {
            table.gramPair(left, d[s] + row * kPanel, d[s + 1] + row * kPanel, rows, product[0], product[1], kPanel);
          } else {
            table.gramTile(left, d[s] + row * kPanel, rows, product[0], kPanel);
          }
          for (int one = s; one < std::min(sets, s + 2); ++one)
            addDots(product[one - s], d[one] + p * kPanel * kPanel, sums + one * kPanel);
        }
      }
    }
  }
}

Status sumQuadraticForms(const PackedUpper<float>& h, int64_t n, int variants, FillRef fill, double* totals,
                         AbortFlag abort) {
  const int64_t stride = h.padded() * kPanel;
  constexpr int kPerVariant = kLanes / kPanel;
  WorkerScratch scratch(static_cast<uint64_t>(stride) * kPerVariant * static_cast<uint64_t>(variants) * sizeof(float));
  std::vector<double> rows(static_cast<size_t>(chunksOf(n) * kLanes * variants), 0.0);
  ThreadPool::instance().run(chunksOf(n), [&](int64_t chunk, int worker) {
    if (abort.raised()) return;
    float* memory = static_cast<float*>(scratch.get(worker));
    if (memory == nullptr) return;
    std::memset(memory, 0, static_cast<size_t>(stride * kPerVariant * variants) * sizeof(float));
    const float* sets[2 * kPerVariant];
    for (int variant = 0; variant < variants; ++variant) {
      float* d = memory + variant * kPerVariant * stride;
      fill(chunk, variant, d, stride);
      for (int panel = 0; panel < kPerVariant; ++panel) sets[variant * kPerVariant + panel] = d + panel * stride;
    }
    quadraticForms(h, kPerVariant * variants, sets, rows.data() + chunk * kLanes * variants);
  });
  TSQ_RETURN_IF_ERROR(scratch.status("output error"));
  if (abort.raised()) return {Code::kAborted, "output error: aborted"};
  for (int variant = 0; variant < variants; ++variant) {
    totals[variant] = 0;
    for (int64_t chunk = 0; chunk < chunksOf(n); ++chunk) {
      const double* sums = rows.data() + (chunk * variants + variant) * kLanes;
      for (int64_t lane = 0; lane < rowsOfChunk(n, chunk); ++lane) totals[variant] += sums[lane];
    }
  }
  return {};
}

}  // namespace tsq::rounding

namespace tsq {

Result<double> layerError(const float* w, const float* approx, int64_t n, int64_t k, const Hessian& hessian) {
  if (n < 1 || k != hessian.k()) {
    return Status(Code::kShape, "layer error: weight is [" + std::to_string(n) + ", " + std::to_string(k) +
                                    "], expected at least one row and k = " + std::to_string(hessian.k()) +
                                    " as in the Hessian");
  }
  if (!(hessian.rows() > 0))
    return Status(Code::kOption, "layer error: the Hessian has seen no rows; run calibration first");
  Result<rounding::PackedUpper<float>> packed = rounding::packQuadratic(hessian.data(), k, 0, k, true);
  if (!packed.ok()) return packed.status();
  double total = 0;
  const auto fill = [&](int64_t chunk, int, float* d, int64_t stride) {
    const int64_t first = chunk * rounding::kLanes;
    for (int64_t lane = 0; lane < rounding::rowsOfChunk(n, chunk); ++lane) {
      const float* a = w + (first + lane) * k;
      const float* b = approx + (first + lane) * k;
      float* to = d + lane / rounding::kPanel * stride + lane % rounding::kPanel;
      for (int64_t c = 0; c < k; ++c) to[c * rounding::kPanel] = a[c] - b[c];
    }
  };
  TSQ_RETURN_IF_ERROR(rounding::sumQuadraticForms(packed.value(), n, 1, fill, &total, AbortFlag()));
  return total / hessian.rows();
}

}  // namespace tsq
