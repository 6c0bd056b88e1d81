// Files read and written at positions. Unlike a mapping, a file that another process cuts short while it is read gives
// an error, not a signal.
#pragma once
#include <cstddef>
#include <cstdint>

#include "runtime/status.h"

namespace tsq {

// An open file. Reading and writing at positions is safe from several threads at once. Movable, not copyable.
class File {
 public:
  File() = default;
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File();

  // For reading. kIo with the system's reason; anything but a regular file is refused.
  static Result<File> open(const char* path);
  // For writing; a file that exists already is refused.
  static Result<File> create(const char* path);

  Result<uint64_t> size() const;
  // Fills `out`. kCorrupt where the file ends before.
  Status read(uint64_t offset, void* out, size_t bytes) const;
  Status write(uint64_t offset, const void* data, size_t bytes) const;
  // Cuts off or extends with zeros.
  Status resize(uint64_t bytes) const;
  // Some file systems report a failed write only here. Closing twice is no error.
  Status close();

 private:
  explicit File(intptr_t handle) : handle_(handle) {}
  static constexpr intptr_t kNone = -1;
  intptr_t handle_ = kNone;  // a descriptor, or a Windows handle
};

}  // namespace tsq
