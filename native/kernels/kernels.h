// The table of kernels of one instruction set, and the choice among them. See docs/kernels.md.
#pragma once
#include <cstdint>

#include "kernels/packed_weight.h"
#include "runtime/scalar.h"

namespace tsq {

// One tile of attention: R query vectors that share one KV head, against `length` cached positions.
// K and V lie in pages (see program/kv_cache.h): K of 16 positions transposed [headDim][16], V row-major
// [position][vStride].
struct AttentionTile {
  const float* const* queries;  // R pointers to [headDim]
  float* const* outputs;        // R pointers to [headDim]
  const int64_t* first;         // R: first visible position (sliding window), inclusive
  const int64_t* last;          // R: last visible position (causal), inclusive
  int count;                    // R, 1 … kMaxTile
  int64_t headDim;
  float scale;
  const float* const* keys;    // by block of 16 positions: [headDim][16]
  const float* const* values;  // by block of 16 positions: [16][vStride]
  int64_t vStride;
  float softcap;  // 0: none
  static constexpr int kMaxTile = 8;
  // Floats of scratch a call needs: scores of a chunk for every query plus accumulators.
  static constexpr int64_t kChunk = 256;  // positions handled between two rescalings of the online softmax
};

struct KernelTable {
  const char* name;  // "reference", "avx2", "avx512", "neon"

  // y[m, panels panelBegin … panelEnd) = x[m, packedK] W^T + bias. x is f32 in packed column order, zero in padding
  // columns. bias [n] or null. Writes only columns < n. scratch: linearScratch floats, 64-byte aligned.
  void (*linear)(const PackedView& w, const float* x, int64_t ldx, int64_t m, float* y, int64_t ldy, const float* bias,
                 int64_t panelBegin, int64_t panelEnd, float* scratch);

  void (*toFloat)(const void* source, Dtype from, float* out, int64_t count);  // f16, bf16 (or f32: copy) -> f32
  void (*fromFloat)(const float* source, void* out, Dtype to, int64_t count);  // f32 -> f16, bf16, nearest even

  // y = x * rsqrt(mean(x^2) + eps) * (offset + weight), one row of `width`.
  void (*rmsnorm)(const float* x, const float* weight, float* y, int64_t width, float eps, float offset);
  // Rotates the halves of the first rotaryDim elements (cos, sin: [rotaryDim / 2]); copies the rest.
  void (*rope)(const float* x, float* y, int64_t headDim, int64_t rotaryDim, const float* cosine, const float* sine);
  void (*attention)(const AttentionTile& tile, float* scratch);
  void (*silu)(const float* gate, const float* up, float* y, int64_t count);      // y = gate * sigmoid(gate) * up
  void (*geluTanh)(const float* gate, const float* up, float* y, int64_t count);  // y = gelu_tanh(gate) * up
  void (*add)(const float* a, const float* b, float* y, int64_t count);
  void (*axpy)(float a, const float* x, float* y, int64_t count);  // y += a x  (fused)
  float (*dot)(const float* a, const float* b, int64_t count);
  float (*maximum)(const float* x, int64_t count);  // -inf for count = 0
  // y = exp(x - shift), returns the sum (accumulated in double blocks). y may be x.
  double (*expSum)(const float* x, float shift, float* y, int64_t count);
  // Tile of a Gram matrix: c[i * ldc + j] += sum_r a[r * 16 + i] * b[r * 16 + j], i, j < 16, rows of 16 floats, 64-byte
  // aligned a, b.
  void (*gramTile)(const float* a, const float* b, int64_t rows, float* c, int64_t ldc);
  // sums[j] += sum_r x[r * ld + j]^2 ;  peaks[j] = max(peaks[j], max_r |x[r * ld + j]|)   (either may be null)
  void (*columnStats)(const float* x, int64_t ld, int64_t rows, int64_t columns, float* sums, float* peaks);
};

// Scratch floats of KernelTable::linear for a weight, of KernelTable::attention for a head dimension.
int64_t linearScratch(const layout::Shape& shape);
int64_t attentionScratch(int64_t headDim);

// The best table this machine runs, unless TSQ_CPU (environment) or selectKernels says otherwise.
const KernelTable& kernels();
// Every table that this machine can run, reference first, best last.
const KernelTable* const* supportedKernels(int* count);
// By name; null returns to the default. kUnsupported where unknown or not runnable here, naming those that are.
Status selectKernels(const char* name);

}  // namespace tsq
