#include "kernels/pack_file.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <mutex>
#include <new>
#include <utility>

#include "runtime/checksum.h"

namespace tsq {
namespace {

using packfile::aligned;
using packfile::Entry;
using packfile::Header;
using packfile::kBlock;
using packfile::kParts;
using packfile::Part;
using packfile::Sizes;

// What is read at once: after it was copied from the system's cache it is still in the processor's for the checksum.
constexpr size_t kPiece = size_t{256} << 10;

// A section of the file and the memory that it is read into or written from.
struct Transfer {
  uint8_t* memory;
  uint64_t offset, bytes;
  uint64_t checksum;
};

Status aborted() {
  return {Code::kAborted, "packed weights: aborted"};
}

Status noMemory() {
  return {Code::kMemory, "no memory for the table of a file of packed weights"};
}

// The first failure of several threads.
class FirstFailure {
 public:
  void keep(Status status) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (status_.ok()) status_ = std::move(status);
    any_.store(true, std::memory_order_relaxed);
  }
  bool any() const { return any_.load(std::memory_order_relaxed); }
  const Status& status() const { return status_; }

 private:
  std::mutex mutex_;
  Status status_;
  std::atomic<bool> any_{false};
};

// Calls move(transfer, begin, end, sum) for every block of every section, on all threads: it moves the bytes and adds
// them to the block's checksum. Then gives `found` the checksum of every section.
template <typename Move>
Status transferAll(const std::vector<Transfer>& transfers, AbortFlag abort, std::vector<uint64_t>* found, Move move) {
  struct Block {
    size_t transfer;
    uint64_t begin;
  };
  std::vector<Block> blocks;
  for (size_t i = 0; i < transfers.size(); ++i) {
    for (uint64_t begin = 0; begin < transfers[i].bytes; begin += kBlock) blocks.push_back({i, begin});
  }
  std::vector<uint64_t> sums(blocks.size());
  FirstFailure failure;
  ThreadPool::instance().run(static_cast<int64_t>(blocks.size()), [&](int64_t index, int) {
    if (abort.raised() || failure.any()) return;
    const Block& block = blocks[static_cast<size_t>(index)];
    const Transfer& transfer = transfers[block.transfer];
    Checksum sum;
    Status status = move(transfer, block.begin, std::min(transfer.bytes, block.begin + kBlock), &sum);
    if (status.ok()) {
      sums[static_cast<size_t>(index)] = sum.value();
    } else {
      failure.keep(std::move(status));
    }
  });
  if (abort.raised()) return aborted();
  if (failure.any()) return failure.status();
  found->assign(transfers.size(), 0);
  for (size_t i = 0, block = 0; i < transfers.size(); ++i) {
    const size_t count = static_cast<size_t>((transfers[i].bytes + kBlock - 1) / kBlock);
    if (count > 0) (*found)[i] = checksum(sums.data() + block, count * sizeof(uint64_t));
    block += count;
  }
  return {};
}

Status readAll(const File& file, const std::vector<Transfer>& transfers, AbortFlag abort) {
  std::vector<uint64_t> found;
  TSQ_RETURN_IF_ERROR(transferAll(transfers, abort, &found,
                                  [&](const Transfer& transfer, uint64_t begin, uint64_t end, Checksum* sum) -> Status {
                                    for (uint64_t at = begin; at < end; at += kPiece) {
                                      const size_t bytes = static_cast<size_t>(std::min<uint64_t>(kPiece, end - at));
                                      TSQ_RETURN_IF_ERROR(file.read(transfer.offset + at, transfer.memory + at, bytes));
                                      sum->add(transfer.memory + at, bytes);
                                    }
                                    return {};
                                  }));
  for (size_t i = 0; i < transfers.size(); ++i) {
    if (found[i] != transfers[i].checksum)
      return {Code::kCorrupt, std::to_string(transfers[i].bytes) + " bytes at " + std::to_string(transfers[i].offset) +
                                  " do not match their checksum: the file is damaged"};
  }
  return {};
}

// The sections of a weight that begin at `offset`, and where the last one ends.
uint64_t addSections(const PackedWeight& weight, const Sizes& sizes, uint64_t offset, const uint64_t* checksums,
                     std::vector<Transfer>* transfers) {
  for (int part = 0; part < kParts; ++part) {
    if (sizes.bytes[part] == 0) continue;
    offset = aligned(offset);
    void* memory = const_cast<void*>(packfile::section(weight, static_cast<Part>(part)));
    transfers->push_back({static_cast<uint8_t*>(memory), offset, sizes.bytes[part], checksums[part]});
    offset += sizes.bytes[part];
  }
  return offset;
}

// Where the sections that follow `offset` end; the same walk without memory.
uint64_t endOfSections(const Sizes& sizes, uint64_t offset) {
  for (const uint64_t bytes : sizes.bytes) {
    if (bytes > 0) offset = aligned(offset) + bytes;
  }
  return offset;
}

Status wrongSize(uint64_t found, uint64_t expected) {
  return {Code::kCorrupt, "the file has " + std::to_string(found) + " bytes, expected " + std::to_string(expected) +
                              " from its header and table"};
}

}  // namespace

Status PackFile::readTable(const Header& header) {
  std::string table(static_cast<size_t>(packfile::tableBytes(header)), '\0');
  TSQ_RETURN_IF_ERROR(file_.read(sizeof header, table.data(), table.size()));
  if (checksum(table.data(), table.size()) != header.tableChecksum)
    return {Code::kCorrupt, "the table does not match its checksum: the file is damaged"};
  entries_.resize(header.weights);
  const size_t entries = header.weights * sizeof(Entry);
  if (entries > 0) std::memcpy(entries_.data(), table.data(), entries);
  meta_ = table.substr(entries);
  floats_ = static_cast<int64_t>(header.floats);
  floatsChecksum_ = header.floatsChecksum;
  return {};
}

Status PackFile::place(const Header& header) {
  uint64_t end = sizeof header + packfile::tableBytes(header);
  if (header.floats > 0) end = aligned(end) + header.floats * sizeof(float);
  for (const Entry& entry : entries_) {
    const Result<Sizes> sizes = packfile::sectionSizes(entry);
    if (!sizes.ok()) return sizes.status();
    offsets_.push_back(end);
    end = endOfSections(sizes.value(), end);
    // Each time, so that the sum stays below twice the largest file.
    if (end > header.fileBytes) return wrongSize(header.fileBytes, end);
  }
  return end == header.fileBytes ? Status() : wrongSize(header.fileBytes, end);
}

Result<PackFile> PackFile::open(const char* path) try {
  Result<File> opened = File::open(path);
  if (!opened.ok()) return opened.status();
  PackFile file;
  file.file_ = std::move(opened.value());
  const Result<uint64_t> size = file.file_.size();
  if (!size.ok()) return size.status();
  Header header;
  TSQ_RETURN_IF_ERROR(file.file_.read(0, &header, sizeof header));
  TSQ_RETURN_IF_ERROR(packfile::checkHeader(header));
  // Before anything is allocated by what the header claims.
  if (header.fileBytes != size.value() || sizeof header + packfile::tableBytes(header) > size.value())
    return wrongSize(size.value(), header.fileBytes);
  TSQ_RETURN_IF_ERROR(file.readTable(header));
  TSQ_RETURN_IF_ERROR(file.place(header));
  return file;
} catch (const std::bad_alloc&) {
  return noMemory();
}

uint64_t PackFile::bytes(int64_t weight) const {
  const Result<Sizes> sizes = packfile::sectionSizes(entries_[static_cast<size_t>(weight)]);
  uint64_t sum = 0;
  for (const uint64_t bytes : sizes.value().bytes) sum += bytes;
  return sum;
}

Status PackFile::readFloats(float* out) const {
  if (floats_ == 0) return {};
  const uint64_t offset = aligned(sizeof(Header) + entries_.size() * sizeof(Entry) + meta_.size());
  return readAll(
      file_,
      {{reinterpret_cast<uint8_t*>(out), offset, static_cast<uint64_t>(floats_) * sizeof(float), floatsChecksum_}},
      AbortFlag());
}

Result<std::vector<PackedWeight>> PackFile::readWeights(int64_t first, int64_t count, AbortFlag abort) const try {
  if (first < 0 || count < 0 || first > static_cast<int64_t>(entries_.size()) ||
      count > static_cast<int64_t>(entries_.size()) - first) {
    return Status(Code::kOption, "weights " + std::to_string(first) + " to " + std::to_string(first + count - 1) +
                                     ", expected some of the " + std::to_string(entries_.size()) + " in the file");
  }
  std::vector<Sizes> sizes;
  uint64_t bytes = 0;
  for (int64_t i = first; i < first + count; ++i) {
    sizes.push_back(packfile::sectionSizes(entries_[static_cast<size_t>(i)]).value());
    bytes += packfile::blockBytes(sizes.back());
  }
  Result<AlignedBuffer> allocated = AlignedBuffer::allocate(static_cast<size_t>(bytes));
  if (!allocated.ok()) return allocated.status();
  const auto block = std::make_shared<const AlignedBuffer>(std::move(allocated.value()));
  std::vector<PackedWeight> weights;
  std::vector<Transfer> transfers;
  uint64_t offset = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const size_t index = static_cast<size_t>(first) + i;
    const Entry& entry = entries_[index];
    weights.push_back(packfile::place(entry, sizes[i], block, offset));  // its buffers stay where they are
    offset += packfile::blockBytes(sizes[i]);
    addSections(weights.back(), sizes[i], offsets_[index], entry.checksums, &transfers);
  }
  TSQ_RETURN_IF_ERROR(readAll(file_, transfers, abort));
  for (const PackedWeight& weight : weights) TSQ_RETURN_IF_ERROR(packfile::checkContents(weight));
  return weights;
} catch (const std::bad_alloc&) {
  return noMemory();
}

Status writePackFile(const char* path, const std::string& meta, std::span<const float> floats,
                     std::span<const PackedWeight* const> weights, AbortFlag abort) try {
  if (weights.size() > packfile::kMaxWeights || meta.size() > packfile::kMaxMeta)
    return {Code::kUnsupported, std::to_string(weights.size()) + " weights and " + std::to_string(meta.size()) +
                                    " bytes of text, more than a file of packed weights holds"};
  Header header{};
  std::memcpy(header.magic, packfile::kMagic, sizeof header.magic);
  header.format = packfile::kFormatVersion;
  header.layout = layout::kVersion;
  header.weights = static_cast<uint32_t>(weights.size());
  header.metaBytes = static_cast<uint32_t>(meta.size());
  header.floats = floats.size();

  static constexpr uint64_t kUnknown[kParts] = {};
  std::vector<Entry> entries;
  std::vector<Transfer> transfers;
  uint64_t end = sizeof header + packfile::tableBytes(header);
  if (!floats.empty()) {
    uint8_t* memory = reinterpret_cast<uint8_t*>(const_cast<float*>(floats.data()));
    transfers.push_back({memory, aligned(end), floats.size_bytes(), 0});
    end = aligned(end) + floats.size_bytes();
  }
  for (const PackedWeight* weight : weights) {
    const Result<Entry> entry = packfile::describe(*weight);
    if (!entry.ok()) return entry.status();
    entries.push_back(entry.value());
    end = addSections(*weight, packfile::sectionSizes(entry.value()).value(), end, kUnknown, &transfers);
  }
  header.fileBytes = end;

  Result<File> created = File::create(path);
  if (!created.ok()) return created.status();
  File file = std::move(created.value());
  TSQ_RETURN_IF_ERROR(file.resize(end));
  std::vector<uint64_t> sums;
  TSQ_RETURN_IF_ERROR(transferAll(
      transfers, abort, &sums, [&](const Transfer& transfer, uint64_t begin, uint64_t to, Checksum* sum) -> Status {
        sum->add(transfer.memory + begin, static_cast<size_t>(to - begin));
        return file.write(transfer.offset + begin, transfer.memory + begin, static_cast<size_t>(to - begin));
      }));

  size_t next = 0;
  if (!floats.empty()) header.floatsChecksum = sums[next++];
  for (Entry& entry : entries) {
    const Sizes sizes = packfile::sectionSizes(entry).value();
    for (int part = 0; part < kParts; ++part) entry.checksums[part] = sizes.bytes[part] > 0 ? sums[next++] : 0;
  }
  std::string table(reinterpret_cast<const char*>(entries.data()), entries.size() * sizeof(Entry));
  table += meta;
  header.tableChecksum = checksum(table.data(), table.size());
  header.checksum = checksum(&header, offsetof(Header, checksum));
  TSQ_RETURN_IF_ERROR(file.write(sizeof header, table.data(), table.size()));
  TSQ_RETURN_IF_ERROR(file.write(0, &header, sizeof header));
  return file.close();
} catch (const std::bad_alloc&) {
  return noMemory();
}

}  // namespace tsq
