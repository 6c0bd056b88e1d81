// 16 x 16 tiles of A^T B in double precision. Selected by the name of the table that kernels() chose, so that TSQ_CPU
// holds here too.
#include "rounding/loop_isa.h"
#include "rounding/tile.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tsq::rounding {
namespace {

void portable(const double* a, const double* b, int64_t rows, double* c, int64_t ldc) {
  double sums[16][16] = {};
  for (int64_t r = 0; r < rows; ++r) {
    for (int i = 0; i < 16; ++i) {
      const double factor = a[r * 16 + i];
      for (int j = 0; j < 16; ++j) sums[i][j] += factor * b[r * 16 + j];
    }
  }
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) c[i * ldc + j] += sums[i][j];
  }
}

#if defined(__x86_64__)

// Half a tile, 8 x 16: sixteen accumulators of 8 doubles.
__attribute__((target("avx512f"))) void avx512(const double* a, const double* b, int64_t rows, double* c, int64_t ldc) {
  for (int half = 0; half < 16; half += 8) {
    __m512d sums[8][2];
    for (int i = 0; i < 8; ++i) sums[i][0] = sums[i][1] = _mm512_setzero_pd();
#pragma GCC unroll 4
    for (int64_t r = 0; r < rows; ++r) {
      const __m512d b0 = _mm512_load_pd(b + r * 16), b1 = _mm512_load_pd(b + r * 16 + 8);
      const double* factors = a + r * 16 + half;
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        const __m512d factor = _mm512_set1_pd(factors[i]);
        sums[i][0] = _mm512_fmadd_pd(factor, b0, sums[i][0]);
        sums[i][1] = _mm512_fmadd_pd(factor, b1, sums[i][1]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      double* row = c + (half + i) * ldc;
      _mm512_storeu_pd(row, _mm512_add_pd(_mm512_loadu_pd(row), sums[i][0]));
      _mm512_storeu_pd(row + 8, _mm512_add_pd(_mm512_loadu_pd(row + 8), sums[i][1]));
    }
  }
}

// An eighth of a tile, 4 x 8: eight accumulators of 4 doubles, which leaves registers for the operands.
__attribute__((target("avx2,fma"))) void avx2(const double* a, const double* b, int64_t rows, double* c, int64_t ldc) {
  for (int top = 0; top < 16; top += 4) {
    for (int left = 0; left < 16; left += 8) {
      __m256d sums[4][2];
      for (int i = 0; i < 4; ++i) sums[i][0] = sums[i][1] = _mm256_setzero_pd();
#pragma GCC unroll 4
      for (int64_t r = 0; r < rows; ++r) {
        const __m256d b0 = _mm256_load_pd(b + r * 16 + left), b1 = _mm256_load_pd(b + r * 16 + left + 4);
        const double* factors = a + r * 16 + top;
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const __m256d factor = _mm256_broadcast_sd(factors + i);
          sums[i][0] = _mm256_fmadd_pd(factor, b0, sums[i][0]);
          sums[i][1] = _mm256_fmadd_pd(factor, b1, sums[i][1]);
        }
      }
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        double* row = c + (top + i) * ldc + left;
        _mm256_storeu_pd(row, _mm256_add_pd(_mm256_loadu_pd(row), sums[i][0]));
        _mm256_storeu_pd(row + 4, _mm256_add_pd(_mm256_loadu_pd(row + 4), sums[i][1]));
      }
    }
  }
}

#endif

}  // namespace

TileKernel<double> doubleTile() {
#if defined(__x86_64__)
  if (loopIsa() == LoopIsa::kAvx512) return avx512;
  if (loopIsa() == LoopIsa::kAvx2) return avx2;
#endif
  return portable;
}

}  // namespace tsq::rounding
