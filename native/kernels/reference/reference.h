// The scalar kernels behind the "reference" table. Slow, obviously right, and sharing no code with the fast ones.
#pragma once
#include "kernels/kernels.h"

namespace tsq::reference {

// Code of output n at packed column p, zero point and scale of output n in a group. Integer kinds.
int32_t codeAt(const PackedView& w, int64_t n, int64_t p);
int32_t zeroAt(const PackedView& w, int64_t n, int64_t group);
double scaleAt(const PackedView& w, int64_t n, int64_t group);
// Value of output n at packed column p: scale * (code - zero), or the stored float.
double weightAt(const PackedView& w, int64_t n, int64_t p);

void linear(const PackedView& w, const float* x, int64_t ldx, int64_t m, float* y, int64_t ldy, const float* bias,
            int64_t panelBegin, int64_t panelEnd, float* scratch);
// Split activations (layout/activations.h), multiplied in double.
void splitPairs(const SplitRow& row);
void splitQuads(const SplitRow& row);
void multiplyPairs(const DotCall& call);
void multiplyQuads(const DotCall& call);
void toFloat(const void* source, Dtype from, float* out, int64_t count);
void fromFloat(const float* source, void* out, Dtype to, int64_t count);
void rmsnorm(const float* x, const float* weight, float* y, int64_t width, float eps, float offset);
void layernorm(const float* x, const float* weight, const float* bias, float* y, int64_t width, float eps);
void rope(const float* x, float* y, int64_t headDim, int64_t rotaryDim, const float* cosine, const float* sine);
void attention(const AttentionTile& tile, float* scratch);
void silu(const float* gate, const float* up, float* y, int64_t count);
void geluTanh(const float* gate, const float* up, float* y, int64_t count);
void geluErf(const float* gate, const float* up, float* y, int64_t count);
void add(const float* a, const float* b, float* y, int64_t count);
void axpy(float a, const float* x, float* y, int64_t count);
float dot(const float* a, const float* b, int64_t count);
float maximum(const float* x, int64_t count);
double expSum(const float* x, float shift, float* y, int64_t count);
void gramTile(const float* a, const float* b, int64_t rows, float* c, int64_t ldc);
void gramPair(const float* a, const float* b0, const float* b1, int64_t rows, float* c0, float* c1, int64_t ldc);
void columnStats(const float* x, int64_t ld, int64_t rows, int64_t columns, float* sums, float* peaks);

}  // namespace tsq::reference
