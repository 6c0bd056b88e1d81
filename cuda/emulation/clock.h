// Vector clocks: which actions of which threads happened before a thread's next action.
//
// Blocks of hundreds of threads meet at every barrier, so the clocks share their parts: what has been seen is an
// immutable table of rows, one row a block, and after a barrier all threads of a block hold the same one.
// (Happens-before by vector clocks: L. Lamport 1978, F. Mattern 1989; per-access epochs: Flanagan and Freund 2009.)
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

namespace tsq::emulation {

using Row = std::shared_ptr<const std::vector<uint32_t>>;  // the latest known time of every thread of a block
using Seen = std::shared_ptr<const std::vector<Row>>;      // by block; a missing row or table knows nothing

Seen join(const Seen& a, const Seen& b);

struct Clock {
  uint32_t block = 0, thread = 0;  // whose
  uint32_t time = 1;               // of its next action
  Seen seen;                       // of others

  bool after(uint32_t otherBlock, uint32_t otherThread, uint32_t otherTime) const {
    if (otherBlock == block && otherThread == thread) return true;
    if (seen == nullptr || otherBlock >= seen->size() || (*seen)[otherBlock] == nullptr) return false;
    return (*(*seen)[otherBlock])[otherThread] >= otherTime;
  }
};

// All actions so far of every one of `clocks` (threads of one block of `blockThreads`) come before what any of them
// does next. The result is what all of them have then seen.
Seen meet(const std::vector<Clock*>& clocks, uint32_t blockThreads);
// What a release by this thread publishes; its later actions are not part of it.
Seen release(Clock& clock, uint32_t blockThreads);

}  // namespace tsq::emulation
