#include "runtime/memory.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

#include "check.h"

namespace {

namespace fs = std::filesystem;
using tsq::AlignedBuffer;
using tsq::Code;
using tsq::MappedFile;
using tsq::Result;

constexpr size_t kMiB = size_t{1} << 20;

// A folder that is removed at the end of the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::random_device random;
    path_ = fs::temp_directory_path() / ("tsq-runtime-" + std::to_string(random()) + std::to_string(random()));
    fs::create_directories(path_);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  std::string file(const std::string& name, const std::string& content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
    return (path_ / name).string();
  }
  std::string at(const std::string& name) const { return (path_ / name).string(); }

 private:
  fs::path path_;
};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::string pattern(size_t bytes) {
  std::string text(bytes, '\0');
  for (size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>(i * 2654435761u >> 13);
  return text;
}

#if defined(__linux__)
// Pages of [data, data + bytes) that are in this process's page table (bit 63 of /proc/self/pagemap).
size_t presentPages(const uint8_t* data, size_t pages) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  std::vector<uint64_t> entries(pages);
  const int map = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (map < 0) return 0;
  // Not a stream: the kernel refuses reads that are no multiple of 8 bytes.
  const off_t at = static_cast<off_t>(reinterpret_cast<uintptr_t>(data) / page * 8);
  if (pread(map, entries.data(), pages * 8, at) != static_cast<ssize_t>(pages * 8)) entries.assign(pages, 0);
  close(map);
  size_t present = 0;
  for (const uint64_t entry : entries) present += entry >> 63;
  return present;
}
#endif

}  // namespace

TEST(buffer_is_aligned_and_zero) {
  for (const size_t bytes : {size_t{1}, size_t{63}, size_t{64}, size_t{65}, size_t{4096}, kMiB - 1, kMiB, kMiB + 3,
                             4 * kMiB - 1, 4 * kMiB, 4 * kMiB + 1, 5 * kMiB, 7 * kMiB - 5, 17 * kMiB + 12345}) {
    // Twice: the second block may be memory that the first one has dirtied.
    for (int round = 0; round < 2; ++round) {
      Result<AlignedBuffer> result = AlignedBuffer::allocate(bytes);
      if (!CHECK_MSG(result.ok(), result.status().message())) return;
      const AlignedBuffer& buffer = result.value();
      CHECK(buffer.size() == bytes);
      const size_t alignment = bytes >= kMiB ? 2 * kMiB : 64;
      CHECK_MSG(reinterpret_cast<uintptr_t>(buffer.data()) % alignment == 0, std::to_string(bytes));
      uint8_t* data = buffer.as<uint8_t>();
      bool zero = true;
      for (size_t i = 0; i < bytes; ++i) zero = zero && data[i] == 0;
      CHECK_MSG(zero, std::to_string(bytes));
      std::fill(data, data + bytes, uint8_t{0xa5});
    }
  }
}

TEST(buffer_empty) {
  Result<AlignedBuffer> result = AlignedBuffer::allocate(0);
  CHECK(result.ok());
  CHECK(result.value().data() == nullptr && result.value().size() == 0);
}

TEST(buffer_refused) {
  const size_t max = std::numeric_limits<size_t>::max();
  for (const size_t bytes : {max, max - 1, max - 4 * kMiB, max / 2 + 1, max / 2, max / 2 - 4 * kMiB, max / 4}) {
    const Result<AlignedBuffer> result = AlignedBuffer::allocate(bytes);
    CHECK_MSG(!result.ok() && result.status().code() == Code::kMemory, std::to_string(bytes));
    char size[64];
    std::snprintf(size, sizeof size, "%.1f MB", static_cast<double>(bytes) / 1e6);
    CHECK_MSG(contains(result.status().message(), size), result.status().message());
    CHECK(result.value().data() == nullptr && result.value().size() == 0);
  }
}

TEST(buffer_moves) {
  for (const size_t bytes : {size_t{100}, 6 * kMiB}) {
    AlignedBuffer first = std::move(AlignedBuffer::allocate(bytes).value());
    void* data = first.data();
    first.as<char>()[bytes - 1] = 'x';
    AlignedBuffer second(std::move(first));
    CHECK(second.data() == data && second.size() == bytes);
    CHECK(first.data() == nullptr && first.size() == 0);  // NOLINT: a moved-from buffer is empty
    AlignedBuffer third = std::move(AlignedBuffer::allocate(5 * kMiB).value());
    third = std::move(second);
    CHECK(third.data() == data && third.as<char>()[bytes - 1] == 'x');
    AlignedBuffer& self = third;
    third = std::move(self);
    CHECK(third.data() == data && third.size() == bytes);
  }
}

// Blocks come and go without the address space filling up: the slack around aligned blocks is given back.
TEST(buffer_gives_slack_back) {
#if defined(__linux__)
  const auto virtualPages = [] {
    size_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    return pages * static_cast<size_t>(sysconf(_SC_PAGESIZE));
  };
  const size_t before = virtualPages();
  {
    std::vector<AlignedBuffer> blocks;
    for (int i = 0; i < 20; ++i) blocks.push_back(std::move(AlignedBuffer::allocate(4 * kMiB + 10).value()));
    const size_t grown = virtualPages() - before;
    CHECK_MSG(grown < 20 * (4 * kMiB + 64 * 1024), std::to_string(grown));
  }
  CHECK(virtualPages() < before + 4 * kMiB);
#endif
}

TEST(file_content) {
  const TemporaryFolder folder;
  for (const size_t bytes : {size_t{1}, size_t{4095}, size_t{4096}, size_t{100001}}) {
    const std::string content = pattern(bytes);
    Result<MappedFile> result = MappedFile::open(folder.file("weights.bin", content).c_str());
    if (!CHECK_MSG(result.ok(), result.status().message())) return;
    MappedFile& file = result.value();
    CHECK(file.size() == bytes);
    CHECK(std::string(reinterpret_cast<const char*>(file.data()), bytes) == content);
    // Releasing never loses anything, whatever the range.
    for (const uint64_t offset : {uint64_t{0}, uint64_t{1}, uint64_t{4096}, uint64_t{bytes}, ~uint64_t{0}}) {
      for (const uint64_t length : {uint64_t{0}, uint64_t{1}, uint64_t{5000}, uint64_t{bytes}, ~uint64_t{0}}) {
        file.release(offset, length);
      }
    }
    CHECK(std::string(reinterpret_cast<const char*>(file.data()), bytes) == content);
    MappedFile moved(std::move(file));
    CHECK(file.data() == nullptr && file.size() == 0);
    file = std::move(moved);
    CHECK(file.size() == bytes && file.data()[bytes - 1] == static_cast<uint8_t>(content[bytes - 1]));
  }
}

TEST(file_empty) {
  const TemporaryFolder folder;
  const Result<MappedFile> result = MappedFile::open(folder.file("empty", "").c_str());
  CHECK(result.ok());
  CHECK(result.value().size() == 0);
  result.value().release(0, 100);
}

TEST(file_refused) {
  const TemporaryFolder folder;
  const std::string missing = folder.at("missing.safetensors");
  const Result<MappedFile> none = MappedFile::open(missing.c_str());
  CHECK(!none.ok() && none.status().code() == Code::kIo);
  CHECK_MSG(contains(none.status().message(), missing), none.status().message());
  const Result<MappedFile> directory = MappedFile::open(folder.at("").c_str());
  CHECK(!directory.ok() && directory.status().code() == Code::kIo);
  CHECK_MSG(contains(directory.status().message(), "is a directory"), directory.status().message());
#if defined(__linux__)
  CHECK_MSG(contains(none.status().message(), "No such file or directory"), none.status().message());
  const std::string pipe = folder.at("pipe");
  CHECK(mkfifo(pipe.c_str(), 0600) == 0);
  const Result<MappedFile> fifo = MappedFile::open(pipe.c_str());  // must not wait for a writer
  CHECK(!fifo.ok() && contains(fifo.status().message(), "not a regular file"));
  const Result<MappedFile> below = MappedFile::open((folder.file("plain", "x") + "/below").c_str());
  CHECK(!below.ok() && contains(below.status().message(), "Not a directory"));
#endif
}

// release() drops the whole pages inside the range and keeps those it covers in part.
TEST(file_release_drops_whole_pages) {
#if defined(__linux__)
  const TemporaryFolder folder;
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), pages = 16;
  const std::string path = folder.file("pages", pattern((pages - 1) * page + 10));
  Result<MappedFile> result = MappedFile::open(path.c_str());
  if (!CHECK(result.ok())) return;
  const MappedFile& file = result.value();
  // One page at a time, as the kernel maps the neighbours of a page it is asked for.
  madvise(const_cast<uint8_t*>(file.data()), file.size(), MADV_RANDOM);
  const auto touch = [&] {
    unsigned sum = 0;
    for (size_t i = 0; i < pages; ++i) sum += *const_cast<const volatile uint8_t*>(file.data() + i * page);
    return sum;
  };
  const unsigned sum = touch();
  if (presentPages(file.data(), pages) != pages) {
    std::printf("# /proc/self/pagemap says nothing here: only the content is checked\n");
    CHECK(touch() == sum);
    return;
  }
  file.release(page - 1, 3 * page);  // pages 1 and 2 in full, 0 and 3 in part
  CHECK(presentPages(file.data(), 1) == 1);
  CHECK(presentPages(file.data() + page, 2) == 0);
  CHECK(presentPages(file.data() + 3 * page, pages - 3) == pages - 3);
  CHECK(touch() == sum);
  file.release(10 * page, ~uint64_t{0});  // to the end, the short last page included
  CHECK(presentPages(file.data() + 10 * page, pages - 10) == 0);
  CHECK(touch() == sum);
#endif
}

TEST(buffer_parts_keep_the_whole) {
  Result<AlignedBuffer> made = AlignedBuffer::allocate(8 * kMiB);
  CHECK(made.ok());
  auto whole = std::make_shared<const AlignedBuffer>(std::move(made.value()));
  uint8_t* begin = whole->as<uint8_t>();
  AlignedBuffer first = AlignedBuffer::part(whole, 0, 100), second = AlignedBuffer::part(whole, 4096, kMiB);
  CHECK(first.data() == begin && first.size() == 100 && second.data() == begin + 4096);
  CHECK(AlignedBuffer::part(whole, 64, 0).data() == nullptr);
  std::weak_ptr<const AlignedBuffer> watched = whole;
  whole.reset();
  first = std::move(second);
  CHECK(first.data() == begin + 4096 && first.size() == kMiB && second.data() == nullptr);
  first.as<uint8_t>()[kMiB - 1] = 7;
  CHECK(!watched.expired());
  first = AlignedBuffer();
  CHECK(watched.expired());
}
