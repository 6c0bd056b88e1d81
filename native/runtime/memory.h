// Aligned memory for packed weights, slots and caches. Large blocks ask the system for 2 MiB pages.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#include "runtime/status.h"

namespace tsq {

// Owns `bytes` bytes aligned to 64 (to 2 MiB when large), zero-filled. Movable, not copyable.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  AlignedBuffer(AlignedBuffer&& other) noexcept;
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept;
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  ~AlignedBuffer();

  // kMemory with the size when the system refuses. bytes = 0 gives an empty buffer. Never throws.
  static Result<AlignedBuffer> allocate(size_t bytes);

  // `bytes` bytes of `whole` from `offset` on, a multiple of 64: small blocks that share large pages. The memory stays
  // as long as any part of it.
  static AlignedBuffer part(std::shared_ptr<const AlignedBuffer> whole, size_t offset, size_t bytes);

  void* data() const { return data_; }
  size_t size() const { return size_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;                             // as asked for
  size_t mapped_ = 0;                           // > 0: came from mmap, this many bytes
  std::shared_ptr<const AlignedBuffer> whole_;  // set: data_ belongs to it
};

// A file mapped read-only. The file may not shrink while mapped (the system then raises SIGBUS), so readers
// check the size once and copy out of the mapping rather than hand out views of it.
class MappedFile {
 public:
  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  // kIo with the system's reason. An empty file maps to size 0.
  static Result<MappedFile> open(const char* path);

  const uint8_t* data() const { return data_; }
  uint64_t size() const { return size_; }
  // Drops the pages of [offset, offset + bytes) from this process; they are read again when needed.
  void release(uint64_t offset, uint64_t bytes) const;

 private:
  const uint8_t* data_ = nullptr;
  uint64_t size_ = 0;
};

}  // namespace tsq
