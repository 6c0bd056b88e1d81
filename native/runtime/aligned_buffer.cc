#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "runtime/memory.h"

#if defined(_WIN32)
#include <malloc.h>
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace tsq {

namespace {

constexpr size_t kCacheLine = 64;
constexpr size_t kHugePage = size_t{2} << 20;
// From half a huge page on a block gets one: on small pages a weight is read at a fraction of the speed.
constexpr size_t kLargeBlock = size_t{1} << 20;
// No object may be larger than this (ptrdiff_t); it also keeps every rounding below from overflowing.
constexpr size_t kMaxBytes = static_cast<size_t>(PTRDIFF_MAX) - 2 * kHugePage;

constexpr size_t roundUp(size_t value, size_t step) {
  return (value + step - 1) / step * step;
}

Status refused(size_t bytes, const char* reason) {
  char text[160];
  std::snprintf(text, sizeof text,
                "out of memory: the system refused a block of %.1f MB (%s); free memory or choose a smaller size",
                static_cast<double>(bytes) / 1e6, reason);
  return Status(Code::kMemory, text);
}

#if !defined(_WIN32)

// How much to map for a block of `bytes`. A last part of at least half a huge page gets a whole one; a shorter one
// stays on small pages, which wastes less memory than it costs in speed.
size_t mappedBytes(size_t bytes) {
  const size_t tail = bytes % kHugePage;
  if (tail >= kHugePage / 2) return roundUp(bytes, kHugePage);
  return roundUp(bytes, static_cast<size_t>(sysconf(_SC_PAGESIZE)));
}

// `bytes` (a multiple of the page size) of zeroed memory at a multiple of 2 MiB; null with errno when refused.
void* mapHuge(size_t bytes) {
  void* raw = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(raw);
  const uintptr_t aligned = roundUp(begin, kHugePage);
  const size_t before = aligned - begin, after = kHugePage - before;
  if (before > 0) munmap(raw, before);
  if (after > 0) munmap(reinterpret_cast<void*>(aligned + bytes), after);
#if defined(MADV_HUGEPAGE)
  // A kernel without huge pages refuses; small pages are slower, not wrong.
  (void)madvise(reinterpret_cast<void*>(aligned), bytes, MADV_HUGEPAGE);
#endif
  return reinterpret_cast<void*>(aligned);
}

#endif

void freeBlock(void* data, size_t mapped) {
#if defined(_WIN32)
  (void)mapped;
  _aligned_free(data);
#else
  if (mapped > 0) {
    munmap(data, mapped);
  } else {
    std::free(data);
  }
#endif
}

}  // namespace

AlignedBuffer::AlignedBuffer(AlignedBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      mapped_(std::exchange(other.mapped_, 0)),
      whole_(std::move(other.whole_)) {}

AlignedBuffer& AlignedBuffer::operator=(AlignedBuffer&& other) noexcept {
  if (this != &other) {
    if (whole_ == nullptr) freeBlock(data_, mapped_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    mapped_ = std::exchange(other.mapped_, 0);
    whole_ = std::move(other.whole_);
  }
  return *this;
}

AlignedBuffer::~AlignedBuffer() {
  if (whole_ == nullptr) freeBlock(data_, mapped_);
}

AlignedBuffer AlignedBuffer::part(std::shared_ptr<const AlignedBuffer> whole, size_t offset, size_t bytes) {
  AlignedBuffer buffer;
  if (bytes == 0) return buffer;
  buffer.data_ = whole->as<char>() + offset;
  buffer.size_ = bytes;
  buffer.whole_ = std::move(whole);
  return buffer;
}

Result<AlignedBuffer> AlignedBuffer::allocate(size_t bytes) {
  AlignedBuffer buffer;
  if (bytes == 0) return buffer;
  if (bytes > kMaxBytes) return refused(bytes, "more than the address space holds");
#if defined(_WIN32)
  buffer.data_ = _aligned_malloc(bytes, bytes >= kLargeBlock ? kHugePage : kCacheLine);
  if (buffer.data_ == nullptr) return refused(bytes, "not enough memory");
  std::memset(buffer.data_, 0, bytes);
#else
  if (bytes >= kLargeBlock) {
    const size_t mapped = mappedBytes(bytes);
    buffer.data_ = mapHuge(mapped);
    if (buffer.data_ == nullptr) return refused(bytes, std::strerror(errno));
    buffer.mapped_ = mapped;
  } else {
    const int error = posix_memalign(&buffer.data_, kCacheLine, bytes);
    if (error != 0) {
      buffer.data_ = nullptr;
      return refused(bytes, std::strerror(error));
    }
    std::memset(buffer.data_, 0, bytes);
  }
#endif
  buffer.size_ = bytes;
  return buffer;
}

}  // namespace tsq
