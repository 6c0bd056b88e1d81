// What a packed weight knows of the activations that its scheme wants.
#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "kernels/packed_weight.h"
#include "kernels/scratch.h"
#include "runtime/thread_pool.h"

namespace tsq {
namespace {

// f32 [n, 1]. Sums are taken in double.
Result<PackedWeight> sumRows(const PackedWeight& weight) {
  const layout::Shape& shape = weight.shape;
  Result<AlignedBuffer> memory = AlignedBuffer::allocate(static_cast<size_t>(shape.n) * sizeof(float));
  if (!memory.ok()) return memory.status();
  float* sums = memory.value().as<float>();
  std::atomic<bool> enough{true};
  ThreadPool::instance().run(layout::panels(shape), [&](int64_t panel, int) {
    float* row = threadScratch(ScratchUse::kRow, shape.k);
    if (row == nullptr) return enough.store(false, std::memory_order_relaxed);
    const int64_t end = std::min(shape.n, (panel + 1) * layout::kPanel);
    for (int64_t n = panel * layout::kPanel; n < end; ++n) {
      unpackRow(weight, n, row);
      double sum = 0;
      for (int64_t i = 0; i < shape.k; ++i) sum += static_cast<double>(row[i]);
      sums[n] = static_cast<float>(sum);
    }
  });
  if (!enough.load()) return Status(Code::kMemory, "packCodes: no memory for a row of the weight");
  return packDense(sums, Dtype::kF32, shape.n, 1, layout::WeightKind::kF32);
}

}  // namespace

Status setActivations(PackedWeight* weight, const ActivationScheme& scheme) {
  if (!scheme.exact()) TSQ_RETURN_IF_ERROR(check(scheme));
  weight->activations = scheme;
  weight->rowSums = nullptr;
  if (scheme.symmetric || scheme.exact()) return {};
  // Input scales belong to the activations.
  std::vector<float> inputScale;
  std::swap(inputScale, weight->inputScale);
  Result<PackedWeight> sums = sumRows(*weight);
  std::swap(inputScale, weight->inputScale);
  if (!sums.ok()) return sums.status();
  weight->rowSums = std::make_shared<const PackedWeight>(std::move(sums.value()));
  return {};
}

}  // namespace tsq
