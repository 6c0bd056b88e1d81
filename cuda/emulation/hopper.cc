#include "cuda/emulation/hopper.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cuda/emulation/collective.h"
#include "cuda/emulation/tensor_core.h"

namespace tsq::emulation {
namespace {

constexpr int kWarpgroup = 128;

Memory& shared() {
  return self().block->shared;
}

CountedBarrier& find(uint32_t barrier, const Place& at) {
  auto& all = self().block->counted;
  const auto found = all.find(barrier);
  if (found == all.end()) fail(at, "no barrier was initialised at byte %u of shared memory", barrier);
  return found->second;
}

void endPhase(CountedBarrier& barrier) {
  if (barrier.pending > 0 || barrier.bytes > 0) return;
  barrier.pending = barrier.expected;
  barrier.complete = join(barrier.complete, barrier.published);
  barrier.published = nullptr;
  ++barrier.phase;
}

void deliver(CountedBarrier& barrier) {
  while (!barrier.copies.empty()) {
    const BulkCopy& copy = barrier.copies.back();
    std::memcpy(shared().bytes() + copy.toOffset, copy.from->bytes() + copy.fromOffset, copy.bytes);
    shared().endCopy(Access::kAsyncWrite, copy.toOffset, copy.bytes, {&copy.issuer, copy.at});
    barrier.bytes -= copy.bytes;
    barrier.published = join(barrier.published, copy.published);
    barrier.copies.pop_back();
  }
  endPhase(barrier);
}

// PTX ISA, matrix descriptor: address bits 0-13, stride between groups of eight rows bits 32-45, both without their
// four lowest bits; layout bits 62-63, of which 1 is the permutation of 128-byte rows: bits 4-6 of an address are
// combined with bits 7-9.
uint32_t addressIn(uint64_t descriptor, int row, int byte) {
  const auto start = static_cast<uint32_t>(descriptor & 0x3fff) << 4;
  const auto stride = static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4;
  const uint32_t linear = start + static_cast<uint32_t>(row / 8) * stride + static_cast<uint32_t>(row % 8 * 128 + byte);
  return linear ^ (linear >> 7 & 7) << 4;
}

void readOperand(const AsyncProduct& product, const Place& at) {
  if (self().index % kWarp != 0) return;  // one lane stands for the warp
  for (int row = 0; row < product.columns; ++row) {
    for (int half = 0; half < 2; ++half) {
      shared().access(Access::kAsyncRead, addressIn(product.descriptor, row, half * 16), 16, actor(at));
    }
  }
}

// Of a warp, which has 16 of the 64 rows: fragments as in mma, column block by column block. kPerWord elements are
// neighbours along k in a register.
template <int kPerWord, typename Sum>
void execute(void* const* lanes) {
  constexpr int kDepth = 8 * kPerWord, kBytes = 4 / kPerWord;
  const AsyncProduct& first = *static_cast<AsyncProduct*>(lanes[0]);
  Sum a[16][kDepth];
  for (int lane = 0; lane < kWarp; ++lane) {
    const AsyncProduct& product = *static_cast<AsyncProduct*>(lanes[lane]);
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < kPerWord; ++j) {
        a[lane / 4 + i % 2 * 8][kPerWord * (lane % 4 + i / 2 * 4) + j] =
            static_cast<Sum>(element(product.type, product.a[i], j));
      }
    }
  }
  for (int column = 0; column < first.columns; ++column) {
    Sum b[kDepth];
    for (int k = 0; k < kDepth; ++k) {
      uint32_t bits = 0;
      std::memcpy(&bits, shared().bytes() + addressIn(first.descriptor, column, k * kBytes), kBytes);
      b[k] = static_cast<Sum>(element(first.type, bits, 0));
    }
    for (int row = 0; row < 16; ++row) {
      Sum sum = 0;
      for (int k = 0; k < kDepth; ++k) sum += a[row][k] * b[k];
      const int lane = row % 8 * 4 + column % 8 / 2, index = column / 8 * 4 + row / 8 * 2 + column % 2;
      const AsyncProduct& product = *static_cast<AsyncProduct*>(lanes[lane]);
      Sum& to = static_cast<Sum*>(product.sums)[index];
      to = product.adds ? to + sum : sum;
    }
  }
  ++machine().outcome().products;
}

void poison(AsyncProduct& product) {
  const auto count = static_cast<size_t>(product.columns / 2);
  product.before.resize(count);
  std::memcpy(product.before.data(), product.sums, count * 4);
  const std::vector<uint32_t> nans(count, 0x7fc00000u);
  std::memcpy(product.sums, nans.data(), count * 4);
}

// The next product under way on the same sums, if any.
AsyncProduct* successor(AsyncProducts& all, const void* sums, const AsyncProduct* after) {
  bool passed = after == nullptr;
  const auto search = [&](std::vector<AsyncProduct>& group) -> AsyncProduct* {
    for (AsyncProduct& product : group) {
      if (passed && product.sums == sums) return &product;
      passed = passed || &product == after;
    }
    return nullptr;
  };
  for (auto& group : all.groups) {
    if (AsyncProduct* found = search(group)) return found;
  }
  return search(all.open);
}

}  // namespace

void initBarrier(uint32_t barrier, int arrivals, const Place& at) {
  shared().access(Access::kWrite, barrier, 8, actor(at));
  CountedBarrier fresh;
  fresh.expected = fresh.pending = arrivals;
  self().block->counted[barrier] = fresh;
}

void arriveAt(uint32_t barrier, int bytes, const Place& at) {
  machine().suspend(State::kReady, "an arrival", at);
  CountedBarrier& counted = find(barrier, at);
  // Whoever arrives must know that the barrier was initialised; arrivals themselves need no order.
  shared().access(Access::kAtomic, barrier, 8, actor(at));
  if (counted.pending == 0) fail(at, "more arrivals at a barrier than its %d in one phase", counted.expected);
  --counted.pending;
  counted.bytes += bytes;
  counted.published = join(counted.published, release(self().clock, static_cast<uint32_t>(machine().launch().threads)));
  endPhase(counted);
}

void waitForPhase(uint32_t barrier, uint32_t parity, const Place& at) {
  shared().access(Access::kAtomic, barrier, 8, actor(at));
  for (;;) {
    CountedBarrier& counted = find(barrier, at);
    if (counted.phase % 2 == parity && counted.pending == 0) deliver(counted);
    if (counted.phase % 2 != parity) break;
    machine().suspend(State::kPolling, "the phase of a counted barrier", at);
  }
  self().clock.seen = join(self().clock.seen, find(barrier, at).complete);
}

void issueBulkCopy(uint32_t to, const void* from, int bytes, uint32_t barrier, const Place& at) {
  CountedBarrier& counted = find(barrier, at);
  if (bytes <= 0 || bytes % 16 != 0 || to % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0) {
    fail(at, "bulk copies move whole 16 bytes, aligned: %d bytes from %p to byte %u", bytes, from, to);
  }
  size_t offset;
  Memory& source = findBuffer(from, &offset, at);
  for (int i = 0; i < bytes; i += 16) source.access(Access::kRead, offset + static_cast<size_t>(i), 16, actor(at));
  shared().beginCopy(Access::kAsyncWrite, to, static_cast<size_t>(bytes), actor(at));
  counted.copies.push_back({&source, offset, to, static_cast<uint32_t>(bytes), self().clock, nullptr, at});
  counted.copies.back().published = release(self().clock, static_cast<uint32_t>(machine().launch().threads));
  ++machine().outcome().copies;
  if (machine().launch().copies == Copies::kEager) deliver(counted);
}

void proxyFence() {
  self().proxyFences.push_back(self().clock.time);
}

void fenceProducts() {
  self().products.fenced = true;
}

void issueProduct(const AsyncProduct& product) {
  AsyncProducts& mine = self().products;
  const Place& at = product.at;
  if (!mine.fenced) fail(at, "wgmma reads registers that no wgmma.fence has ordered since the last group");
  if (product.descriptor >> 62 != 1) fail(at, "only operands in rows of 128 permuted bytes are emulated");
  collective(
      "wgmma", kAllLanes, &mine, [](void* const*) {}, at);
  AsyncProduct* earlier = successor(mine, product.sums, nullptr);
  mine.open.push_back(product);
  if (earlier == nullptr) poison(mine.open.back());
  readOperand(mine.open.back(), at);
  ++mine.issued;
}

void commitProducts() {
  AsyncProducts& mine = self().products;
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
  mine.fenced = false;
}

void waitProducts(size_t left, const Place& at) {
  AsyncProducts& mine = self().products;
  for (; mine.groups.size() > left; mine.groups.pop_front()) {
    for (AsyncProduct& product : mine.groups.front()) {
      std::memcpy(product.sums, product.before.data(), product.before.size() * 4);
      readOperand(product, at);
      const auto compute = product.type == cuda::Type::kS8     ? execute<4, int32_t>
                           : product.type == cuda::Type::kE4M3 ? execute<4, float>
                                                               : execute<2, float>;
      collective("wgmma", kAllLanes, &product, compute, at);
      if (AsyncProduct* next = successor(mine, product.sums, &product)) poison(*next);
    }
  }
}

void checkAtEnd(const Thread& thread) {
  const AsyncProducts& mine = thread.products;
  if (!mine.open.empty()) fail(mine.open.front().at, "a thread ends before it committed this product");
  for (const auto& group : mine.groups) {
    if (!group.empty()) fail(group.front().at, "a thread ends before it waited for this product");
  }
  for (const auto& [offset, barrier] : thread.block->counted) {
    if (thread.block->running == 1 && !barrier.copies.empty()) {
      fail(barrier.copies.front().at, "a block ends before anybody waited for this copy");
    }
  }
  // Threads of a warpgroup that ended earlier must have issued as many.
  const int first = thread.index / kWarpgroup * kWarpgroup;
  const int last = std::min(first + kWarpgroup, machine().launch().threads);
  for (int i = first; i < last; ++i) {
    const Thread& other = thread.block->threads[static_cast<size_t>(i)];
    if (other.state == State::kEnded && other.products.issued != mine.issued) {
      fail(thread.at, "divergence: %d products, where thread %d of the warpgroup issued %d", mine.issued, i,
           other.products.issued);
    }
  }
}

}  // namespace tsq::emulation
