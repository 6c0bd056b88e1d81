#include "rounding/cross.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "rounding/gptq_machine.h"
#include "rounding/group_grid.h"
#include "rounding/inverse_factor.h"
#include "rounding/packed_square.h"
#include "rounding/tile.h"

namespace tsq {

using namespace rounding;  // NOLINT: the pieces that this file puts together

namespace {

constexpr int64_t kChunkRows = 256;

// panel [rows][16] of columns [first, +16) of x, or of x - minus, [rows, k]; zero beyond k.
void packRows(const float* x, const float* minus, int64_t k, int64_t rows, int64_t first, float* panel) {
  const int64_t columns = std::min(kPanel, k - first);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < kPanel; ++c) {
      const int64_t at = r * k + first + c;
      panel[r * kPanel + c] = c >= columns ? 0.f : minus == nullptr ? x[at] : x[at] - minus[at];
    }
  }
}

bool allFinite(const CrossGram& cross) {
  std::atomic<bool> finite{true};
  const int64_t k = cross.k();
  ThreadPool::instance().run(cross.width(), [&](int64_t row, int) {
    const float* values = cross.data() + row * k;
    uint32_t bad = 0;
    for (int64_t c = 0; c < k; ++c) bad |= (floatToBits(values[c]) & 0x7f800000u) == 0x7f800000u ? 1u : 0u;
    if (bad != 0) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

// The rows of an upper triangular matrix as left operands of the tile: element (i, c) of U at panel(i / 16)[c * 16 + i
// % 16].
Result<PackedSquare> transposed(const PackedUpper<float>& u) {
  Result<PackedSquare> made = PackedSquare::create(u.k());
  if (!made.ok()) return made;
  PackedSquare& square = made.value();
  ThreadPool::instance().run(u.panels(), [&](int64_t p, int) {
    float* panel = square.panel(p);
    for (int64_t row = p * kPanel; row < std::min(u.k(), (p + 1) * kPanel); ++row) {
      for (int64_t c = row; c < u.k(); ++c) panel[c * kPanel + row - p * kPanel] = u.at(row, c);
    }
  });
  return made;
}

}  // namespace

Result<std::unique_ptr<CrossGram>> CrossGram::create(int64_t width, int64_t k) {
  if (std::min(width, k) < 1 || std::max(width, k) > int64_t{1} << 20) {
    return Status(Code::kShape, "cross Gram matrix: it is [" + std::to_string(width) + ", " + std::to_string(k) +
                                    "], expected 1 to 1048576 each");
  }
  Result<AlignedBuffer> matrix = AlignedBuffer::allocate(static_cast<size_t>(width * k) * sizeof(float));
  if (!matrix.ok()) return matrix.status();
  Result<AlignedBuffer> packed = AlignedBuffer::allocate(
      static_cast<size_t>((roundUpToPanel(width) + roundUpToPanel(k)) * kChunkRows) * sizeof(float));
  if (!packed.ok()) return packed.status();
  auto made = std::make_unique<CrossGram>();
  made->width_ = width;
  made->k_ = k;
  made->matrix_ = std::move(matrix.value());
  made->panels_ = std::move(packed.value());
  return made;
}

Status CrossGram::accumulate(const float* original, const float* quantized, const float* x, int64_t rows) {
  const int64_t driftPanels = roundUpToPanel(width_) / kPanel, panels = roundUpToPanel(k_) / kPanel;
  float* drifts = panels_.as<float>();
  float* inputs = drifts + driftPanels * kPanel * kChunkRows;
  const TileKernel<float> tile = tileKernel<float>();
  for (int64_t first = 0; first < rows; first += kChunkRows) {
    const int64_t count = std::min(kChunkRows, rows - first);
    ThreadPool::instance().run(driftPanels + panels, [&](int64_t p, int) {
      if (p < driftPanels) {
        packRows(original + first * width_, quantized == nullptr ? nullptr : quantized + first * width_, width_, count,
                 p * kPanel, drifts + p * kPanel * kChunkRows);
      } else {
        p -= driftPanels;
        packRows(x + first * k_, nullptr, k_, count, p * kPanel, inputs + p * kPanel * kChunkRows);
      }
    });
    ThreadPool::instance().run(driftPanels, [&](int64_t i, int) {
      for (int64_t j = 0; j < panels; ++j) {
        alignas(64) float product[kPanel * kPanel] = {};
        tile(drifts + i * kPanel * kChunkRows, inputs + j * kPanel * kChunkRows, count, product, kPanel);
        const int64_t height = std::min(kPanel, width_ - i * kPanel), width = std::min(kPanel, k_ - j * kPanel);
        float* to = matrix_.as<float>() + i * kPanel * k_ + j * kPanel;
        for (int64_t row = 0; row < height; ++row) {
          for (int64_t column = 0; column < width; ++column) to[row * k_ + column] += product[row * kPanel + column];
        }
      }
    });
  }
  return {};
}

Result<TargetReport> correctTarget(const float* w, int64_t n, int64_t k, const Hessian& hessian, const CrossGram& cross,
                                   const CrossGram* residual, double damp, float* target, AbortFlag abort) {
  if (n < 1 || hessian.k() != k || cross.width() != k || cross.k() != k) {
    return Status(Code::kShape, "corrected target: the weight is [" + std::to_string(n) + ", " + std::to_string(k) +
                                    "], the Hessian of " + std::to_string(hessian.k()) +
                                    " columns and the cross Gram matrix [" + std::to_string(cross.width()) + ", " +
                                    std::to_string(cross.k()) + "]");
  }
  if (residual != nullptr && (residual->width() != n || residual->k() != k)) {
    return Status(Code::kShape, "corrected target: the weight is [" + std::to_string(n) + ", " + std::to_string(k) +
                                    "], the cross Gram matrix of the residual stream [" +
                                    std::to_string(residual->width()) + ", " + std::to_string(residual->k()) + "]");
  }
  TSQ_RETURN_IF_ERROR(checkFinite("corrected target", w, n, k));
  TargetReport report;
  const auto keep = [&](std::string why) {
    report.kept = true;
    report.note = std::move(why);
    std::memcpy(target, w, static_cast<size_t>(n * k) * sizeof(float));
    return report;
  };
  if (!isFinite(hessian) || !allFinite(cross) || (residual != nullptr && !allFinite(*residual))) {
    return keep("the Hessian or a cross Gram matrix holds NaN or infinite values: the outputs are not corrected");
  }
  std::vector<double> diagonal(static_cast<size_t>(k));
  for (int64_t c = 0; c < k; ++c) diagonal[static_cast<size_t>(c)] = hessian.data()[c * k + c];
  std::vector<int32_t> columns(static_cast<size_t>(k));
  std::iota(columns.begin(), columns.end(), 0);
  Result<InverseFactor> factor = factorInverse(hessian, diagonal, columns, damp, 0.01, abort);
  if (!factor.ok()) return factor.status();
  report.damp = factor.value().damp;
  if (!factor.value().usable) return keep("the Hessian cannot be factored: the outputs are not corrected");
  const PackedUpper<float>& u = factor.value().u;
  Result<PackedSquare> uRows = transposed(u);
  if (!uRows.ok()) return uRows.status();
  Result<PackedSquare> m = packSquare(cross.data(), k, columns);
  if (!m.ok()) return m.status();

  const float unit = static_cast<float>(1 / meanDiagonal(diagonal));
  const TileKernel<float> tile = tileKernel<float>();
  const int64_t padded = roundUpToPanel(k), panels = padded / kPanel, sets = (n + kPanel - 1) / kPanel;
  WorkerScratch scratch(static_cast<uint64_t>(3 * padded * kPanel) * sizeof(float));
  ThreadPool::instance().run(sets, [&](int64_t set, int worker) {
    if (abort.raised() || scratch.failed()) return;
    float* a = static_cast<float*>(scratch.get(worker));
    if (a == nullptr) return;
    float* b = a + padded * kPanel;
    float* c = b + padded * kPanel;
    std::memset(a, 0, static_cast<size_t>(3 * padded * kPanel) * sizeof(float));
    const int64_t first = set * kPanel, rows = std::min(kPanel, n - first);
    for (int64_t lane = 0; lane < rows; ++lane) {
      for (int64_t j = 0; j < k; ++j) a[j * kPanel + lane] = w[(first + lane) * k + j];
    }
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t at = p * kPanel * kPanel;
      chainedTile(tile, m.value().panel(p), a, padded, b + at, kPanel);
      if (residual != nullptr) {
        for (int64_t lane = 0; lane < rows; ++lane) {
          const float* drift = residual->data() + (first + lane) * k + p * kPanel;
          for (int64_t j = 0; j < std::min(kPanel, k - p * kPanel); ++j) b[at + j * kPanel + lane] += drift[j];
        }
      }
      for (int64_t i = 0; i < kPanel * kPanel; ++i) b[at + i] *= unit;
    }
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t from = p * kPanel * kPanel;
      chainedTile(tile, uRows.value().panel(p) + from, b + from, padded - p * kPanel, c + from, kPanel);
    }
    for (int64_t p = 0; p < panels; ++p)
      chainedTile(tile, u.panel(p), c, (p + 1) * kPanel, a + p * kPanel * kPanel, kPanel);
    for (int64_t lane = 0; lane < rows; ++lane) {
      for (int64_t j = 0; j < k; ++j) target[(first + lane) * k + j] = a[j * kPanel + lane];
    }
  });
  TSQ_RETURN_IF_ERROR(scratch.status("corrected target"));
  if (abort.raised()) return Status(Code::kAborted, "corrected target: aborted");
  return report;
}

}  // namespace tsq
