// Paged cache of keys and values.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/memory.h"
#include "runtime/status.h"

namespace tsq {

// f32, in pages of kPage positions. A page of one layer and KV head holds K as [headDim][kPage] (transposed: 16
// positions are one vector) and V as [kPage][vStride], vStride = headDim rounded up to 16. Which page belongs to which
// sequence is the caller's business.
class KvCache {
 public:
  static constexpr int64_t kPage = 16;
  static Result<std::shared_ptr<KvCache>> create(int64_t layers, int64_t kvHeads, int64_t headDim, int64_t pages);
  int64_t layers() const { return layers_; }
  int64_t kvHeads() const { return kvHeads_; }
  int64_t headDim() const { return headDim_; }
  int64_t pages() const { return pages_; }
  int64_t vStride() const { return vStride_; }
  float* keys(int64_t layer, int64_t page, int64_t kvHead) const;
  float* values(int64_t layer, int64_t page, int64_t kvHead) const;
  uint64_t bytes() const { return memory_.size(); }

 private:
  int64_t layers_ = 0, kvHeads_ = 0, headDim_ = 0, pages_ = 0, vStride_ = 0;
  AlignedBuffer memory_;
};

}  // namespace tsq
