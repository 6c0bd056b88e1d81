// The activations of a product in the form that its kernel reads: f32 rows in packed column order, or chunks of bf16
// or int8 (layout/activations.h).
#pragma once
#include <cstdint>

#include "kernels/kernels.h"
#include "kernels/packed_weight.h"
#include "layout/activations.h"

namespace tsq {

struct Prepared {
  const DotKernel* dots = nullptr;  // null: `linear` multiplies
  bool quads = false;               // of int8, else pairs of bf16
  int limbs = 1;
  bool direct = false;  // x is f32 in packed order already, and used where it lies
  // For `linear`: rows, `stride` floats apart.
  const float* rows = nullptr;
  int64_t stride = 0;

  Prepared() = default;
  Prepared(const KernelTable& table, const MatmulArgs& args);
  // Whether both prepare the same bytes.
  bool sameAs(const Prepared& other) const;
  int64_t count() const { return args_->m; }  // rows
  // Memory needed, and taking it: returns what lies behind.
  int64_t floats() const;
  float* place(float* memory);
  // Prepares row `index`; different rows may be prepared at the same time. False: no memory.
  bool row(const KernelTable& table, int64_t index) const;
  // Sums of row `index` over each group of k, for weights with offsets, and zeros up to `count`. False: no memory.
  bool groupSums(const KernelTable& table, int64_t index, float* sums, int64_t count) const;
  DotCall call(const PackedView& w, int64_t row, int64_t rows, float* y, int64_t ldy, const float* bias,
               int64_t panelBegin, int64_t panelEnd, float* scratch) const;

 private:
  const MatmulArgs* args_ = nullptr;
  float* rowMemory_ = nullptr;
  uint8_t* chunks_ = nullptr;
  float* scales_ = nullptr;
  int32_t* sums_ = nullptr;

  const layout::Shape& shape() const { return args_->weight->shape; }
  int64_t chunkSize() const { return quads ? layout::kQuadChunk : layout::kPairChunk; }
  bool plain() const;
  bool fixedPoint(const KernelTable& table, Dtype type);
  const float* ordered(const KernelTable& table, int64_t index, float* room) const;
  void gather(const KernelTable& table, int64_t index, float* out, float* flat) const;
};

}  // namespace tsq
