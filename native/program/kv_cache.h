// Paged cache of keys and values.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "layout/kv_page.h"
#include "runtime/memory.h"
#include "runtime/status.h"

namespace tsq {

// How a cache stores what it is given. See docs/kv-cache.md.
struct KvFormat {
  layout::KvCoding keys, values;
  // Hadamard rotation before they are stored (program/kv_rotation.h); queries are rotated likewise, outputs back.
  bool rotateKeys = false, rotateValues = false;
  // Pages that are kept in f16 besides: the first ones of a sequence, and those whose distance to a query's page is
  // below windowPages. windowPages 0: none.
  int64_t sinkPages = 0, windowPages = 0;
  int64_t exactPages = 0;                     // of the f16 pool
  std::vector<float> keyScales, valueScales;  // kTensor: of every layer
};

// Pages of KvCache::kPage positions. Which page belongs to which sequence is the caller's business; so is which page of
// the f16 pool.
class KvCache {
 public:
  static constexpr int64_t kPage = layout::kKvPositions;
  static constexpr int64_t kMaxRotated = 1024;  // head dimension
  static Result<std::shared_ptr<KvCache>> create(int64_t layers, int64_t kvHeads, int64_t headDim, int64_t pages,
                                                 KvFormat format = {});
  // What create would take; checks its arguments likewise.
  static Result<uint64_t> bytesOf(int64_t layers, int64_t kvHeads, int64_t headDim, int64_t pages,
                                  const KvFormat& format);
  int64_t layers() const { return layers_; }
  int64_t kvHeads() const { return kvHeads_; }
  int64_t headDim() const { return page_.headDim; }
  int64_t pages() const { return pages_; }
  const KvFormat& format() const { return format_; }
  bool hasExact() const { return format_.sinkPages + format_.windowPages > 0; }
  const layout::KvPage& page() const { return page_; }
  const layout::KvPage& exactPage() const { return exactPage_; }
  // Page of a layer and head. Pages of a layer and head are pageStride() bytes apart, exactStride() in the f16 pool.
  uint8_t* block(int64_t layer, int64_t page, int64_t kvHead) const {
    return memory_.as<uint8_t>() + ((layer * pages_ + page) * kvHeads_ + kvHead) * page_.bytes;
  }
  uint8_t* exactBlock(int64_t layer, int64_t page, int64_t kvHead) const {
    return memory_.as<uint8_t>() + layers_ * pages_ * pageStride() +
           ((layer * format_.exactPages + page) * kvHeads_ + kvHead) * exactPage_.bytes;
  }
  int64_t pageStride() const { return kvHeads_ * page_.bytes; }
  int64_t exactStride() const { return kvHeads_ * exactPage_.bytes; }
  uint64_t bytes() const { return memory_.size(); }

 private:
  int64_t layers_ = 0, kvHeads_ = 0, pages_ = 0;
  KvFormat format_;
  layout::KvPage page_, exactPage_;
  AlignedBuffer memory_;
};

}  // namespace tsq
