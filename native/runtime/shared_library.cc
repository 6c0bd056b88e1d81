#include "runtime/shared_library.h"

#ifdef __linux__
#include <dlfcn.h>
#include <elf.h>
#include <link.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>
#endif

namespace tsq {

#ifdef __linux__

namespace {

namespace fs = std::filesystem;

// What is wrong with the file; empty where its segments are all there.
std::string defect(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) return "there is no such file";
  if (error) return error.message();
  if (status.type() == fs::file_type::directory) return "it is a directory";
  if (status.type() != fs::file_type::regular) return "it is not a regular file";
  const uint64_t bytes = fs::file_size(path, error);
  if (error) return error.message();
  std::ifstream file(path, std::ios::binary);
  if (!file) return "it cannot be read";
  ElfW(Ehdr) header{};
  file.read(reinterpret_cast<char*>(&header), sizeof(header));
  if (!file || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_phentsize != sizeof(ElfW(Phdr)))
    return "it is not a shared library";
  std::vector<ElfW(Phdr)> segments(header.e_phnum);
  file.seekg(static_cast<std::streamoff>(header.e_phoff));
  file.read(reinterpret_cast<char*>(segments.data()),
            static_cast<std::streamsize>(segments.size() * sizeof(ElfW(Phdr))));
  bool complete = static_cast<bool>(file);
  for (const ElfW(Phdr) & segment : segments)
    complete = complete && segment.p_offset <= bytes && segment.p_filesz <= bytes - segment.p_offset;
  return complete ? "" : "it is a shared library cut short";
}

}  // namespace

std::string folderOf(const void* address) {
  Dl_info info{};
  if (dladdr(address, &info) == 0 || info.dli_fname == nullptr) return "";
  std::error_code error;
  return fs::absolute(info.dli_fname, error).parent_path().string();
}

Result<void*> openLibrary(const std::string& path) {
  std::error_code error;
  // A bare name would be looked up among the system's libraries.
  const std::string full = fs::absolute(path, error).string();
  const std::string found = error ? error.message() : defect(full);
  if (!found.empty()) return Status(Code::kDevice, full + " does not load: " + found);
  void* library = dlopen(full.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library != nullptr) return library;
  const char* reason = dlerror();
  return Status(Code::kDevice, full + " does not load: " + (reason != nullptr ? reason : "the loader refuses it"));
}

Result<void*> openSystemLibrary(const char* name) {
  void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (library != nullptr) return library;
  const char* reason = dlerror();
  return Status(Code::kDevice, reason != nullptr ? reason : std::string(name) + ": the loader refuses it");
}

void* findSymbol(void* library, const char* name) {
  return dlsym(library, name);
}

#else

std::string folderOf(const void*) {
  return "";
}
Result<void*> openLibrary(const std::string& path) {
  return Status(Code::kDevice, path + " does not load: only Linux is supported");
}
Result<void*> openSystemLibrary(const char* name) {
  return Status(Code::kDevice, std::string(name) + " does not load: only Linux is supported");
}
void* findSymbol(void*, const char*) {
  return nullptr;
}

#endif

}  // namespace tsq
