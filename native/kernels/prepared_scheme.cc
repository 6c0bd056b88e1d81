// Activations as the scheme of a weight says, in the form that kernels for such codes take, or as the values that their
// codes stand for where there are none.
#include <algorithm>
#include <atomic>

#include "kernels/outliers.h"
#include "kernels/prepared.h"
#include "kernels/scratch.h"
#include "runtime/thread_pool.h"

namespace tsq {

using layout::Shape;
using layout::WeightKind;

// int8 with one grid a row: quads take any such codes.
bool Prepared::codesFit(const KernelTable& table) const {
  const PackedWeight& weight = *args_->weight;
  if (scheme->type != ActivationType::kInt8 || scheme->grain == ActivationGrain::kGroup || weight.offsets) return false;
  if (table.quads == nullptr || !table.quads->pays(shape().kind, Dtype::kF32, args_->m)) return false;
  // The largest code of a symmetric grid that follows from the row is 127.
  if (table.quads->leastCode > -128 && !(scheme->symmetric && scheme->dynamic)) return false;
  if (scheme->threshold > 0 && shape().kind != WeightKind::kU8) return false;
  return scheme->symmetric || weight.rowSums != nullptr;
}

// 8-bit floats are bf16 numbers, of one limb, with the scale outside the sum of a block.
bool Prepared::floatsFit(const KernelTable& table) const {
  const PackedWeight& weight = *args_->weight;
  if (scheme->type == ActivationType::kInt8 || weight.offsets) return false;
  if (table.pairs == nullptr || !table.pairs->pays(shape().kind, Dtype::kBF16, args_->m)) return false;
  if (scheme->grain != ActivationGrain::kGroup) return true;
  return weight.order.empty() && scheme->groupSize == shape().groupSize && scheme->groupSize <= layout::kBlock;
}

int64_t Prepared::surveyFloats() const {
  if (scheme == nullptr) return 0;
  const bool together = scheme->grain == ActivationGrain::kTensor && scheme->dynamic;
  const int64_t marks = scheme->threshold > 0 ? layout::divideUp(shape().k, 4) + shape().k : 0;
  constexpr int64_t kRange = sizeof(ActivationRange) / sizeof(float);
  return layout::roundUp((together ? args_->m * kRange : 0) + marks, 16);
}

bool Prepared::survey(const KernelTable& table, float* memory) {
  if (surveyFloats() == 0) return true;
  const int64_t k = shape().k;
  if (scheme->threshold > 0) {
    uint8_t* marks = reinterpret_cast<uint8_t*>(memory);
    int32_t* columns = reinterpret_cast<int32_t*>(memory + layout::divideUp(k, 4));
    memory += layout::divideUp(k, 4) + k;
    markOutliers(table, *args_, scheme->threshold, marks);
    int64_t count = 0;
    for (int64_t i = 0; i < k; ++i) {
      if (marks[i] != 0) columns[count++] = static_cast<int32_t>(i);
    }
    marks_ = count > 0 ? marks : nullptr;
    outliers = columns;
    outlierCount = form_ == Form::kCodes ? count : 0;
  }
  if (scheme->grain != ActivationGrain::kTensor || !scheme->dynamic) return true;
  auto* ranges = reinterpret_cast<ActivationRange*>(memory);
  std::atomic<bool> enough{true};
  ThreadPool::instance().run(args_->m, [&](int64_t row, int) {
    float* values = threadScratch(ScratchUse::kRow, k);
    if (values == nullptr) return enough.store(false, std::memory_order_relaxed);
    convert(table, row, values);
    ranges[row] = rangeOf(values, k, scheme->threshold);
  });
  if (!enough.load()) return false;
  ActivationRange all = ranges[0];
  for (int64_t row = 1; row < args_->m; ++row) all = joined(all, ranges[row]);
  shared_ = gridOf(*scheme, all);
  return true;
}

ActivationGrid Prepared::gridFor(const float* values) const {
  if (scheme->grain == ActivationGrain::kGroup) return {};
  if (scheme->grain == ActivationGrain::kTensor && scheme->dynamic) return shared_;
  return gridOf(*scheme, rangeOf(values, shape().k, scheme->threshold));
}

void Prepared::setExtra(int64_t index, const float* values, ActivationGrid grid) const {
  if (extraMemory_ == nullptr || extraColumns() == 0) return;
  float* row = extraMemory_ + index * extraStride();
  std::fill(row, row + extraStride(), 0.0f);
  for (int64_t i = 0; i < outlierCount; ++i) row[i] = values[outliers[i]];
  // x = scale (code - zero): what the product with the codes has too much.
  if (shifted()) row[0] = -grid.scale * static_cast<float>(grid.zero);
}

ActivationGrid Prepared::apply(int64_t index, float* values) const {
  const ActivationGrid grid = gridFor(values);
  if (form_ == Form::kValues) roundRow(*scheme, grid, values, shape().k, marks_);
  if (form_ != Form::kCodes) return grid;
  setExtra(index, values, grid);
  for (int64_t i = 0; i < outlierCount; ++i) values[outliers[i]] = 0;
  return grid;
}

void Prepared::roundFloats(float* x, ActivationGrid grid, const SplitRow& split) const {
  const bool grouped = scheme->grain == ActivationGrain::kGroup;
  const int64_t blocks = layout::blocks(shape());
  for (int64_t index = 0; index < blocks; ++index) {
    const layout::Block block = layout::blockAt(shape(), index);
    if (grouped) grid = gridOf(*scheme, rangeOf(x + block.p, block.length));
    roundToGrid(*scheme, grid, x + block.p, block.length, x + block.p);
    split.scales[index * split.step] = grid.scale;
  }
}

}  // namespace tsq
