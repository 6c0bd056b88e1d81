// What sm_90 adds: barriers that count arrivals and bytes (mbarrier), bulk copies that report to them, and products of
// a warpgroup that run behind the back of the threads (wgmma).
#pragma once
#include <cstddef>
#include <cstdint>
#include <deque>
#include <source_location>
#include <vector>

#include "cuda/emulation/clock.h"
#include "cuda/types.cuh"

namespace tsq::emulation {

class Memory;
struct Thread;

// cp.async.bulk of one dimension.
struct BulkCopy {
  Memory* from;
  size_t fromOffset;
  uint32_t toOffset, bytes;
  Clock issuer;    // as it was at the issue
  Seen published;  // what a thread that waits for the copy has seen
  std::source_location at;
};

// PTX ISA, mbarrier: a phase ends when all arrivals of it have come and as many bytes as were announced.
struct CountedBarrier {
  int expected = 0, pending = 0;
  int64_t bytes = 0;
  uint32_t phase = 0;
  Seen published, complete;  // by the arrivals of this phase; of all that ended
  std::vector<BulkCopy> copies;
};

// One wgmma of this thread, with A from its registers. Registers and shared memory are read, and sums written, when
// the thread waits; until then the sums are NaN, or the same bits as integers.
struct AsyncProduct {
  cuda::Type type;
  int columns;
  void* sums;  // float, or int32_t for s8: columns / 2 of them
  const uint32_t* a;
  uint64_t descriptor;
  bool adds;                     // to the sums, or else begins at zero
  std::vector<uint32_t> before;  // sums at the issue; empty while an earlier product still works on them
  std::source_location at;
};

struct AsyncProducts {
  bool fenced = false;
  int issued = 0;
  std::vector<AsyncProduct> open;
  std::deque<std::vector<AsyncProduct>> groups;
};

void initBarrier(uint32_t barrier, int arrivals, const std::source_location& at);
// One arrival, after announcing this many bytes.
void arriveAt(uint32_t barrier, int bytes, const std::source_location& at);
// Until the phase with this parity has ended.
void waitForPhase(uint32_t barrier, uint32_t parity, const std::source_location& at);
void issueBulkCopy(uint32_t to, const void* from, int bytes, uint32_t barrier, const std::source_location& at);

void proxyFence();
void fenceProducts();
// m64nNk16, or k32 for operands of 8 bits: a[4], B [columns][k] in shared memory by descriptor.
void issueProduct(const AsyncProduct& product);
void commitProducts();
void waitProducts(size_t left, const std::source_location& at);

// Nothing is under way where a thread ends, and the warps of a warpgroup issued the same products.
void checkAtEnd(const Thread& thread);

}  // namespace tsq::emulation
