#include "runtime/file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#if !defined(NOMINMAX)
#define NOMINMAX
#endif
#include <windows.h>
#else
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace tsq {

namespace {

// The most that one system call is asked to move: systems stop at 2 GiB or 4 GiB less one.
constexpr size_t kPiece = size_t{1} << 30;

Status failed(const char* action, const char* path, const std::string& reason) {
  return Status(Code::kIo, std::string("cannot ") + action + " '" + path + "': " + reason);
}

Status failed(const char* action, const std::string& reason) {
  return Status(Code::kIo, std::string("cannot ") + action + " the file: " + reason);
}

Status endedEarly(uint64_t offset, size_t bytes) {
  return Status(Code::kCorrupt, "the file ends before byte " + std::to_string(offset + bytes) +
                                    ", which belongs to it: it was cut off");
}

#if defined(_WIN32)

std::string systemError() {
  return "Windows error " + std::to_string(GetLastError());
}

HANDLE asHandle(intptr_t handle) {
  return reinterpret_cast<HANDLE>(handle);
}

Result<intptr_t> openHandle(const char* action, const char* path, DWORD access, DWORD disposition) {
  const int length = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, nullptr, 0);
  if (length <= 0) return failed(action, path, "the name is not valid UTF-8");
  std::wstring wide(static_cast<size_t>(length), L'\0');
  MultiByteToWideChar(CP_UTF8, 0, path, -1, wide.data(), length);
  const HANDLE handle = CreateFileW(wide.c_str(), access, FILE_SHARE_READ | FILE_SHARE_DELETE, nullptr, disposition,
                                    FILE_ATTRIBUTE_NORMAL, nullptr);
  if (handle == INVALID_HANDLE_VALUE) return failed(action, path, systemError());
  return reinterpret_cast<intptr_t>(handle);
}

void closeHandle(intptr_t handle) {
  (void)CloseHandle(asHandle(handle));  // for destructors, which have nobody to tell
}

OVERLAPPED at(uint64_t offset) {
  OVERLAPPED position{};
  position.Offset = static_cast<DWORD>(offset);
  position.OffsetHigh = static_cast<DWORD>(offset >> 32);
  return position;
}

#else

std::string systemError() {
  return std::strerror(errno);
}

Result<intptr_t> openDescriptor(const char* action, const char* path, int flags) {
  int opened;
  do {
    opened = ::open(path, flags | O_CLOEXEC, 0666);
  } while (opened < 0 && errno == EINTR);
  if (opened < 0) return failed(action, path, systemError());
  return static_cast<intptr_t>(opened);
}

void closeHandle(intptr_t handle) {
  (void)::close(static_cast<int>(handle));  // for destructors, which have nobody to tell
}

#endif

}  // namespace

File::File(File&& other) noexcept : handle_(std::exchange(other.handle_, kNone)) {}

File& File::operator=(File&& other) noexcept {
  if (this != &other) {
    if (handle_ != kNone) closeHandle(handle_);
    handle_ = std::exchange(other.handle_, kNone);
  }
  return *this;
}

File::~File() {
  if (handle_ != kNone) closeHandle(handle_);
}

#if defined(_WIN32)

Result<File> File::open(const char* path) {
  Result<intptr_t> handle = openHandle("open", path, GENERIC_READ, OPEN_EXISTING);
  if (!handle.ok()) return handle.status();
  File file(handle.value());
  if (GetFileType(asHandle(file.handle_)) != FILE_TYPE_DISK) return failed("open", path, "it is not a regular file");
  return file;
}

Result<File> File::create(const char* path) {
  Result<intptr_t> handle = openHandle("create", path, GENERIC_WRITE, CREATE_NEW);
  if (!handle.ok()) return handle.status();
  return File(handle.value());
}

Result<uint64_t> File::size() const {
  LARGE_INTEGER bytes;
  if (!GetFileSizeEx(asHandle(handle_), &bytes)) return failed("look at", systemError());
  return static_cast<uint64_t>(bytes.QuadPart);
}

Status File::read(uint64_t offset, void* out, size_t bytes) const {
  for (size_t done = 0; done < bytes;) {
    OVERLAPPED position = at(offset + done);
    DWORD count = 0;
    const DWORD piece = static_cast<DWORD>(std::min(kPiece, bytes - done));
    const bool read = ReadFile(asHandle(handle_), static_cast<char*>(out) + done, piece, &count, &position) != 0;
    if (!read && GetLastError() != ERROR_HANDLE_EOF) return failed("read", systemError());
    if (count == 0) return endedEarly(offset, bytes);
    done += count;
  }
  return Status();
}

Status File::write(uint64_t offset, const void* data, size_t bytes) const {
  for (size_t done = 0; done < bytes;) {
    OVERLAPPED position = at(offset + done);
    DWORD count = 0;
    const DWORD piece = static_cast<DWORD>(std::min(kPiece, bytes - done));
    if (!WriteFile(asHandle(handle_), static_cast<const char*>(data) + done, piece, &count, &position))
      return failed("write", systemError());
    if (count == 0) return failed("write", "the system wrote 0 bytes");
    done += count;
  }
  return Status();
}

Status File::resize(uint64_t bytes) const {
  LARGE_INTEGER end;
  end.QuadPart = static_cast<LONGLONG>(bytes);
  if (!SetFilePointerEx(asHandle(handle_), end, nullptr, FILE_BEGIN) || !SetEndOfFile(asHandle(handle_)))
    return failed("resize", systemError());
  return Status();
}

Status File::close() {
  if (handle_ == kNone) return Status();
  return CloseHandle(asHandle(std::exchange(handle_, kNone))) ? Status() : failed("close", systemError());
}

#else

Result<File> File::open(const char* path) {
  // Without O_NONBLOCK a named pipe would wait for a writer before it can be refused below.
  Result<intptr_t> descriptor = openDescriptor("open", path, O_RDONLY | O_NONBLOCK);
  if (!descriptor.ok()) return descriptor.status();
  File file(descriptor.value());
  struct stat info;
  if (fstat(static_cast<int>(file.handle_), &info) != 0) return failed("open", path, systemError());
  if (S_ISDIR(info.st_mode)) return failed("open", path, "it is a directory, a file is needed");
  if (!S_ISREG(info.st_mode)) return failed("open", path, "it is not a regular file");
  return file;
}

Result<File> File::create(const char* path) {
  Result<intptr_t> descriptor = openDescriptor("create", path, O_WRONLY | O_CREAT | O_EXCL);
  if (!descriptor.ok()) return descriptor.status();
  return File(descriptor.value());
}

Result<uint64_t> File::size() const {
  struct stat info;
  if (fstat(static_cast<int>(handle_), &info) != 0) return failed("look at", systemError());
  return static_cast<uint64_t>(info.st_size);
}

Status File::read(uint64_t offset, void* out, size_t bytes) const {
  for (size_t done = 0; done < bytes;) {
    const ssize_t count = pread(static_cast<int>(handle_), static_cast<char*>(out) + done,
                                std::min(kPiece, bytes - done), static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return failed("read", systemError());
    if (count == 0) return endedEarly(offset, bytes);
    done += static_cast<size_t>(count);
  }
  return Status();
}

Status File::write(uint64_t offset, const void* data, size_t bytes) const {
  for (size_t done = 0; done < bytes;) {
    const ssize_t count = pwrite(static_cast<int>(handle_), static_cast<const char*>(data) + done,
                                 std::min(kPiece, bytes - done), static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return failed("write", systemError());
    if (count == 0) return failed("write", "the system wrote 0 bytes");
    done += static_cast<size_t>(count);
  }
  return Status();
}

Status File::resize(uint64_t bytes) const {
  int result;
  do {
    result = ftruncate(static_cast<int>(handle_), static_cast<off_t>(bytes));
  } while (result != 0 && errno == EINTR);
  return result == 0 ? Status() : failed("resize", systemError());
}

Status File::close() {
  if (handle_ == kNone) return Status();
  // Not tried again after EINTR: the descriptor is gone all the same.
  return ::close(static_cast<int>(std::exchange(handle_, kNone))) == 0 ? Status() : failed("close", systemError());
}

#endif

}  // namespace tsq
