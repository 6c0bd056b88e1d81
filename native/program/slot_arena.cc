#include "program/slot_arena.h"

#include <bit>

#include "layout/packed.h"
#include "program/message.h"

namespace tsq {

Status SlotArena::prepare(int64_t rows) {
  const int64_t bucket = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows)));
  if (bucket == bucket_) return Status();
  double bytes = 0;
  for (const int64_t width : widths_) bytes += 4.0 * static_cast<double>(width) * static_cast<double>(bucket) + 64;
  if (bytes > 0x1.0p62) {
    return Status(Code::kMemory, text("slots for ", rows, " rows need ", bytes, " bytes; run fewer rows in a step"));
  }
  bucket_ = 0;  // nothing is laid out if the allocation fails
  offsets_.clear();
  int64_t floats = 0;
  for (const int64_t width : widths_) {
    offsets_.push_back(floats);
    floats += layout::roundUp(width * bucket, 16);  // every slot starts at a cache line
  }
  const size_t needed = static_cast<size_t>(floats) * 4;
  if (needed > memory_.size()) {
    memory_ = AlignedBuffer();  // first, so that both are never held at once
    bytes_.store(0, std::memory_order_relaxed);
    Result<AlignedBuffer> memory = AlignedBuffer::allocate(needed);
    if (!memory.ok()) {
      return Status(Code::kMemory, text("slots for ", rows, " rows need ", needed, " bytes, which the system refused (",
                                        memory.status().message(), "); run fewer rows in a step"));
    }
    memory_ = std::move(memory.value());
    bytes_.store(needed, std::memory_order_relaxed);
  }
  bucket_ = bucket;
  return Status();
}

}  // namespace tsq
