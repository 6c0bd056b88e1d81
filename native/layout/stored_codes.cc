#include "layout/stored_codes.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>

#include "layout/bit_words.h"
#include "layout/bits.h"
#include "layout/byte_codes.h"
#include "runtime/thread_pool.h"

namespace tsq::layout {
namespace {

// Rows that are taken from a layout which runs across them: a cache line of its words.
constexpr int64_t kRowBlock = 16;
// Codes of a row that are taken at a time: whole words at every width.
constexpr int64_t kChunk = 512;

// A row's words are brought together, some at a time, and unpacked as a row of kRows.
void unpackColumns(const StoredCodes& stored, int64_t first, int64_t rows, uint8_t* codes) {
  constexpr int64_t kWords = kChunk * 8 / 32;
  uint32_t streams[kRowBlock][kWords];
  const UnpackRow unpack = unpackRowOf(stored.bits);
  for (int64_t column = 0; column < stored.k; column += kChunk) {
    const int64_t count = std::min(kChunk, stored.k - column), words = rowWords(count, stored.bits);
    const uint8_t* source = stored.data + (column / 32 * stored.bits * stored.n + first) * 4;
    for (int64_t word = 0; word < words; ++word, source += stored.n * 4) {
      for (int64_t row = 0; row < rows; ++row) std::memcpy(&streams[row][word], source + row * 4, 4);
    }
    for (int64_t row = 0; row < rows; ++row) {
      unpack(reinterpret_cast<const uint8_t*>(streams[row]), count, false, 0, codes + row * stored.k + column);
    }
  }
}

// Eight columns of eight rows at a time. A block of rows may begin or end within a word: only [first, first + rows) is
// kept.
void unpackAwq(const StoredCodes& stored, int64_t first, int64_t rows, uint8_t* codes) {
  const int64_t stride = stored.n / 2;
  for (int64_t word = first / 8; word * 8 < first + rows; ++word) {
    const int64_t begin = std::max(first, word * 8), end = std::min(first + rows, word * 8 + 8);
    for (int64_t column = 0; column < stored.k; column += 8) {
      const int64_t count = std::min<int64_t>(8, stored.k - column);
      uint64_t square[8] = {};
      for (int64_t i = 0; i < count; ++i) {
        uint32_t packed;
        std::memcpy(&packed, stored.data + (column + i) * stride + word * 4, 4);
        square[i] = spread<4>(fromAwqOrder(packed));
      }
      transposeWords<8>(square);
      for (int64_t row = begin; row < end; ++row) {
        std::memcpy(codes + (row - first) * stored.k + column, &square[row % 8], static_cast<size_t>(count));
      }
    }
  }
}

}  // namespace

Status checkStoredCodes(const StoredCodes& stored) {
  if (stored.bits < 2 || stored.bits > 8)
    return Status(Code::kOption, "bits is " + std::to_string(stored.bits) + ", expected 2 to 8");
  if (stored.layout == CodeLayout::kAwq && (stored.bits != 4 || stored.n % 8 != 0))
    return Status(Code::kOption, "AWQ's layout needs 4 bits and rows in multiples of 8, found " +
                                     std::to_string(stored.bits) + " bits and " + std::to_string(stored.n) + " rows");
  if ((stored.layout == CodeLayout::kNibbles || stored.layout == CodeLayout::kNibblesHigh) && stored.bits != 4)
    return Status(Code::kOption, "two codes a byte have 4 bits each, found " + std::to_string(stored.bits) + " bits");
  return {};
}

int64_t storedBytes(const StoredCodes& stored) {
  switch (stored.layout) {
    case CodeLayout::kBytes:
    case CodeLayout::kSigned:
      return stored.n * stored.k;
    case CodeLayout::kNibbles:
    case CodeLayout::kNibblesHigh:
      return (stored.n * stored.k + 1) / 2;
    case CodeLayout::kAwq:
      return stored.k * (stored.n / 2);
    default:
      return stored.n * rowWords(stored.k, stored.bits) * 4;
  }
}

void unpackRows(const StoredCodes& stored, int64_t first, int64_t rows, uint8_t* codes) {
  switch (stored.layout) {
    case CodeLayout::kBytes:
      std::memcpy(codes, stored.data + first * stored.k, static_cast<size_t>(rows * stored.k));
      return;
    case CodeLayout::kRows: {
      const int64_t stride = rowWords(stored.k, stored.bits) * 4;
      const UnpackRow unpack = unpackRowOf(stored.bits);
      for (int64_t row = 0; row < rows; ++row) {
        unpack(stored.data + (first + row) * stride, stored.k, false, 0, codes + row * stored.k);
      }
      return;
    }
    case CodeLayout::kColumns:
      for (int64_t row = 0; row < rows; row += kRowBlock) {
        unpackColumns(stored, first + row, std::min(kRowBlock, rows - row), codes + row * stored.k);
      }
      return;
    case CodeLayout::kAwq:
      return unpackAwq(stored, first, rows, codes);
    case CodeLayout::kSigned:
      return fromSigned(stored.data + first * stored.k, rows * stored.k, stored.bits, codes);
    case CodeLayout::kNibbles:
    case CodeLayout::kNibblesHigh:
      return unpackNibbles(stored.data, first * stored.k, rows * stored.k, stored.layout == CodeLayout::kNibblesHigh,
                           codes);
  }
}

Status unpackCodes(const StoredCodes& stored, uint8_t* codes) {
  TSQ_RETURN_IF_ERROR(checkStoredCodes(stored));
  std::atomic<bool> valid{true};
  ThreadPool::instance().run((stored.n + kRowBlock - 1) / kRowBlock, [&](int64_t block, int) {
    const int64_t first = block * kRowBlock, rows = std::min(kRowBlock, stored.n - first);
    unpackRows(stored, first, rows, codes + first * stored.k);
    if (stored.layout != CodeLayout::kSigned) return;
    if (seenBits(codes + first * stored.k, rows * stored.k) >> stored.bits != 0) valid.store(false);
  });
  return valid.load() ? Status() : invalidCode(stored);
}

Status invalidCode(const StoredCodes& stored) {
  const int zero = stored.layout == CodeLayout::kSigned ? 1 << (stored.bits - 1) : 0, most = (1 << stored.bits) - 1;
  for (int64_t i = 0; i < stored.n * stored.k; ++i) {
    const int byte = zero == 0 ? stored.data[i] : static_cast<int8_t>(stored.data[i]);
    if (byte + zero < 0 || byte + zero > most)
      return Status(Code::kFormat, "code at [" + std::to_string(i / stored.k) + ", " + std::to_string(i % stored.k) +
                                       "] is " + std::to_string(byte) + ", expected " + std::to_string(-zero) + " to " +
                                       std::to_string(most - zero) + " for " + std::to_string(stored.bits) +
                                       "-bit codes");
  }
  return Status(Code::kFormat, "a code changed while it was being read; do not write to the tensor during the call");
}

}  // namespace tsq::layout
