// Reading weights from memory. Include after an instruction set's words.h.
#pragma once
#include <cstdint>

#include "runtime/scalar.h"

namespace tsq {
namespace {

// Bytes ahead of the line in use: to the second-level cache early, which starts the processor's own fetching of the
// next page too, and to the first level shortly before. Either alone is slower by 3 to 10 % (Granite Rapids, one and
// two threads), and so is asking for more than 4 KiB.
constexpr int64_t kFetchFar = 3072, kFetchNear = 512;

// Where to fetch while panels side by side are read, each from its begin to its end.
struct Ahead {
  int64_t far = kFetchFar, near = kFetchNear;
  Ahead() = default;
  // offset: of the line in use in its panel of `bytes` bytes. A panel's successor is the next one that no other of the
  // streams reads.
  TSQ_METHOD Ahead(int64_t offset, int64_t bytes, int streams) {
    const int64_t skipped = (streams - 1) * bytes;
    if (offset + far >= bytes) far += skipped;
    if (offset + near >= bytes) near += skipped;
  }
  TSQ_METHOD void fetch(const uint8_t* line) const {
    prefetchFar(line + far);
    prefetch(line + near);
  }
};

}  // namespace
}  // namespace tsq
