#include "cuda/emulation/memory.h"

#include <algorithm>

#include "cuda/emulation/machine.h"

namespace tsq::emulation {
namespace {

constexpr size_t kCell = 4;

// Bits of the bytes of cell `index` that lie in [offset, offset + count).
uint8_t maskOf(size_t index, size_t offset, size_t count) {
  const size_t begin = std::max(index * kCell, offset) - index * kCell;
  const size_t end = std::min((index + 1) * kCell, offset + count) - index * kCell;
  return static_cast<uint8_t>((1u << end) - (1u << begin));
}

bool reads(Access kind) {
  return kind == Access::kRead || kind == Access::kAsyncRead;
}
bool writes(Access kind) {
  return kind == Access::kWrite || kind == Access::kAsyncWrite;
}

const char* verb(Access kind) {
  return reads(kind) ? "read" : writes(kind) ? "write" : "atomic";
}

bool conflict(Access a, Access b) {
  return writes(a) || writes(b) || reads(a) != reads(b);
}

}  // namespace

Memory::Memory(std::string name, void* bytes, size_t size, bool initialised)
    : name_(std::move(name)), bytes_(static_cast<char*>(bytes)), size_(size), cells_((size + kCell - 1) / kCell) {
  setInitialised(initialised);
}

void Memory::setInitialised(bool initialised) {
  for (Cell& cell : cells_) cell.written = initialised ? 0xf : 0;
}

bool Memory::initialised(size_t offset) const {
  return (cells_[offset / kCell].written >> offset % kCell & 1) != 0;
}

void Memory::forgetAccesses() {
  for (Cell& cell : cells_) {
    cell.records.clear();
    cell.flying = 0;
  }
}

void Memory::checkRange(size_t offset, size_t count, const Actor& actor) const {
  if (offset > size_ || count > size_ - offset) {
    fail(actor.at, "out of bounds: %zu bytes at byte %zd of %s, which has %zu", count, static_cast<ptrdiff_t>(offset),
         name_.c_str(), size_);
  }
  if (offset % std::min<size_t>(count, 16) != 0) {
    fail(actor.at, "misaligned: %zu bytes at byte %zu of %s", count, offset, name_.c_str());
  }
}

void Memory::note(Cell& cell, size_t offset, uint8_t mask, Access kind, const Actor& actor) {
  const Clock& clock = *actor.clock;
  size_t kept = 0;
  for (size_t i = 0; i < cell.records.size(); ++i) {
    const Record& record = cell.records[i];
    const bool ordered = clock.after(record.block, record.thread, record.time);
    if (!ordered && (record.mask & mask) != 0 && conflict(record.kind, kind)) {
      fail(actor.at, "race: %s of byte %zu of %s is not ordered with the %s by block %u thread %u at %s:%u", verb(kind),
           offset, name_.c_str(), verb(record.kind), record.block, record.thread, record.at.file_name(),
           static_cast<unsigned>(record.at.line()));
    }
    if (kind == Access::kAsyncRead && record.kind == Access::kWrite && (record.mask & mask) != 0) {
      checkProxy(record, offset, actor);
    }
    const bool covered = (record.mask & ~mask) == 0 && (record.kind == kind || writes(kind));
    if (!(ordered && covered)) cell.records[kept++] = record;
  }
  cell.records.resize(kept);
  cell.records.push_back({clock.block, clock.thread, clock.time, kind, mask, actor.at});
}

// What threads wrote is seen by the asynchronous proxy only after a fence by the writer, itself ordered before the
// read.
void Memory::checkProxy(const Record& record, size_t offset, const Actor& actor) const {
  const auto& fences = self().block->threads[record.thread].proxyFences;
  const auto fence = std::lower_bound(fences.begin(), fences.end(), record.time);
  if (fence != fences.end() && actor.clock->after(record.block, record.thread, *fence)) return;
  fail(actor.at, "byte %zu of %s was written by thread %u at %s:%u, which no proxy fence shows to wgmma", offset,
       name_.c_str(), record.thread, record.at.file_name(), static_cast<unsigned>(record.at.line()));
}

void Memory::access(Access kind, size_t offset, size_t count, const Actor& actor) {
  checkRange(offset, count, actor);
  for (size_t index = offset / kCell; index * kCell < offset + count; ++index) {
    Cell& cell = cells_[index];
    const uint8_t mask = maskOf(index, offset, count);
    if ((cell.flying & mask) != 0) {
      fail(actor.at, "%s of byte %zu of %s, to which an asynchronous copy is under way", verb(kind), index * kCell,
           name_.c_str());
    }
    if (!writes(kind) && (~cell.written & mask) != 0) {
      fail(actor.at, "%s of byte %zu of %s, which was never written", verb(kind), index * kCell, name_.c_str());
    }
    note(cell, index * kCell, mask, kind, actor);
    if (!reads(kind)) cell.written |= mask;
  }
}

void Memory::beginCopy(Access kind, size_t offset, size_t count, const Actor& actor) {
  checkRange(offset, count, actor);
  for (size_t index = offset / kCell; index * kCell < offset + count; ++index) {
    Cell& cell = cells_[index];
    const uint8_t mask = maskOf(index, offset, count);
    if ((cell.flying & mask) != 0) {
      fail(actor.at, "two asynchronous copies to byte %zu of %s at a time", index * kCell, name_.c_str());
    }
    note(cell, index * kCell, mask, kind, actor);
    cell.flying |= mask;
  }
}

void Memory::endCopy(Access kind, size_t offset, size_t count, const Actor& actor) {
  for (size_t index = offset / kCell; index * kCell < offset + count; ++index) {
    Cell& cell = cells_[index];
    const uint8_t mask = maskOf(index, offset, count);
    cell.flying &= static_cast<uint8_t>(~mask);
    cell.written |= mask;
    note(cell, index * kCell, mask, kind, actor);
  }
}

}  // namespace tsq::emulation
