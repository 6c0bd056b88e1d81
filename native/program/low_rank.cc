#include "program/low_rank.h"

#include <algorithm>

#include "kernels/kernels.h"
#include "program/message.h"
#include "program/parallel.h"
#include "program/step_context.h"

namespace tsq {

namespace {

constexpr int64_t kRows = 256;  // of a product at once: bounds the memory

Status grow(AlignedBuffer* buffer, int64_t floats) {
  if (buffer->size() >= static_cast<size_t>(floats) * sizeof(float)) return Status();
  *buffer = AlignedBuffer();
  Result<AlignedBuffer> memory = AlignedBuffer::allocate(static_cast<size_t>(floats) * sizeof(float));
  if (!memory.ok()) return memory.status();
  *buffer = std::move(memory.value());
  return Status();
}

Status product(const PackedWeight& weight, const float* x, int64_t rows, float* y) {
  return matmul(
      {&weight, x, Dtype::kF32, weight.shape.k, rows, y, Dtype::kF32, weight.shape.n, nullptr, Activations::kExact});
}

// Rows [begin, end), which have the same adapter.
Status addProduct(const StepContext& step, const LowRank& pair, const Op& op, int64_t begin, int64_t end) {
  LowRankWorkspace& work = step.work.lowRank;
  const int64_t k = pair.a->shape.k, rank = pair.a->shape.n, n = pair.b->shape.n;
  const int64_t most = std::min(kRows, end - begin);
  TSQ_RETURN_IF_ERROR(grow(&work.inner, most * rank));
  TSQ_RETURN_IF_ERROR(grow(&work.product, most * n));
  const KernelTable& table = kernels();
  for (int64_t row = begin; row < end; row += kRows) {
    if (step.abort().raised()) return aborted();
    const int64_t rows = std::min(kRows, end - row);
    TSQ_RETURN_IF_ERROR(product(*pair.a, step.slot(op.in[0]) + row * k, rows, work.inner.as<float>()));
    TSQ_RETURN_IF_ERROR(product(*pair.b, work.inner.as<float>(), rows, work.product.as<float>()));
    const float* added = work.product.as<float>();
    float* out = step.slot(op.out) + row * n;
    parallelBlocks(rows * n, kTaskElements, step.abort(),
                   [&](int64_t from, int64_t to) { table.axpy(pair.scale, added + from, out + from, to - from); });
  }
  return Status();
}

}  // namespace

Result<std::shared_ptr<const Adapter>> Adapter::create(std::vector<LowRank> products) {
  auto adapter = std::make_shared<Adapter>();
  for (size_t i = 0; i < products.size(); ++i) {
    const layout::Shape &base = products[i].base->shape, &a = products[i].a->shape, &b = products[i].b->shape;
    if (a.k != base.k || b.n != base.n || a.n != b.k) {
      return Status(Code::kShape, text("adapter product ", i, ": A is [", a.n, ", ", a.k, "] and B [", b.n, ", ", b.k,
                                       "], expected [rank, ", base.k, "] and [", base.n, ", rank]"));
    }
    const PackedWeight* key = products[i].base.get();
    if (!adapter->products_.emplace(key, std::move(products[i])).second) {
      return Status(Code::kOption, text("adapter product ", i, ": its weight has a product already"));
    }
  }
  adapter->bytes_ = products.size() * (sizeof(LowRank) + 2 * sizeof(void*));
  return std::shared_ptr<const Adapter>(std::move(adapter));
}

const LowRank* Adapter::find(const PackedWeight* base) const {
  const auto found = products_.find(base);
  return found == products_.end() ? nullptr : &found->second;
}

Status addLowRank(const StepContext& step, const SectionRun& run, const Op& op, int64_t row, int64_t rows) {
  const auto& adapters = step.request.adapters;
  if (adapters.empty()) return Status();
  const PackedWeight* weight = &step.matrix(run, op.weight[0]);
  const auto& sequences = step.request.sequences;
  for (size_t first = 0, next = 0; first < sequences.size(); first = next) {
    const int32_t adapter = sequences[first].adapter;
    // Sequences lie side by side: neighbours that share an adapter are multiplied together.
    while (next < sequences.size() && sequences[next].adapter == adapter) ++next;
    if (adapter < 0) continue;
    const Sequence& last = sequences[next - 1];
    const int64_t begin = std::max(row, sequences[first].rowBegin);
    const int64_t end = std::min(row + rows, last.rowBegin + last.rows);
    if (begin >= end) continue;
    const LowRank* pair = adapters[static_cast<size_t>(adapter)]->find(weight);
    if (pair != nullptr) TSQ_RETURN_IF_ERROR(addProduct(step, *pair, op, begin, end));
  }
  return Status();
}

}  // namespace tsq
