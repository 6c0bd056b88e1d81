// The table of kernels of one instruction set, and the choice among them. See docs/kernels.md.
#pragma once
#include <cstdint>

#include "kernels/packed_weight.h"
#include "runtime/scalar.h"

namespace tsq {

namespace layout {
struct KvPage;
}

// One tile of attention: R query vectors that share one KV head, against a range of cached positions. Block b of 16
// positions lies in page pages[b], pageStride bytes from one page to the next, as layout/kv_page.h says.
struct AttentionTile {
  const float* const* queries;  // R pointers to [headDim]
  float* const* outputs;        // R pointers to [headDim]
  const int64_t* first;         // R: first visible position (sliding window), inclusive
  const int64_t* last;          // R: last visible position (causal), inclusive; below first: nothing, the output is 0
  int count;                    // R, 1 … kMaxTile
  float scale;
  const layout::KvPage* page;  // layout of a page
  const uint8_t* cache;        // page 0 of the head
  const int32_t* pages;
  int64_t pageStride;
  float keyScale, valueScale;  // of the layer, where scales are kTensor
  float softcap;               // 0: none
  // Both null, or R numbers for who combines ranges of positions: this range counts sums * 2^peaks.
  float* peaks;
  float* sums;
  static constexpr int kMaxTile = 24;
  static constexpr int64_t kChunk = 256;      // positions handled between two rescalings of the online softmax
  static constexpr float kNoPeak = -3.0e38f;  // of a query that sees nothing
};

// One row of activations: f32 in packed column order, zeros in padding columns, to the chunks of a bundle.
struct SplitRow {
  const layout::Shape* shape;  // of the weight
  const float* x;              // [packedK]
  int limbs;        // pairs: bf16 parts that x is cut into, largest first: 1, 2 or 3; quads: 1; digits: 3 … 6
  uint8_t* chunks;  // this row's 64 bytes in chunk 0, limb 0
  int64_t apart;    // bytes from one (chunk, limb) to the next of the same row: rows of the bundle * 64
  float* scales;    // [blocks], the value of code 1, or of 1 in pairs; `step` floats apart. Pairs leave them alone
  int32_t* sums;    // quads, digits: [blocks][limbs], the sum of the codes; `step` apart
  int64_t step;
  // Quads: above 0, or NaN, the scale of every block, and codes are x / scale to the nearest, halves to even, plus
  // `zero` and within -128 … 127. 0: every block has a scale of its own, and its largest code is 127.
  float scale = 0;
  int32_t zero = 0;
  // With such a scale: it and the sum of all codes are written once, as if the row were one block.
  bool byRow = false;
};

// y[rows, panels panelBegin … panelEnd) = x W^T + bias for whole bundles of split activations.
struct DotCall {
  const PackedView* w;
  const uint8_t*
      chunks;           // of the first bundle; bundles follow each other, [chunk][limb][R][64] each; readable 1 KiB on
  const float* scales;  // [bundle][block][R]
  const int32_t* sums;  // quads, digits: [bundle][block][limb][R]; else null
  int limbs;
  int64_t rows;  // bundles of 16 rows, the last one shorter
  float* y;      // row 0; columns counted from 0
  int64_t ldy;
  const float* bias;  // or null
  int64_t panelBegin, panelEnd;
  uint8_t* scratch;  // DotKernel::scratchBytes, 64-byte aligned
  // Quads of a weight with one group of at most layout::kMostByRow packed k: a row has one scale and one sum, as if it
  // were one block, and its products are summed over all k before they are scaled.
  bool byRow = false;
};

// Kernels that multiply several k at once: pairs of bf16 (exact: a f32 activation is the sum of three bf16) or quads of
// int8 (activations rounded to 8 bits, or exact in several digits). Codes go in as they are; group scales and zero
// points follow outside the sum over a block. Results do not depend on the panel range, nor on how rows are cut into
// calls at multiples of 16, save that a call of up to 16 rows may sum in an order of its own.
struct DotKernel {
  // Whether this is the faster way for rows of type x (Dtype f32, f16, bf16). False for kinds it does not take.
  bool (*pays)(layout::WeightKind kind, Dtype x, int64_t rows);
  void (*split)(const SplitRow& row);
  void (*multiply)(const DotCall& call);
  int64_t (*scratchBytes)(const layout::Shape& shape, int64_t rows, int64_t panels);  // of the largest call
  // Limbs that a row of f32 in packed order needs, given the bits of significand of its own type; 0: this kernel cannot
  // take the row. Null: one for quads, ceil(significand / 8) for pairs.
  int (*limbs)(const layout::Shape& shape, const float* x, int significand) = nullptr;
  int leastCode = -128;  // quads: that may be among the activations
};

struct KernelTable {
  const char* name;  // "reference", "avx2", …: see kernels/dispatch.cc

  const DotKernel* pairs;   // null: exact products go through `linear`
  const DotKernel* quads;   // null: there are no int8 activations
  const DotKernel* digits;  // exact too, for few rows: fixed point of several int8 digits

  // y[m, panels panelBegin … panelEnd) = x[m, packedK] W^T + bias. x is f32 in packed column order, zero in padding
  // columns. bias [n] or null. Writes only columns < n. scratch: linearScratch floats, 64-byte aligned.
  void (*linear)(const PackedView& w, const float* x, int64_t ldx, int64_t m, float* y, int64_t ldy, const float* bias,
                 int64_t panelBegin, int64_t panelEnd, float* scratch);

  void (*toFloat)(const void* source, Dtype from, float* out, int64_t count);  // f16, bf16 (or f32: copy) -> f32
  void (*fromFloat)(const float* source, void* out, Dtype to, int64_t count);  // f32 -> f16, bf16, nearest even

  // y = x * rsqrt(mean(x^2) + eps) * (offset + weight), one row of `width`.
  void (*rmsnorm)(const float* x, const float* weight, float* y, int64_t width, float eps, float offset);
  // y = (x - mean(x)) * rsqrt(variance(x) + eps) * weight + bias (or null), one row of `width`.
  void (*layernorm)(const float* x, const float* weight, const float* bias, float* y, int64_t width, float eps);
  // Rotates the halves of the first rotaryDim elements (cos, sin: [rotaryDim / 2]); copies the rest.
  void (*rope)(const float* x, float* y, int64_t headDim, int64_t rotaryDim, const float* cosine, const float* sine);
  void (*attention)(const AttentionTile& tile, float* scratch);
  // y = f(gate) * up, or f(gate) where up is null: f(x) = x sigmoid(x), the GELU's approximation by tanh, and the GELU
  // itself, x Phi(x) = x (1 + erf(x / sqrt 2)) / 2. y may be gate.
  void (*silu)(const float* gate, const float* up, float* y, int64_t count);
  void (*geluTanh)(const float* gate, const float* up, float* y, int64_t count);
  void (*geluErf)(const float* gate, const float* up, float* y, int64_t count);
  void (*add)(const float* a, const float* b, float* y, int64_t count);
  void (*axpy)(float a, const float* x, float* y, int64_t count);  // y += a x  (fused)
  float (*dot)(const float* a, const float* b, int64_t count);
  float (*maximum)(const float* x, int64_t count);  // -inf for count = 0
  // y = exp(x - shift), returns the sum (accumulated in double blocks). y may be x.
  double (*expSum)(const float* x, float shift, float* y, int64_t count);
  // Tile of a Gram matrix: c[i * ldc + j] += sum_r a[r * 16 + i] * b[r * 16 + j], i, j < 16, rows of 16 floats, 64-byte
  // aligned a, b.
  void (*gramTile)(const float* a, const float* b, int64_t rows, float* c, int64_t ldc);
  // Two such tiles with one left operand, the same bytes: b0 to c0, b1 to c1. For vectors of 16 floats this is the
  // faster way, as each element of a is loaded once.
  void (*gramPair)(const float* a, const float* b0, const float* b1, int64_t rows, float* c0, float* c1, int64_t ldc);
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
