#include "kernels/scratch.h"

#include "runtime/memory.h"

namespace tsq {

float* threadScratch(ScratchUse use, int64_t floats) {
  thread_local AlignedBuffer buffers[static_cast<int>(ScratchUse::kSurvey) + 1];
  AlignedBuffer& buffer = buffers[static_cast<int>(use)];
  const size_t bytes = static_cast<size_t>(floats > 16 ? floats : 16) * sizeof(float);
  if (buffer.size() < bytes) {
    buffer = AlignedBuffer();  // free first: the contents need not survive
    Result<AlignedBuffer> grown = AlignedBuffer::allocate(bytes);
    if (!grown.ok()) return nullptr;
    buffer = std::move(grown.value());
  }
  return buffer.as<float>();
}

}  // namespace tsq
