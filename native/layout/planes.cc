#include "layout/planes.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <type_traits>

#include "layout/bit_words.h"
#include "runtime/thread_pool.h"

namespace tsq::layout {
namespace {

// Codes that one task handles, in whole rows.
constexpr int64_t kTaskCodes = 1 << 16;

template <typename F>
void forRows(int64_t rows, int64_t cols, F&& fn) {
  const int64_t block = std::max<int64_t>(1, kTaskCodes / std::max<int64_t>(1, cols));
  auto task = [&](int64_t index, int) {
    for (int64_t row = index * block; row < std::min(rows, (index + 1) * block); ++row) fn(row);
  };
  ThreadPool::instance().run((rows + block - 1) / block, task);
}

// 32 codes, eight to a word, into the kWidth words of a plane or out of them.
template <int kWidth>
void packPlane(const uint64_t (&codes)[4], int offset, uint8_t* plane) {
  for (int i = 0; i < 4; ++i) {
    const uint64_t word = gather<kWidth>(codes[i] >> offset & kLowBits<kWidth, 8>);
    std::memcpy(plane + i * kWidth, &word, kWidth);
  }
}
template <int kWidth>
void unpackPlane(const uint8_t* plane, int offset, uint64_t (&codes)[4]) {
  for (int i = 0; i < 4; ++i) {
    uint64_t word = 0;
    std::memcpy(&word, plane + i * kWidth, kWidth);
    codes[i] |= (spread<kWidth>(word) & kLowBits<kWidth, 8>) << offset;
  }
}

// Calls fn(width as a constant, offset) for every plane.
template <typename F>
void forPlanes(int bits, F&& fn) {
  for (int offset = 0; offset < bits; offset += planeWidth(bits, offset)) {
    const int width = planeWidth(bits, offset);
    if (width == 8) fn(std::integral_constant<int, 8>(), offset);
    if (width == 4) fn(std::integral_constant<int, 4>(), offset);
    if (width == 2) fn(std::integral_constant<int, 2>(), offset);
    if (width == 1) fn(std::integral_constant<int, 1>(), offset);
  }
}

}  // namespace

Status packPlanes(const uint8_t* codes, int64_t rows, int64_t cols, int bits, int32_t* words) {
  std::atomic<bool> fits{true};
  forRows(rows, cols, [&](int64_t row) {
    uint64_t seen = 0;
    for (int64_t at = 0; at < cols; at += 32) {
      uint64_t block[4];
      std::memcpy(block, codes + row * cols + at, 32);
      for (const uint64_t eight : block) seen |= eight;
      auto* out = reinterpret_cast<uint8_t*>(words + (row * cols + at) / 32 * bits);
      forPlanes(bits, [&](auto width, int offset) { packPlane<width()>(block, offset, out + 4 * offset); });
    }
    // Eight bytes, of which none has a bit above.
    if ((seen & ~(0x0101010101010101u * ((uint64_t{1} << bits) - 1))) != 0) fits = false;
  });
  if (fits) return {};
  return {Code::kFormat, "packPlanes: a code is not below " + std::to_string(1 << bits)};
}

void unpackPlanes(const int32_t* words, int64_t rows, int64_t cols, int bits, uint8_t* codes) {
  forRows(rows, cols, [&](int64_t row) {
    for (int64_t at = 0; at < cols; at += 32) {
      uint64_t block[4] = {};
      const auto* in = reinterpret_cast<const uint8_t*>(words + (row * cols + at) / 32 * bits);
      forPlanes(bits, [&](auto width, int offset) { unpackPlane<width()>(in + 4 * offset, offset, block); });
      std::memcpy(codes + row * cols + at, block, 32);
    }
  });
}

}  // namespace tsq::layout
