// The activations of a product in the form that its kernel reads: f32 rows in packed column order, or chunks of bf16
// or int8 (layout/activations.h).
#pragma once
#include <cstdint>

#include "kernels/activation_rows.h"
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

  // What the weight's scheme says of activations; null: they are exact, or int8 by blocks as the caller asked.
  const ActivationScheme* scheme = nullptr;

  Prepared() = default;
  Prepared(const KernelTable& table, const MatmulArgs& args);
  // Whether both prepare the same bytes.
  bool sameAs(const Prepared& other) const;
  int64_t count() const { return args_->m; }  // rows
  // What follows from all rows at once: the grid that they share, and outliers. `memory`: surveyFloats(). Comes before
  // floats(), place() and row(), on one thread, and uses the pool. False: no memory.
  int64_t surveyFloats() const;
  bool survey(const KernelTable& table, float* memory);
  // Memory needed, and taking it: returns what lies behind.
  int64_t floats() const;
  float* place(float* memory);
  // Prepares row `index`; different rows may be prepared at the same time. False: no memory.
  bool row(const KernelTable& table, int64_t index) const;
  // Sums of row `index` over each group of k, for weights with offsets, and zeros up to `count`. False: no memory.
  bool groupSums(const KernelTable& table, int64_t index, float* sums, int64_t count) const;
  DotCall call(const PackedView& w, int64_t row, int64_t rows, float* y, int64_t ldy, const float* bias,
               int64_t panelBegin, int64_t panelEnd, float* scratch) const;

  // Activations of a product beside this one: [m, extraColumns()] f32, rows extraStride() apart, zeros between. With
  // `outliers` they are those columns, otherwise what zero points add to the sums of the weight's rows.
  int64_t extraColumns() const { return outlierCount > 0 ? outlierCount : shifted() ? 1 : 0; }
  int64_t extraStride() const { return layout::roundUp(extraColumns(), 16); }
  const float* extra = nullptr;
  const int32_t* outliers = nullptr;  // sorted columns of x
  int64_t outlierCount = 0;

 private:
  // How a scheme is followed: by kernels for its codes, or by the values that these stand for.
  enum class Form : uint8_t { kValues, kCodes, kFloats };

  const MatmulArgs* args_ = nullptr;
  Form form_ = Form::kValues;
  ActivationGrid shared_{};         // of all rows, where the grain is the tensor
  const uint8_t* marks_ = nullptr;  // [k]: 1 for an outlier
  float* rowMemory_ = nullptr;
  uint8_t* chunks_ = nullptr;
  float* scales_ = nullptr;
  int32_t* sums_ = nullptr;
  float* extraMemory_ = nullptr;

  const layout::Shape& shape() const { return args_->weight->shape; }
  int64_t chunkSize() const { return quads ? layout::kQuadChunk : layout::kPairChunk; }
  // One grid a row and one group of the weight: int32 holds the sums over all k.
  bool byRow() const {
    return form_ == Form::kCodes && layout::groups(shape()) == 1 && layout::packedK(shape()) <= layout::kMostByRow;
  }
  // Blocks of a row that have a scale.
  int64_t scaled() const { return byRow() ? 1 : layout::blocks(shape()); }
  bool shifted() const { return form_ == Form::kCodes && !scheme->symmetric; }
  bool plain() const;
  bool fixedPoint(const KernelTable& table, Dtype type);
  bool codesFit(const KernelTable& table) const;
  bool floatsFit(const KernelTable& table) const;
  // Row `index` as f32 in packed column order; of a scheme with what becomes of it there, and its grid.
  const float* ordered(const KernelTable& table, int64_t index, float* room, ActivationGrid* grid = nullptr) const;
  void gather(const KernelTable& table, int64_t index, float* out, float* flat, ActivationGrid* grid) const;
  // The row as f32 in its own order, input scales multiplied in.
  void convert(const KernelTable& table, int64_t index, float* out) const;
  ActivationGrid gridFor(const float* values) const;
  void setExtra(int64_t index, const float* values, ActivationGrid grid) const;
  ActivationGrid apply(int64_t index, float* values) const;
  // A row in packed order, rounded block by block; sets their scales.
  void roundFloats(float* x, ActivationGrid grid, const SplitRow& split) const;
};

}  // namespace tsq
