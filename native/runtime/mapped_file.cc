#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "runtime/memory.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace tsq {

namespace {

Status cannotOpen(const char* path, const std::string& reason) {
  return Status(Code::kIo, "cannot open '" + std::string(path) + "': " + reason);
}

#if defined(_WIN32)

std::string lastError() {
  return "Windows error " + std::to_string(GetLastError());
}

struct Handle {
  HANDLE value;
  ~Handle() {
    if (value != nullptr && value != INVALID_HANDLE_VALUE) CloseHandle(value);
  }
};

void unmap(const uint8_t* data, uint64_t) {
  if (data != nullptr) UnmapViewOfFile(data);
}

Status map(const char* path, const uint8_t** data, uint64_t* size) {
  const int length = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, nullptr, 0);
  if (length <= 0) return cannotOpen(path, "the name is not valid UTF-8");
  std::wstring wide(static_cast<size_t>(length), L'\0');
  MultiByteToWideChar(CP_UTF8, 0, path, -1, wide.data(), length);
  const DWORD attributes = GetFileAttributesW(wide.c_str());
  if (attributes != INVALID_FILE_ATTRIBUTES && (attributes & FILE_ATTRIBUTE_DIRECTORY) != 0) {
    return cannotOpen(path, "it is a directory, a file is needed");
  }
  const Handle file{CreateFileW(wide.c_str(), GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, nullptr, OPEN_EXISTING,
                                FILE_ATTRIBUTE_NORMAL, nullptr)};
  if (file.value == INVALID_HANDLE_VALUE) return cannotOpen(path, lastError());
  LARGE_INTEGER bytes;
  if (!GetFileSizeEx(file.value, &bytes)) return cannotOpen(path, lastError());
  if (bytes.QuadPart == 0) return Status();
  const Handle mapping{CreateFileMappingW(file.value, nullptr, PAGE_READONLY, 0, 0, nullptr)};
  if (mapping.value == nullptr) return cannotOpen(path, lastError());
  const void* view = MapViewOfFile(mapping.value, FILE_MAP_READ, 0, 0, 0);
  if (view == nullptr) return cannotOpen(path, lastError());
  *data = static_cast<const uint8_t*>(view);
  *size = static_cast<uint64_t>(bytes.QuadPart);
  return Status();
}

#else

struct Descriptor {
  int value;
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
};

void unmap(const uint8_t* data, uint64_t size) {
  if (data != nullptr) munmap(const_cast<uint8_t*>(data), static_cast<size_t>(size));
}

Status map(const char* path, const uint8_t** data, uint64_t* size) {
  int opened;
  do {
    // Without O_NONBLOCK a named pipe would wait for a writer before it can be refused below.
    opened = ::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } while (opened < 0 && errno == EINTR);
  const Descriptor file{opened};
  if (file.value < 0) return cannotOpen(path, std::strerror(errno));
  struct stat info;
  if (fstat(file.value, &info) != 0) return cannotOpen(path, std::strerror(errno));
  if (S_ISDIR(info.st_mode)) return cannotOpen(path, "it is a directory, a file is needed");
  if (!S_ISREG(info.st_mode)) return cannotOpen(path, "it is not a regular file");
  if (info.st_size == 0) return Status();
  const uint64_t bytes = static_cast<uint64_t>(info.st_size);
  if (bytes > static_cast<uint64_t>(PTRDIFF_MAX)) return cannotOpen(path, "too large for the address space");
  void* view = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ, MAP_PRIVATE, file.value, 0);
  if (view == MAP_FAILED) return cannotOpen(path, std::strerror(errno));
  *data = static_cast<const uint8_t*>(view);
  *size = bytes;
  return Status();
}

#endif

}  // namespace

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    unmap(data_, size_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

MappedFile::~MappedFile() {
  unmap(data_, size_);
}

Result<MappedFile> MappedFile::open(const char* path) {
  MappedFile file;
  TSQ_RETURN_IF_ERROR(map(path, &file.data_, &file.size_));
  return file;
}

void MappedFile::release(uint64_t offset, uint64_t bytes) const {
#if defined(_WIN32)
  // The working set of a view is trimmed by the system alone; nothing to ask for.
  (void)offset;
  (void)bytes;
#else
  if (offset >= size_) return;
  const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const bool toTheEnd = bytes >= size_ - offset;
  // Only whole pages: the neighbours of a partly covered page are still being read. The last page has none.
  const uint64_t begin = (offset + page - 1) / page * page;
  const uint64_t end = toTheEnd ? size_ : (offset + bytes) / page * page;
  if (begin >= end) return;
  // Advice: if it is refused the pages merely stay.
  (void)madvise(const_cast<uint8_t*>(data_ + begin), static_cast<size_t>(end - begin), MADV_DONTNEED);
#endif
}

}  // namespace tsq
