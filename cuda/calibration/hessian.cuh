// H += XᵀX, tiles on and above the diagonal; mirror() completes it. f32 on multiply-adds, f16 and bf16 on tensor cores.
//
// Sums are chained, so that their error does not grow with the number of rows: f32 rows as on the CPU, 256 at a time in
// their order, then added to H. Products of 16-bit values are exact; tensor cores add them up for 64 rows at most, as
// their sums may be truncated, and these go to f32 totals that are added to H after 2048 rows.
#pragma once
#include "cuda/calibration/tile.cuh"

namespace tsq::cuda::calibration {

struct HessianRows {
  Global<const void> x;  // [rows], `stride` elements apart
  int64_t rows, stride, k;
  Global<float> h;  // [k][k]
  bool aligned;     // rows of x and of h begin at multiples of 16 bytes
};

using GramTile = Tile<float, 128, false>;

TSQ_KERNEL(kThreads) hessianF32(HessianRows p) {
  constexpr int64_t kChain = 256, kSide = 128;
  const Global<const float> x{static_cast<const float*>(p.x.pointer)};
  const Place place = upperTile(blockIndex(), tilesOf(p.k, kSide));
  const int64_t top = place.i * kSide, left = place.j * kSide;
  for (int64_t first = 0; first < p.rows; first += kChain) {
    GramTile tile;
    const auto column = [&](int64_t begin) {
      return [&, begin](int64_t row, int i) {
        return begin + i < p.k ? load(x + ((first + row) * p.stride + begin + i)) : 0.0f;
      };
    };
    tile.add(first + kChain < p.rows ? kChain : p.rows - first, column(top), column(left));
    tile.into(p.h + (top * p.k + left), p.k, p.k - top, p.k - left, p.aligned, [](float h, float s) { return h + s; });
  }
}

// A warp has 64 by 32 elements of a tile of 128 by 128. Rows of x lie in shared memory as they are, 128 columns in 16
// chunks of 16 bytes, permuted by the row, and are transposed on their way into fragments.
template <Type kType>
struct GramBlock {
  static constexpr int kSide = 128, kRows = 32, kChunks = kSide / 8;
  static constexpr int kOperand = kRows * kChunks;  // Words of one operand
  static constexpr size_t kSharedBytes = 2 * kOperand * sizeof(Words);
  static constexpr int64_t kChain = 64, kFlush = 2048;

  TSQ_DEVICE explicit GramBlock(const HessianRows& rows)
      : p(rows),
        place(upperTile(blockIndex(), tilesOf(p.k, kSide))),
        lane(threadIndex() % 32),
        top(threadIndex() / 32 / 4 * 64),
        left(threadIndex() / 32 % 4 * 32) {}

  TSQ_DEVICE static int chunkOf(int row, int chunk) { return row * kChunks + (chunk ^ row % 8); }

  TSQ_DEVICE Words eight(int64_t row, int64_t column) const {
    const auto x = Global<const uint16_t>{static_cast<const uint16_t*>(p.x.pointer)} + (row * p.stride + column);
    if (row < p.rows && p.aligned && column + 8 <= p.k) {
      return load(Global<const Words>{reinterpret_cast<const Words*>(x.pointer)});
    }
    Words words = {};
    for (int i = 0; i < 8; ++i) {
      if (row < p.rows && column + i < p.k) words.v[i / 2] |= uint32_t{load(x + i)} << i % 2 * 16;
    }
    return words;
  }

  TSQ_DEVICE void fetch(int64_t first) const {
    const auto words = sharedMemory<Words>(0);
    for (int at = threadIndex(); at < kOperand; at += kThreads) {
      const int row = at / kChunks, chunk = at % kChunks;
      store(words + chunkOf(row, chunk), eight(first + row, place.i * kSide + chunk * 8));
      store(words + (kOperand + chunkOf(row, chunk)), eight(first + row, place.j * kSide + chunk * 8));
    }
  }

  TSQ_DEVICE void multiplyRows() {
    const auto words = sharedMemory<Words>(0);
    TSQ_UNROLL for (int r = 0; r < kRows; r += 16) {
      uint32_t b[4][2];
      TSQ_UNROLL for (int n = 0; n < 4; n += 2) {
        uint32_t pair[4];
        const int row = r + lane / 8 % 2 * 8 + lane % 8;
        loadMatricesTransposed(pair, words + (kOperand + chunkOf(row, left / 8 + n + lane / 16)));
        TSQ_UNROLL for (int i = 0; i < 4; ++i) b[n + i / 2][i % 2] = pair[i];
      }
      TSQ_UNROLL for (int m = 0; m < 4; ++m) {
        uint32_t a[4];
        const int row = r + lane / 16 * 8 + lane % 8;
        loadMatricesTransposed(a, words + chunkOf(row, top / 8 + 2 * m + lane / 8 % 2));
        TSQ_UNROLL for (int n = 0; n < 4; ++n) multiply<kType>(part[m][n], a, b[n][0], b[n][1]);
      }
    }
  }

  TSQ_DEVICE void endChain() {
    TSQ_UNROLL for (int at = 0; at < 64; ++at) {
      float& sum = part[at / 16][at / 4 % 4][at % 4];
      total[at / 16][at / 4 % 4][at % 4] += sum;
      sum = 0;
    }
  }

  TSQ_DEVICE void flush() {
    TSQ_UNROLL for (int at = 0; at < 64; ++at) {
      const int m = at / 16, n = at / 4 % 4, i = at % 4;
      const int64_t row = place.i * kSide + top + 16 * m + lane / 4 + i / 2 * 8;
      const int64_t column = place.j * kSide + left + 8 * n + lane % 4 * 2 + i % 2;
      const auto h = p.h + (row * p.k + column);
      if (row < p.k && column < p.k) store(h, load(h) + total[m][n][i]);
      total[m][n][i] = 0;
    }
  }

  TSQ_DEVICE void run() {
    for (int64_t first = 0; first < p.rows; first += kRows) {
      syncThreads();  // what lies there has been used
      fetch(first);
      syncThreads();
      multiplyRows();
      if ((first + kRows) % kChain == 0 || first + kRows >= p.rows) endChain();
      if ((first + kRows) % kFlush == 0 || first + kRows >= p.rows) flush();
    }
  }

  const HessianRows& p;
  const Place place;
  const int lane, top, left;  // of the warp, within the tile
  float part[4][4][4] = {}, total[4][4][4] = {};
};

template <Type kType>
TSQ_KERNEL(kThreads)
hessian16(HessianRows p) {
  GramBlock<kType>(p).run();
}

struct Mirror {
  Global<float> h;
  int64_t k;
};

// Below the diagonal what lies above it, by tiles of 32 through shared memory.
TSQ_KERNEL(kThreads) mirror(Mirror p) {
  constexpr int kSide = 32, kStride = kSide + 1;
  const Place place = upperTile(blockIndex(), tilesOf(p.k, kSide));
  const auto tile = sharedMemory<float>(0);
  for (int at = threadIndex(); at < kSide * kSide; at += kThreads) {
    const int64_t row = place.i * kSide + at / kSide, column = place.j * kSide + at % kSide;
    if (row < column && column < p.k)
      store(tile + (at / kSide * kStride + at % kSide), load(p.h + (row * p.k + column)));
  }
  syncThreads();
  for (int at = threadIndex(); at < kSide * kSide; at += kThreads) {
    const int64_t row = place.j * kSide + at / kSide, column = place.i * kSide + at % kSide;
    if (column < row && row < p.k) store(p.h + (row * p.k + column), load(tile + (at % kSide * kStride + at / kSide)));
  }
}
constexpr size_t kMirrorShared = 32 * 33 * sizeof(float);

}  // namespace tsq::cuda::calibration
