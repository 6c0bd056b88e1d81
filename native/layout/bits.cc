#include "layout/bits.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>

#include "layout/bit_words.h"
#include "runtime/thread_pool.h"

namespace tsq::layout {
namespace {

// Codes that one task handles, in whole rows.
constexpr int64_t kTaskCodes = 1 << 16;

// True when every code was < 2^bits. Codes that are not are cut off, so nothing depends on them being checked first.
template <int kBits>
bool packRow(const uint8_t* codes, const BitStream& stream, uint8_t* out) {
  constexpr uint64_t kMask = kLowBits<kBits, 8>;
  const uint64_t added = kLowBits<1, 8> * static_cast<uint64_t>(stream.add & ((1 << kBits) - 1));
  uint64_t seen = 0;
  const auto packed = [&](uint64_t bytes) {
    const uint64_t words = gather<kBits>(bytes & kMask);
    return kBits == 4 && stream.interleave ? toAwqOrder(static_cast<uint32_t>(words)) : words;
  };
  const int64_t whole = stream.cols / 8, rest = stream.cols % 8;
  for (int64_t i = 0; i < whole; ++i) {
    uint64_t bytes;
    std::memcpy(&bytes, codes + i * 8, 8);
    seen |= bytes;
    const uint64_t word = packed(addBytes(bytes, added));
    std::memcpy(out + i * kBits, &word, kBits);
  }
  // The last codes, and zeros up to the end of their word.
  uint64_t word = 0;
  if (rest > 0) {
    uint64_t bytes = 0;
    std::memcpy(&bytes, codes + whole * 8, static_cast<size_t>(rest));
    seen |= bytes;
    word = packed(addBytes(bytes, added) & ((uint64_t{1} << 8 * rest) - 1));
  }
  const int64_t left = 4 * rowWords(stream.cols, kBits) - whole * kBits;
  if (left > 0) std::memset(out + whole * kBits, 0, static_cast<size_t>(left));
  std::memcpy(out + whole * kBits, &word, static_cast<size_t>(std::min<int64_t>(left, kBits)));
  return (seen & ~kMask) == 0;
}

using PackRow = bool (*)(const uint8_t*, const BitStream&, uint8_t*);
constexpr PackRow kPackRow[] = {packRow<2>, packRow<3>, packRow<4>, packRow<5>, packRow<6>, packRow<7>, packRow<8>};
// Calls fn(row) for every row, in tasks of whole rows.
template <typename F>
void forRows(const BitStream& stream, F&& fn) {
  const int64_t rows = std::max<int64_t>(1, kTaskCodes / std::max<int64_t>(1, stream.cols));
  auto task = [&](int64_t index, int) {
    const int64_t end = std::min(stream.rows, (index + 1) * rows);
    for (int64_t row = index * rows; row < end; ++row) fn(row);
  };
  ThreadPool::instance().run((stream.rows + rows - 1) / rows, task);
}

// Tile edge: a row of a tile of 1-byte elements is a cache line, and a tile of 4-byte elements fits the first-level
// cache.
constexpr int64_t kTile = 64;

template <typename T, int kWrite>
inline void prefetchRow(const T* row) {
  for (int64_t i = 0; i < kTile; i += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(row + i, kWrite);
}

// A full tile. Rows are often a power of two apart, so that those of a tile share few cache sets: source lines are read
// once, few at a time, and output lines, gathered in a buffer, written once. Rows lie in different pages, which no
// hardware prefetcher crosses: the lines of the tile `ahead` rows further down are asked for here; 0 where there is
// none.
template <typename T>
void transposeTile(const T* __restrict source, int64_t cols, T* __restrict out, int64_t rows, int64_t ahead) {
  constexpr int kWord = 8 / sizeof(T);
  T tile[kTile * kTile];
  for (int64_t row = 0; row < kTile; row += kWord) {
    for (int i = 0; i < kWord; ++i) prefetchRow<T, 0>(source + (row + i + ahead) * cols);
    for (int64_t col = 0; col < kTile; col += kWord) {
      uint64_t words[kWord];
      for (int i = 0; i < kWord; ++i) std::memcpy(&words[i], source + (row + i) * cols + col, 8);
      transposeWords<8 * sizeof(T)>(words);
      for (int i = 0; i < kWord; ++i) std::memcpy(tile + (col + i) * kTile + row, &words[i], 8);
    }
  }
  for (int64_t col = 0; col < kTile; ++col) {
    std::memcpy(out + col * rows, tile + col * kTile, kTile * sizeof(T));
    prefetchRow<T, 1>(out + col * rows + ahead);
  }
}

template <typename T>
void transposeTiles(const T* __restrict source, int64_t rows, int64_t cols, T* __restrict out) {
  const int64_t tilesAcross = (cols + kTile - 1) / kTile, tilesDown = (rows + kTile - 1) / kTile;
  // One task: a strip of output rows, so that a task writes contiguous memory.
  auto task = [&](int64_t strip, int) {
    const int64_t colBegin = strip * kTile, colEnd = std::min(cols, colBegin + kTile);
    for (int64_t tile = 0; tile < tilesDown; ++tile) {
      const int64_t rowBegin = tile * kTile, rowEnd = std::min(rows, rowBegin + kTile);
      if (rowEnd - rowBegin == kTile && colEnd - colBegin == kTile) {
        const int64_t ahead = rowEnd + kTile <= rows ? kTile : 0;
        transposeTile(source + rowBegin * cols + colBegin, cols, out + colBegin * rows + rowBegin, rows, ahead);
      } else {
        for (int64_t col = colBegin; col < colEnd; ++col)
          for (int64_t row = rowBegin; row < rowEnd; ++row) out[col * rows + row] = source[row * cols + col];
      }
    }
  };
  ThreadPool::instance().run(tilesAcross, task);
}

}  // namespace

Status checkBitStream(const BitStream& stream) {
  if (stream.bits < 2 || stream.bits > 8)
    return Status(Code::kOption, "bits is " + std::to_string(stream.bits) + ", expected 2 to 8");
  if (stream.interleave && (stream.bits != 4 || stream.cols % 8 != 0))
    return Status(Code::kOption, "interleaving needs 4 bits and columns in multiples of 8, found " +
                                     std::to_string(stream.bits) + " bits and " + std::to_string(stream.cols) +
                                     " columns");
  return {};
}

Status packBits(const uint8_t* codes, const BitStream& stream, int32_t* words) {
  TSQ_RETURN_IF_ERROR(checkBitStream(stream));
  const int64_t stride = 4 * rowWords(stream.cols, stream.bits);
  const PackRow pack = kPackRow[stream.bits - 2];
  uint8_t* out = reinterpret_cast<uint8_t*>(words);
  std::atomic<int64_t> firstBad{stream.rows};
  forRows(stream, [&](int64_t row) {
    if (pack(codes + row * stream.cols, stream, out + row * stride)) return;
    int64_t known = firstBad.load(std::memory_order_relaxed);
    while (row < known && !firstBad.compare_exchange_weak(known, row, std::memory_order_relaxed)) continue;
  });
  const int64_t row = firstBad.load();
  if (row == stream.rows) return {};
  for (int64_t col = 0; col < stream.cols; ++col) {
    const int code = codes[row * stream.cols + col];
    if (code >> stream.bits != 0)
      return Status(Code::kFormat, "code " + std::to_string(code) + " at row " + std::to_string(row) + ", column " +
                                       std::to_string(col) + " does not fit " + std::to_string(stream.bits) + " bits");
  }
  return Status(Code::kFormat, "a code at row " + std::to_string(row) + " did not fit " + std::to_string(stream.bits) +
                                   " bits while it was packed: codes changed during the call");
}

Status unpackBits(const int32_t* words, const BitStream& stream, uint8_t* codes) {
  TSQ_RETURN_IF_ERROR(checkBitStream(stream));
  const int64_t stride = 4 * rowWords(stream.cols, stream.bits);
  const UnpackRow unpack = unpackRowOf(stream.bits);
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(words);
  forRows(stream, [&](int64_t row) {
    unpack(bytes + row * stride, stream.cols, stream.interleave, stream.add, codes + row * stream.cols);
  });
  return {};
}

Status transpose(const void* source, int64_t rows, int64_t cols, int elementBytes, void* out) {
  switch (elementBytes) {
    case 1:
      transposeTiles(static_cast<const uint8_t*>(source), rows, cols, static_cast<uint8_t*>(out));
      return {};
    case 2:
      transposeTiles(static_cast<const uint16_t*>(source), rows, cols, static_cast<uint16_t*>(out));
      return {};
    case 4:
      transposeTiles(static_cast<const uint32_t*>(source), rows, cols, static_cast<uint32_t*>(out));
      return {};
    default:
      return Status(Code::kOption, "elementBytes is " + std::to_string(elementBytes) + ", expected 1, 2 or 4");
  }
}

}  // namespace tsq::layout
