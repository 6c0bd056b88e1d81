// H = X^T X in f32, accumulated in chunks of rows: only the tiles on and above the diagonal, by
// KernelTable::gramPair.
#include <algorithm>
#include <cstring>
#include <string>

#include "rounding/rounding.h"
#include "rounding/tile.h"

namespace tsq {
namespace {

using rounding::kPanel;

constexpr int64_t kChunkRows = 256;
// Panels a side of a task: 128 x 128 elements of H. Both operands and the elements stay in a core's second cache.
constexpr int64_t kSuper = 8;
constexpr int64_t kPackPanels = 4;  // packed together: four neighbouring cache lines of every row

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

// Rows [rows] of x [k] into panels [first, last) of [kChunkRows][16], zero beyond k.
void packPanels(const float* x, int64_t ld, int64_t rows, int64_t k, int64_t first, int64_t last, float* packed) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t p = first; p < last; ++p) {
      const float* from = x + r * ld + p * kPanel;
      float* to = packed + (p * kChunkRows + r) * kPanel;
      if ((p + 1) * kPanel <= k) {
        std::memcpy(to, from, kPanel * sizeof(float));
        continue;
      }
      for (int64_t c = 0; c < kPanel; ++c) to[c] = p * kPanel + c < k ? from[c] : 0.f;
    }
  }
}

// Adds the products of `rows` packed rows to tiles of H on and above its diagonal.
class TileProducts {
 public:
  TileProducts(const float* packed, int64_t rows, int64_t k, float* h)
      : kernels_(kernels()), packed_(packed), rows_(rows), k_(k), h_(h) {}

  // Tiles (i, j), i <= j, of panels i in [firstI, lastI), j in [firstJ, lastJ).
  void add(int64_t firstI, int64_t lastI, int64_t firstJ, int64_t lastJ) const {
    for (int64_t j = firstJ; j < lastJ; j += 2) {
      const bool pair = j + 1 < lastJ && (j + 2) * kPanel <= k_;
      for (int64_t i = firstI; i < std::min(lastI, j + 2); ++i) {
        if (pair && i <= j) {
          kernels_.gramPair(panel(i), panel(j), panel(j + 1), rows_, tile(i, j), tile(i, j + 1), k_);
          continue;
        }
        if (i <= j) single(i, j);
        if (j + 1 < lastJ) single(i, j + 1);
      }
    }
  }

 private:
  const float* panel(int64_t p) const { return packed_ + p * kPanel * kChunkRows; }
  float* tile(int64_t i, int64_t j) const { return h_ + i * kPanel * k_ + j * kPanel; }

  void single(int64_t i, int64_t j) const {
    if ((j + 1) * kPanel <= k_) {
      kernels_.gramTile(panel(i), panel(j), rows_, tile(i, j), k_);
      return;
    }
    // The last panel is ragged: only what lies inside H is added to it.
    alignas(64) float edge[kPanel * kPanel] = {};
    kernels_.gramTile(panel(i), panel(j), rows_, edge, kPanel);
    const int64_t height = std::min(kPanel, k_ - i * kPanel), width = k_ - j * kPanel;
    for (int64_t row = 0; row < height; ++row) {
      for (int64_t column = 0; column < width; ++column) tile(i, j)[row * k_ + column] += edge[row * kPanel + column];
    }
  }

  const KernelTable& kernels_;
  const float* packed_;
  int64_t rows_, k_;
  float* h_;
};

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
  const TaskGrid grid{(panels + kSuper - 1) / kSuper};
  for (int64_t first = 0; first < rows; first += kChunkRows) {
    const int64_t count = std::min(kChunkRows, rows - first);
    ThreadPool::instance().run((panels + kPackPanels - 1) / kPackPanels, [&](int64_t task, int) {
      packPanels(x + first * ld, ld, count, k_, task * kPackPanels, std::min(panels, (task + 1) * kPackPanels), packed);
    });
    const TileProducts products(packed, count, k_, matrix_.as<float>());
    ThreadPool::instance().run(grid.tasks(), [&](int64_t task, int) {
      int64_t i, j;
      grid.locate(task, &i, &j);
      products.add(i * kSuper, std::min(panels, (i + 1) * kSuper), j * kSuper, std::min(panels, (j + 1) * kSuper));
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
