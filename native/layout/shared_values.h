// Values (scales, zero points) that several rows or groups of a weight share: each once, as files have them, and one
// for every row and group.
#pragma once
#include <cstdint>

#include "runtime/status.h"

namespace tsq::layout {

// Who shares. runLength > 0: runs of so many elements of the row-major matrix, of which a group lies in one. Otherwise
// blocks of `blockRows` rows in one group.
struct Sharing {
  int64_t n, k;
  int64_t groupSize;  // columns
  int64_t blockRows;
  int64_t runLength;
};

constexpr int64_t groupsOf(const Sharing& s) {
  return (s.k + s.groupSize - 1) / s.groupSize;
}
// Values stored.
constexpr int64_t storedCount(const Sharing& s) {
  if (s.runLength > 0) return (s.n * s.k + s.runLength - 1) / s.runLength;
  return (s.n + s.blockRows - 1) / s.blockRows * groupsOf(s);
}

// kOption where sizes are not positive, or a run ends within a group.
Status checkSharing(const Sharing& sharing);

// out [n, groups] of stored [storedCount]. T: uint8_t, uint32_t. Threaded.
template <typename T>
void expandShared(const T* stored, const Sharing& sharing, T* out);

// The inverse: whether all that share agree, bit for bit. Only then `stored` is complete. Threaded.
template <typename T>
bool collapseShared(const T* values, const Sharing& sharing, T* stored);

}  // namespace tsq::layout
