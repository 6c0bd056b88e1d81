// H = X^T X in f32, accumulated in chunks of rows: only the tiles on and above the diagonal, by KernelTable::gramTile.
#include <algorithm>
#include <cstring>
#include <string>

#include "rounding/rounding.h"
#include "rounding/tile.h"

namespace tsq {
namespace {

using rounding::kPanel;

constexpr int64_t kChunkRows = 256;
constexpr int64_t kSuper = 4;  // panels a side of a task: 64 x 64 elements of H

struct TaskGrid {
  int64_t side;  // super-panels
  int64_t tasks() const { return side * (side + 1) / 2; }
  // Task t -> (i, j), i <= j, row by row of the upper triangle.
  void locate(int64_t task, int64_t* i, int64_t* j) const {
    *i = 0;
    while (task >= side - *i) {
      task -= side - *i;
      ++*i;
    }
    *j = *i + task;
  }
};

// Rows [rows][columns of one panel] of x into [rows][16], zero beyond k.
void packPanel(const float* x, int64_t ld, int64_t rows, int64_t columns, float* panel) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* from = x + r * ld;
    float* to = panel + r * kPanel;
    for (int64_t c = 0; c < columns; ++c) to[c] = from[c];
    for (int64_t c = columns; c < kPanel; ++c) to[c] = 0;
  }
}

}  // namespace

Result<std::unique_ptr<Hessian>> Hessian::create(int64_t k) {
  if (k < 1 || k > int64_t{1} << 20) {
    return Status(Code::kShape, "hessian: k is " + std::to_string(k) + ", expected 1 to 1048576 input features");
  }
  Result<AlignedBuffer> matrix =
      AlignedBuffer::allocate(static_cast<size_t>(k) * static_cast<size_t>(k) * sizeof(float));
  if (!matrix.ok()) return matrix.status();
  auto made = std::make_unique<Hessian>();
  made->k_ = k;
  made->matrix_ = std::move(matrix.value());
  return made;
}

Status Hessian::accumulate(const float* x, int64_t ld, int64_t rows) {
  if (rows < 0 || ld < k_) {
    return {Code::kShape, "hessian: rows " + std::to_string(rows) + " of leading dimension " + std::to_string(ld) +
                              ", expected rows of at least k = " + std::to_string(k_) + " values"};
  }
  if (rows == 0) return {};
  const int64_t panels = rounding::roundUpToPanel(k_) / kPanel;
  if (panels_.size() == 0) {
    Result<AlignedBuffer> buffer =
        AlignedBuffer::allocate(static_cast<size_t>(panels * kPanel * kChunkRows) * sizeof(float));
    if (!buffer.ok()) return buffer.status();
    panels_ = std::move(buffer.value());
  }
  float* packed = panels_.as<float>();
  float* h = matrix_.as<float>();
  const auto tile = kernels().gramTile;
  const TaskGrid grid{(panels + kSuper - 1) / kSuper};
  for (int64_t first = 0; first < rows; first += kChunkRows) {
    const int64_t count = std::min(kChunkRows, rows - first);
    ThreadPool::instance().run(panels, [&](int64_t p, int) {
      packPanel(x + first * ld + p * kPanel, ld, count, std::min(kPanel, k_ - p * kPanel),
                packed + p * kPanel * kChunkRows);
    });
    ThreadPool::instance().run(grid.tasks(), [&](int64_t task, int) {
      int64_t superI, superJ;
      grid.locate(task, &superI, &superJ);
      const int64_t lastI = std::min(panels, (superI + 1) * kSuper), lastJ = std::min(panels, (superJ + 1) * kSuper);
      for (int64_t i = superI * kSuper; i < lastI; ++i) {
        for (int64_t j = std::max(i, superJ * kSuper); j < lastJ; ++j) {
          const float* a = packed + i * kPanel * kChunkRows;
          const float* b = packed + j * kPanel * kChunkRows;
          float* c = h + i * kPanel * k_ + j * kPanel;
          if ((j + 1) * kPanel <= k_) {
            tile(a, b, count, c, k_);
            continue;
          }
          // The last panel is ragged: only what lies inside H is added to it.
          alignas(64) float edge[kPanel * kPanel] = {};
          tile(a, b, count, edge, kPanel);
          const int64_t tileRows = std::min(kPanel, k_ - i * kPanel), tileColumns = k_ - j * kPanel;
          for (int64_t row = 0; row < tileRows; ++row) {
            for (int64_t column = 0; column < tileColumns; ++column)
              c[row * k_ + column] += edge[row * kPanel + column];
          }
        }
      }
    });
  }
  rows_ += static_cast<double>(rows);
  mirrored_ = false;
  return {};
}

void Hessian::finish() {
  if (mirrored_) return;
  float* h = matrix_.as<float>();
  constexpr int64_t kBlock = 64;
  const TaskGrid grid{(k_ + kBlock - 1) / kBlock};
  ThreadPool::instance().run(grid.tasks(), [&](int64_t task, int) {
    int64_t blockI, blockJ;
    grid.locate(task, &blockI, &blockJ);
    const int64_t lastI = std::min(k_, (blockI + 1) * kBlock), lastJ = std::min(k_, (blockJ + 1) * kBlock);
    for (int64_t j = blockJ * kBlock; j < lastJ; ++j) {
      for (int64_t i = blockI * kBlock; i < std::min(lastI, j); ++i) h[j * k_ + i] = h[i * k_ + j];
    }
  });
  mirrored_ = true;
}

}  // namespace tsq
