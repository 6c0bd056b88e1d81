// Codes back to floats.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "kernels/packed_weight.h"
#include "layout/byte_codes.h"
#include "runtime/thread_pool.h"

namespace tsq {
namespace {

// Rows of a task: of layouts that run across rows, a cache line.
constexpr int64_t kRows = 16;

// What the codes of a row are turned into floats by.
struct Row {
  const CodesSource& source;
  int64_t groups;
  const float* scales;
  const uint8_t* zeros;
  const float* offsets;
  const float* book;  // [256], or null
};

// w [count] of codes of one group.
void decode(const Row& row, const uint8_t* codes, int64_t group, int64_t count, float* w) {
  const float scale = row.scales[group];
  if (row.book != nullptr) {
    for (int64_t i = 0; i < count; ++i) w[i] = scale * row.book[codes[i]];
  } else if (row.offsets != nullptr) {
    const float offset = row.offsets[group];
    for (int64_t i = 0; i < count; ++i) {
      const float product = scale * static_cast<float>(codes[i]);
      w[i] = product + offset;
    }
  } else {
    const int zero = row.zeros != nullptr ? row.zeros[group] : 1 << (row.source.bits - 1);
    for (int64_t i = 0; i < count; ++i) w[i] = scale * static_cast<float>(codes[i] - zero);
  }
}

void decodeRow(const Row& row, const uint8_t* codes, float* w) {
  const CodesSource& source = row.source;
  if (source.groupIndex != nullptr) {
    for (int64_t c = 0; c < source.k; ++c) decode(row, codes + c, source.groupIndex[c], 1, w + c);
  } else {
    for (int64_t g = 0; g < row.groups; ++g) {
      const int64_t begin = g * source.groupSize;
      decode(row, codes + begin, g, std::min(source.groupSize, source.k - begin), w + begin);
    }
  }
  if (source.inputScale == nullptr) return;
  for (int64_t c = 0; c < source.k; ++c) w[c] *= source.inputScale[c];
}

}  // namespace

Status dequantize(const CodesSource& source, float* w) {
  const layout::StoredCodes stored{source.codes, source.layout, source.n, source.k, source.bits};
  TSQ_RETURN_IF_ERROR(layout::checkStoredCodes(stored));
  const int64_t k = source.k, groups = layout::divideUp(k, source.groupSize);
  // One for every byte: a code that there cannot be reads nothing else.
  float book[256] = {};
  if (source.codebook != nullptr) std::memcpy(book, source.codebook, sizeof(float) << source.bits);
  const bool bytes = source.layout == layout::CodeLayout::kBytes;
  const int threads = ThreadPool::instance().threads();
  Result<AlignedBuffer> room = AlignedBuffer::allocate(bytes ? 0 : static_cast<size_t>(threads * kRows * k));
  if (!room.ok()) return room.status();
  std::atomic<bool> valid{true};
  const auto task = [&](int64_t index, int worker) {
    const int64_t first = index * kRows, rows = std::min(kRows, source.n - first);
    const uint8_t* codes = source.codes + first * k;
    if (!bytes) {
      uint8_t* own = room.value().as<uint8_t>() + worker * kRows * k;
      layout::unpackRows(stored, first, rows, own);
      codes = own;
    }
    const bool checked = source.codebook != nullptr || source.layout == layout::CodeLayout::kSigned;
    if (checked && layout::seenBits(codes, rows * k) >> source.bits != 0) valid.store(false, std::memory_order_relaxed);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t at = (first + i) * groups;
      const Row row{source,
                    groups,
                    source.scales + at,
                    source.zeros == nullptr ? nullptr : source.zeros + at,
                    source.offsets == nullptr ? nullptr : source.offsets + at,
                    source.codebook == nullptr ? nullptr : book};
      decodeRow(row, codes + i * k, w + (first + i) * k);
    }
  };
  ThreadPool::instance().run(layout::divideUp(source.n, kRows), task, threads);
  return valid.load() ? Status() : layout::invalidCode(stored);
}

}  // namespace tsq
