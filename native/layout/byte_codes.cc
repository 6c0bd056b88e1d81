#include "layout/byte_codes.h"

#include <algorithm>
#include <atomic>
#include <string>

#include "runtime/thread_pool.h"

namespace tsq::layout {
namespace {

constexpr int64_t kTask = int64_t{1} << 18;  // codes of a task; even

// fn(begin, end) over blocks of `count` codes, all of which have to be below 2^bits.
template <typename F>
Status forCodes(const uint8_t* codes, int64_t count, int bits, F&& fn) {
  std::atomic<bool> valid{true};
  ThreadPool::instance().run((count + kTask - 1) / kTask, [&](int64_t task, int) {
    const int64_t begin = task * kTask, end = std::min(count, begin + kTask);
    if (seenBits(codes + begin, end - begin) >> bits != 0) valid.store(false, std::memory_order_relaxed);
    fn(begin, end);
  });
  if (valid.load()) return {};
  for (int64_t i = 0; i < count; ++i) {
    if (codes[i] >> bits != 0)
      return Status(Code::kFormat, "code " + std::to_string(codes[i]) + " at element " + std::to_string(i) +
                                       " does not fit " + std::to_string(bits) + " bits");
  }
  return Status(Code::kFormat, "a code changed while it was being packed; do not write to the codes during the call");
}

}  // namespace

uint8_t seenBits(const uint8_t* codes, int64_t count) {
  uint8_t seen = 0;
  for (int64_t i = 0; i < count; ++i) seen |= codes[i];
  return seen;
}

void fromSigned(const uint8_t* bytes, int64_t count, int bits, uint8_t* codes) {
  const auto zero = static_cast<uint8_t>(1 << (bits - 1));
  for (int64_t i = 0; i < count; ++i) codes[i] = static_cast<uint8_t>(bytes[i] + zero);
}

void unpackNibbles(const uint8_t* bytes, int64_t first, int64_t count, bool highFirst, uint8_t* codes) {
  if (count == 0) return;
  const int even = highFirst ? 4 : 0, odd = 4 - even;
  bytes += first / 2;
  if (first % 2 != 0) {
    *codes++ = *bytes++ >> odd & 15;
    --count;
  }
  for (int64_t i = 0; i < count / 2; ++i) {
    codes[2 * i] = bytes[i] >> even & 15;
    codes[2 * i + 1] = bytes[i] >> odd & 15;
  }
  if (count % 2 != 0) codes[count - 1] = bytes[count / 2] >> even & 15;
}

Status toSigned(const uint8_t* codes, int64_t count, int bits, uint8_t* out) {
  const auto zero = static_cast<uint8_t>(1 << (bits - 1));
  return forCodes(codes, count, bits, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) out[i] = static_cast<uint8_t>(codes[i] - zero);
  });
}

Status packNibbles(const uint8_t* codes, int64_t count, bool highFirst, uint8_t* out) {
  const int even = highFirst ? 4 : 0, odd = 4 - even;
  return forCodes(codes, count, 4, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i + 1 < end; i += 2)
      out[i / 2] = static_cast<uint8_t>((codes[i] & 15) << even | (codes[i + 1] & 15) << odd);
    if ((end - begin) % 2 != 0) out[end / 2] = static_cast<uint8_t>((codes[end - 1] & 15) << even);
  });
}

}  // namespace tsq::layout
