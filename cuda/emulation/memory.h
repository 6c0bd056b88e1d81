// A piece of emulated memory, the shared memory of a block or a buffer of the device, with a shadow that knows of every
// byte whether it was ever written, whether an asynchronous copy to it is under way, and who touched it last.
#pragma once
#include <cstddef>
#include <cstdint>
#include <source_location>
#include <string>
#include <vector>

#include "cuda/emulation/clock.h"

namespace tsq::emulation {

using Place = std::source_location;

// Who performs an access, and the line of the kernel that asked for it.
struct Actor {
  const Clock* clock;
  Place at;
};

// kAsyncWrite: by a bulk copy, kAsyncRead: by an asynchronous product. These go through another proxy of memory.
enum class Access : uint8_t { kRead, kWrite, kAtomic, kAsyncRead, kAsyncWrite };

class Memory {
 public:
  // Borrows `bytes`. Memory that the host filled is `initialised`.
  Memory(std::string name, void* bytes, size_t size, bool initialised);

  const std::string& name() const { return name_; }
  size_t size() const { return size_; }
  char* bytes() const { return bytes_; }

  // One access of `count` bytes: fails the launch where it is out of bounds or misaligned, reads what was never
  // written or has not arrived, or is not ordered with an earlier access that it conflicts with.
  void access(Access kind, size_t offset, size_t count, const Actor& actor);
  // The two ends of an asynchronous copy: between them nobody may touch the bytes.
  void beginCopy(Access kind, size_t offset, size_t count, const Actor& actor);
  void endCopy(Access kind, size_t offset, size_t count, const Actor& actor);
  // Everything so far is ordered before what follows: a launch ended.
  void forgetAccesses();
  void setInitialised(bool initialised);
  bool initialised(size_t offset) const;

 private:
  // An access that later ones may conflict with; one that a later access of the same bytes is ordered after, and
  // whose conflicts it takes over, is dropped.
  struct Record {
    uint32_t block, thread, time;
    Access kind;
    uint8_t mask;  // bytes of the cell
    Place at;
  };
  struct Cell {  // four bytes
    uint8_t written = 0, flying = 0;
    std::vector<Record> records;
  };

  void checkProxy(const Record& record, size_t offset, const Actor& actor) const;
  void checkRange(size_t offset, size_t count, const Actor& actor) const;
  void note(Cell& cell, size_t offset, uint8_t mask, Access kind, const Actor& actor);

  std::string name_;
  char* bytes_;
  size_t size_;
  std::vector<Cell> cells_;
};

}  // namespace tsq::emulation
