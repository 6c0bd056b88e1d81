#include "program/kv_cache.h"

#include "layout/packed.h"
#include "program/message.h"

namespace tsq {

// Memory order [layer][page][kvHead] { K [headDim][kPage], V [kPage][vStride] }: what one attention task reads lies
// together.

Result<std::shared_ptr<KvCache>> KvCache::create(int64_t layers, int64_t kvHeads, int64_t headDim, int64_t pages) {
  constexpr int64_t kLimit = int64_t{1} << 31;
  const int64_t sizes[] = {layers, kvHeads, headDim, pages};
  const char* names[] = {"layers", "kvHeads", "headDim", "pages"};
  for (int i = 0; i < 4; ++i) {
    if (sizes[i] < 1 || sizes[i] >= kLimit) {
      return Status(Code::kOption, text("KV cache: ", names[i], " is ", sizes[i], ", expected 1 to ", kLimit - 1));
    }
  }
  const int64_t vStride = layout::roundUp(headDim, 16);
  const double bytes = 4.0 * static_cast<double>(headDim + vStride) * kPage * static_cast<double>(kvHeads) *
                       static_cast<double>(pages) * static_cast<double>(layers);
  if (bytes > 0x1.0p62) {
    return Status(Code::kMemory, text("KV cache: ", layers, " layers x ", kvHeads, " heads x ", headDim, " x ", pages,
                                      " pages of ", kPage, " positions need ", bytes, " bytes; ask for fewer pages"));
  }
  const int64_t block = (headDim + vStride) * kPage;
  Result<AlignedBuffer> memory = AlignedBuffer::allocate(static_cast<size_t>(layers * pages * kvHeads * block * 4));
  if (!memory.ok()) return memory.status();
  auto cache = std::make_shared<KvCache>();
  cache->layers_ = layers;
  cache->kvHeads_ = kvHeads;
  cache->headDim_ = headDim;
  cache->pages_ = pages;
  cache->vStride_ = vStride;
  cache->memory_ = std::move(memory.value());
  return cache;
}

float* KvCache::keys(int64_t layer, int64_t page, int64_t kvHead) const {
  return memory_.as<float>() + ((layer * pages_ + page) * kvHeads_ + kvHead) * (headDim_ + vStride_) * kPage;
}

float* KvCache::values(int64_t layer, int64_t page, int64_t kvHead) const {
  return keys(layer, page, kvHead) + headDim_ * kPage;
}

}  // namespace tsq
