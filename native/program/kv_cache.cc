#include "program/kv_cache.h"

#include "program/message.h"

namespace tsq {

// Memory order [layer][page][kvHead] { a page }, then the f16 pool in the same order: what one attention task reads
// lies together.

namespace {

using layout::KvCoding;
using layout::KvScales;
using layout::KvType;

constexpr int64_t kLimit = int64_t{1} << 31;

Status checkCoding(const char* name, const KvCoding& coding, bool keys, int64_t headDim) {
  bool fits = false;
  switch (coding.type) {
    case KvType::kF32:
    case KvType::kF16:
      fits = coding.scales == KvScales::kNone;
      break;
    case KvType::kI8:
    case KvType::kI4:
      fits = coding.scales == KvScales::kToken || (keys && coding.scales == KvScales::kChannel);
      break;
    case KvType::kE4M3:
      fits = coding.scales == KvScales::kToken || coding.scales == KvScales::kTensor;
      break;
  }
  if (!fits || (coding.offsets && coding.type != KvType::kI4)) {
    return Status(Code::kOption, text("KV cache: ", name, " of type ", static_cast<int>(coding.type),
                                      " have scales of kind ", static_cast<int>(coding.scales),
                                      coding.offsets ? " with offsets" : "", ", which do not go together"));
  }
  const bool whole = coding.group == headDim || (coding.group >= 32 && coding.group % 32 == 0);
  if (coding.scales == KvScales::kToken && (!whole || coding.group > headDim)) {
    return Status(Code::kOption, text("KV cache: ", coding.group, " columns of ", name,
                                      " share a scale, expected a multiple of 32 below the head dimension ", headDim,
                                      " or the head dimension itself"));
  }
  return Status();
}

Status checkScales(const char* name, const KvCoding& coding, const std::vector<float>& scales, int64_t layers) {
  if (coding.scales != KvScales::kTensor) return Status();
  if (static_cast<int64_t>(scales.size()) != layers) {
    return Status(Code::kShape,
                  text("KV cache: ", scales.size(), " scales of ", name, ", expected one for each of ", layers));
  }
  for (const float scale : scales) {
    if (!(scale > 0 && scale < 1e30f)) {
      return Status(Code::kNumeric, text("KV cache: a scale of ", name, " is ", scale, ", expected a positive number"));
    }
  }
  return Status();
}

}  // namespace

Result<uint64_t> KvCache::bytesOf(int64_t layers, int64_t kvHeads, int64_t headDim, int64_t pages,
                                  const KvFormat& format) {
  const int64_t sizes[] = {layers, kvHeads, headDim, pages};
  const char* names[] = {"layers", "kvHeads", "headDim", "pages"};
  for (int i = 0; i < 4; ++i) {
    if (sizes[i] < 1 || sizes[i] >= kLimit) {
      return Status(Code::kOption, text("KV cache: ", names[i], " is ", sizes[i], ", expected 1 to ", kLimit - 1));
    }
  }
  const int64_t counts[] = {format.sinkPages, format.windowPages, format.exactPages};
  const char* countNames[] = {"sinkPages", "windowPages", "exactPages"};
  for (int i = 0; i < 3; ++i) {
    if (counts[i] < 0 || counts[i] >= kLimit) {
      return Status(Code::kOption,
                    text("KV cache: ", countNames[i], " is ", counts[i], ", expected 0 to ", kLimit - 1));
    }
  }
  TSQ_RETURN_IF_ERROR(checkCoding("keys", format.keys, true, headDim));
  TSQ_RETURN_IF_ERROR(checkCoding("values", format.values, false, headDim));
  TSQ_RETURN_IF_ERROR(checkScales("keys", format.keys, format.keyScales, layers));
  TSQ_RETURN_IF_ERROR(checkScales("values", format.values, format.valueScales, layers));
  if (format.keys.scales == KvScales::kChannel && format.windowPages < 1) {
    return Status(Code::kOption,
                  "KV cache: keys with a scale for every channel are quantized a page at a time, so that the page that "
                  "is being filled has to be in the window; expected windowPages of at least 1");
  }
  if ((format.rotateKeys || format.rotateValues) && headDim > kMaxRotated) {
    return Status(Code::kUnsupported,
                  text("KV cache: heads of ", headDim, " are not rotated, expected at most ", kMaxRotated));
  }
  const layout::KvPage page = layout::kvPage(headDim, format.keys, format.values);
  const layout::KvPage exact = layout::kvPage(headDim, {KvType::kF16}, {KvType::kF16});
  const double heads = static_cast<double>(layers) * static_cast<double>(kvHeads);
  const double bytes = heads * (static_cast<double>(page.bytes) * static_cast<double>(pages) +
                                static_cast<double>(exact.bytes) * static_cast<double>(format.exactPages));
  if (bytes > 0x1.0p62) {
    return Status(Code::kMemory, text("KV cache: ", layers, " layers x ", kvHeads, " heads x ", headDim, " x ", pages,
                                      " pages of ", kPage, " positions need ", bytes, " bytes; ask for fewer pages"));
  }
  return static_cast<uint64_t>(layers * kvHeads * (page.bytes * pages + exact.bytes * format.exactPages));
}

Result<std::shared_ptr<KvCache>> KvCache::create(int64_t layers, int64_t kvHeads, int64_t headDim, int64_t pages,
                                                 KvFormat format) {
  const Result<uint64_t> bytes = bytesOf(layers, kvHeads, headDim, pages, format);
  if (!bytes.ok()) return bytes.status();
  Result<AlignedBuffer> memory = AlignedBuffer::allocate(static_cast<size_t>(bytes.value()));
  if (!memory.ok()) return memory.status();
  auto cache = std::make_shared<KvCache>();
  cache->layers_ = layers;
  cache->kvHeads_ = kvHeads;
  cache->pages_ = pages;
  cache->page_ = layout::kvPage(headDim, format.keys, format.values);
  cache->exactPage_ = layout::kvPage(headDim, {KvType::kF16}, {KvType::kF16});
  cache->format_ = std::move(format);
  cache->memory_ = std::move(memory.value());
  return cache;
}

}  // namespace tsq
