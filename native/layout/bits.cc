#include "layout/bits.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>

#include "runtime/thread_pool.h"

namespace tsq::layout {
namespace {

// Codes handled at once: 32 codes of b bits are exactly b words, whatever b is.
constexpr int64_t kBlock = 32;
// Codes that one task handles, in whole rows.
constexpr int64_t kTaskCodes = 1 << 16;
// Column of AWQ's position p within 8 (AutoAWQ's order_map).
constexpr int kInterleave[8] = {0, 2, 4, 6, 1, 3, 5, 7};

template <int kBits>
void packBlock(const uint8_t* codes, uint32_t* words) {
  std::memset(words, 0, kBits * 4);
#pragma GCC unroll 32
  for (int i = 0; i < kBlock; ++i) {
    const int bit = i * kBits, word = bit / 32, shift = bit % 32;
    words[word] |= static_cast<uint32_t>(codes[i]) << shift;
    if (shift + kBits > 32) words[word + 1] |= static_cast<uint32_t>(codes[i]) >> (32 - shift);
  }
}

template <int kBits>
void unpackBlock(const uint32_t* words, uint8_t* codes) {
#pragma GCC unroll 32
  for (int i = 0; i < kBlock; ++i) {
    const int bit = i * kBits, word = bit / 32, shift = bit % 32;
    uint32_t code = words[word] >> shift;
    if (shift + kBits > 32) code |= words[word + 1] << (32 - shift);
    codes[i] = static_cast<uint8_t>(code & ((1u << kBits) - 1));
  }
}

// Position p of each 8 takes column kInterleave[p].
void interleaveBlock(uint8_t* codes) {
  for (int64_t base = 0; base < kBlock; base += 8) {
    uint8_t row[8];
    std::memcpy(row, codes + base, 8);
    for (int p = 0; p < 8; ++p) codes[base + p] = row[kInterleave[p]];
  }
}

void deinterleaveBlock(uint8_t* codes) {
  for (int64_t base = 0; base < kBlock; base += 8) {
    uint8_t row[8];
    std::memcpy(row, codes + base, 8);
    for (int p = 0; p < 8; ++p) codes[base + kInterleave[p]] = row[p];
  }
}

// True when every code was < 2^bits. Codes that are not are cut off, so nothing depends on them being checked first.
template <int kBits>
bool packRow(const uint8_t* codes, const BitStream& stream, int32_t* words) {
  constexpr uint8_t kMask = (1u << kBits) - 1;
  uint8_t seen = 0;
  for (int64_t begin = 0; begin < stream.cols; begin += kBlock) {
    const int64_t count = std::min(kBlock, stream.cols - begin);
    uint8_t block[kBlock] = {};
    uint32_t packed[kBits];
    for (int64_t i = 0; i < count; ++i) {
      const uint8_t code = codes[begin + i];
      seen |= code;
      block[i] = static_cast<uint8_t>(code + stream.add) & kMask;
    }
    if (stream.interleave) interleaveBlock(block);
    packBlock<kBits>(block, packed);
    std::memcpy(words + begin / kBlock * kBits, packed, static_cast<size_t>(rowWords(count, kBits)) * 4);
  }
  return (seen & ~kMask) == 0;
}

template <int kBits>
void unpackRow(const int32_t* words, const BitStream& stream, uint8_t* codes) {
  constexpr uint8_t kMask = (1u << kBits) - 1;
  for (int64_t begin = 0; begin < stream.cols; begin += kBlock) {
    const int64_t count = std::min(kBlock, stream.cols - begin);
    uint8_t block[kBlock];
    uint32_t packed[kBits] = {};
    std::memcpy(packed, words + begin / kBlock * kBits, static_cast<size_t>(rowWords(count, kBits)) * 4);
    unpackBlock<kBits>(packed, block);
    if (stream.interleave) deinterleaveBlock(block);
    for (int64_t i = 0; i < count; ++i) codes[begin + i] = static_cast<uint8_t>(block[i] + stream.add) & kMask;
  }
}

using PackRow = bool (*)(const uint8_t*, const BitStream&, int32_t*);
using UnpackRow = void (*)(const int32_t*, const BitStream&, uint8_t*);
constexpr PackRow kPackRow[] = {packRow<2>, packRow<3>, packRow<4>, packRow<5>, packRow<6>, packRow<7>, packRow<8>};
constexpr UnpackRow kUnpackRow[] = {unpackRow<2>, unpackRow<3>, unpackRow<4>, unpackRow<5>,
                                    unpackRow<6>, unpackRow<7>, unpackRow<8>};

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

// Transposes kWord x kWord elements that lie in kWord little-endian words, one a row: exchanges the off-diagonal
// halves, then those of every quarter, and so on (Hacker's Delight, 7-3).
template <int kBits, int kWord = 64 / kBits>
inline void transposeWords(uint64_t (&words)[kWord]) {
#pragma GCC unroll 3
  for (int step = kWord / 2; step > 0; step /= 2) {
    const int shift = step * kBits;
    const uint64_t low = ~uint64_t{0} / ((uint64_t{1} << shift) + 1);  // the low half of every 2 * shift bits
#pragma GCC unroll 8
    for (int i = 0; i < kWord; ++i) {
      if ((i & step) != 0) continue;
      const uint64_t swapped = ((words[i] >> shift) ^ words[i + step]) & low;
      words[i] ^= swapped << shift;
      words[i + step] ^= swapped;
    }
  }
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
  const int64_t stride = rowWords(stream.cols, stream.bits);
  const PackRow pack = kPackRow[stream.bits - 2];
  std::atomic<int64_t> firstBad{stream.rows};
  forRows(stream, [&](int64_t row) {
    if (pack(codes + row * stream.cols, stream, words + row * stride)) return;
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
  const int64_t stride = rowWords(stream.cols, stream.bits);
  const UnpackRow unpack = kUnpackRow[stream.bits - 2];
  forRows(stream, [&](int64_t row) { unpack(words + row * stride, stream, codes + row * stream.cols); });
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
