// Products of matrices in f32 and f64 on ordinary multiply-adds, a tile of the result a block: what calibration is made
// of. Sums run over the terms in their order, fused, so that a result does not depend on the launch.
#pragma once
#include "cuda/device.cuh"

namespace tsq::cuda::calibration {

constexpr int kThreads = 256;

template <typename T>
struct alignas(16) Vector {
  static constexpr int kSize = 16 / sizeof(T);
  T v[kSize];
};

TSQ_BOTH constexpr int64_t tilesOf(int64_t size, int64_t side) {
  return (size + side - 1) / side;
}

// Tile (i, j), i <= j, of the upper triangle of `side` by `side` tiles, of side (side + 1) / 2. Row r and row side - 1
// - r together have side + 1 tiles.
struct Place {
  int64_t i, j;
};
TSQ_BOTH constexpr int64_t upperTiles(int64_t side) {
  return side * (side + 1) / 2;
}
TSQ_BOTH constexpr Place upperTile(int64_t index, int64_t side) {
  const int64_t r = index / (side + 1), at = index % (side + 1);
  if (at < side - r) return {r, r + at};
  const int64_t other = side - 1 - r;
  return {other, other + at - (side - r)};
}

// sums = sum over p of a(p, i) b(p, j) for i, j < kSide, shared among the threads of the block. kAlongDepth: neighbours
// in memory are neighbours in p, otherwise in i and j.
template <typename T, int kSide, bool kAlongDepth>
struct Tile {
  static constexpr int kDepth = 16;                         // terms in shared memory at a time
  static constexpr int kVector = Vector<T>::kSize;          // neighbours that a thread reads as one
  static constexpr int kMine = kSide / 16;                  // rows, and columns, of a thread
  static constexpr int kStride = kSide + kVector;           // shared memory of one p
  static constexpr int kLoads = kDepth * kSide / kThreads;  // of a thread, of each operand
  static constexpr size_t kSharedBytes = 2 * kDepth * kStride * sizeof(T);
  static_assert(kMine % kVector == 0 && kDepth * kSide % kThreads == 0);

  T sums[kMine][kMine] = {};

  // Where sums[m][…] and sums[…][m] belong in the tile.
  TSQ_DEVICE static int row(int m) { return m / kVector * 16 * kVector + threadIndex() / 16 * kVector + m % kVector; }
  TSQ_DEVICE static int column(int m) {
    return m / kVector * 16 * kVector + threadIndex() % 16 * kVector + m % kVector;
  }

  TSQ_DEVICE void clear() {
    TSQ_UNROLL for (int m = 0; m < kMine; ++m) {
      TSQ_UNROLL for (int n = 0; n < kMine; ++n) sums[m][n] = 0;
    }
  }

  // a(p, i) and b(p, j) read an element, or give 0 beyond their matrix. Every read is over, for all threads, when the
  // first of them leaves.
  template <typename A, typename B>
  TSQ_DEVICE void add(int64_t depth, A a, B b) {
    const auto left = sharedMemory<T>(0), right = sharedMemory<T>(kDepth * kStride * sizeof(T));
    const auto side = [](int s) {
      const int at = threadIndex() + s * kThreads;
      return kAlongDepth ? at / kDepth : at % kSide;
    };
    const auto term = [](int s) {
      const int at = threadIndex() + s * kThreads;
      return kAlongDepth ? at % kDepth : at / kSide;
    };
    T nextA[kLoads], nextB[kLoads];
    const auto fetch = [&](int64_t first) {
      TSQ_UNROLL for (int s = 0; s < kLoads; ++s) {
        const int64_t p = first + term(s);
        nextA[s] = p < depth ? a(p, side(s)) : T{0};
        nextB[s] = p < depth ? b(p, side(s)) : T{0};
      }
    };
    fetch(0);
    for (int64_t first = 0; first < depth; first += kDepth) {
      syncThreads();  // what lies there has been used
      TSQ_UNROLL for (int s = 0; s < kLoads; ++s) {
        store(left + (term(s) * kStride + side(s)), nextA[s]);
        store(right + (term(s) * kStride + side(s)), nextB[s]);
      }
      syncThreads();
      if (first + kDepth < depth) fetch(first + kDepth);
      TSQ_UNROLL_BY(4) for (int p = 0; p < kDepth; ++p) {
        T rows[kMine], columns[kMine];
        TSQ_UNROLL for (int m = 0; m < kMine; m += kVector) {
          const auto from = [&](uint32_t operand, int at) {
            return load(sharedMemory<Vector<T>>(operand) + (p * kStride + at) / kVector);
          };
          const Vector<T> x = from(0, row(m)), y = from(kDepth * kStride * sizeof(T), column(m));
          TSQ_UNROLL for (int i = 0; i < kVector; ++i) {
            rows[m + i] = x.v[i];
            columns[m + i] = y.v[i];
          }
        }
        TSQ_UNROLL for (int m = 0; m < kMine; ++m) {
          TSQ_UNROLL for (int n = 0; n < kMine; ++n) {
            sums[m][n] = fusedMultiplyAdd(rows[m], columns[n], sums[m][n]);
          }
        }
      }
    }
  }

  // The first `rows` by `columns` elements at c become combine(element, sum). Neighbours move together where rows of c
  // are aligned.
  template <typename Combine>
  TSQ_DEVICE void into(Global<T> c, int64_t stride, int64_t rows, int64_t columns, bool aligned,
                       Combine combine) const {
    TSQ_UNROLL for (int m = 0; m < kMine; ++m) {
      if (row(m) >= rows) continue;
      TSQ_UNROLL for (int n = 0; n < kMine; n += kVector) {
        const auto at = c + (row(m) * stride + column(n));
        if (aligned && column(n) + kVector <= columns) {
          const Global<Vector<T>> together{reinterpret_cast<Vector<T>*>(at.pointer)};
          Vector<T> values = load(together);
          TSQ_UNROLL for (int i = 0; i < kVector; ++i) values.v[i] = combine(values.v[i], sums[m][n + i]);
          store(together, values);
          continue;
        }
        TSQ_UNROLL for (int i = 0; i < kVector; ++i) {
          if (column(n) + i < columns) store(at + i, combine(load(at + i), sums[m][n + i]));
        }
      }
    }
  }
};

}  // namespace tsq::cuda::calibration
