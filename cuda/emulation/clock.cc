#include "cuda/emulation/clock.h"

#include <algorithm>

namespace tsq::emulation {
namespace {

Row joinRows(const Row& a, const Row& b) {
  if (a == b || b == nullptr) return a;
  if (a == nullptr) return b;
  auto joined = std::make_shared<std::vector<uint32_t>>(*a);
  for (size_t i = 0; i < joined->size(); ++i) (*joined)[i] = std::max((*joined)[i], (*b)[i]);
  return joined;
}

}  // namespace

Seen join(const Seen& a, const Seen& b) {
  if (a == b || b == nullptr) return a;
  if (a == nullptr) return b;
  auto joined = std::make_shared<std::vector<Row>>(std::max(a->size(), b->size()));
  for (size_t i = 0; i < joined->size(); ++i) {
    (*joined)[i] = joinRows(i < a->size() ? (*a)[i] : nullptr, i < b->size() ? (*b)[i] : nullptr);
  }
  return joined;
}

Seen meet(const std::vector<Clock*>& clocks, uint32_t blockThreads) {
  const uint32_t block = clocks.front()->block;
  Seen seen, last;
  for (const Clock* clock : clocks) {
    if (clock->seen != last) seen = join(seen, clock->seen);
    last = clock->seen;
  }
  auto table = seen ? std::make_shared<std::vector<Row>>(*seen) : std::make_shared<std::vector<Row>>();
  if (table->size() <= block) table->resize(block + 1);
  const Row& old = (*table)[block];
  auto row =
      old ? std::make_shared<std::vector<uint32_t>>(*old) : std::make_shared<std::vector<uint32_t>>(blockThreads);
  for (Clock* clock : clocks) (*row)[clock->thread] = clock->time++;
  (*table)[block] = std::move(row);
  for (Clock* clock : clocks) clock->seen = table;
  return table;
}

Seen release(Clock& clock, uint32_t blockThreads) {
  return meet({&clock}, blockThreads);
}

}  // namespace tsq::emulation
