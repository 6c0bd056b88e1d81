// Where a number lies in a page of the KV cache: the one description that the cache, the kernels and the tests share.
//
// A page holds kKvPositions positions of one layer and KV head. Keys lie transposed, [headDim][16]: 16 positions are
// one vector. Values lie as rows, [16][width], width = headDim rounded up to 16. Four-bit codes share bytes so that
// sixteen bytes unpack into two whole vectors: of keys, columns 2i and 2i + 1 of one position (low nibble first); of
// values, columns j and j + 16 of every 32.
//
// A number is scale * code + offset. int8 codes have a sign and fp8 ones are E4M3, both without an offset; four-bit
// codes have none, their offset is stored beside the scale or is -8 scales. Scales and offsets are f16:
//   kToken    one for every position and group of columns: keys [groups][16], values [16][groups]
//   kChannel  one for every column of a page: keys [headDim]. Offsets as scales
//   kTensor   nothing stored: a number of the layer
#pragma once
#include <cstdint>

#include "layout/packed.h"

namespace tsq::layout {

constexpr int64_t kKvPositions = 16;

enum class KvType : uint8_t { kF32 = 0, kF16 = 1, kI8 = 2, kE4M3 = 3, kI4 = 4 };
constexpr KvType kLastKvType = KvType::kI4;
enum class KvScales : uint8_t { kNone = 0, kToken = 1, kChannel = 2, kTensor = 3 };
constexpr KvScales kLastKvScales = KvScales::kTensor;

// How keys or values are stored.
struct KvCoding {
  KvType type = KvType::kF32;
  KvScales scales = KvScales::kNone;
  bool offsets = false;  // four-bit codes only
  int64_t group = 0;     // kToken: columns that share a scale, a multiple of 32 or the head dimension
};

// Keys or values of a page. Offsets in bytes from the page's start.
struct KvPart : KvCoding {
  int64_t groups = 0;    // kToken
  int64_t codes = 0;     // of the first code
  int64_t rowBytes = 0;  // of a row of values, of a column of keys (of two columns, where four-bit)
  int64_t scaleAt = 0, offsetAt = 0;
};

struct KvPage {
  int64_t headDim = 0, width = 0;
  KvPart keys, values;
  int64_t bytes = 0;  // a multiple of 64
};

TSQ_INLINE constexpr int64_t kvTypeBytes(KvType type) {  // of whole bytes
  return type == KvType::kF32 ? 4 : type == KvType::kF16 ? 2 : 1;
}

// Number of scales of a part.
TSQ_INLINE constexpr int64_t kvScales(const KvPart& part, int64_t headDim) {
  return part.scales == KvScales::kToken ? part.groups * kKvPositions : part.scales == KvScales::kChannel ? headDim : 0;
}

TSQ_INLINE constexpr int64_t placeKvScales(KvPart* part, int64_t headDim, int64_t at) {
  const int64_t bytes = 2 * kvScales(*part, headDim);
  part->groups = part->scales == KvScales::kToken ? part->groups : 0;
  part->scaleAt = at;
  part->offsetAt = at + bytes;
  return at + (part->offsets ? 2 : 1) * bytes;
}

TSQ_INLINE constexpr KvPage kvPage(int64_t headDim, const KvCoding& keys, const KvCoding& values) {
  KvPage page;
  page.headDim = headDim;
  page.width = roundUp(headDim, 16);
  static_cast<KvCoding&>(page.keys) = keys;
  static_cast<KvCoding&>(page.values) = values;
  if (keys.scales == KvScales::kToken) page.keys.groups = divideUp(headDim, keys.group);
  if (values.scales == KvScales::kToken) page.values.groups = divideUp(headDim, values.group);
  const bool keyNibbles = keys.type == KvType::kI4, valueNibbles = values.type == KvType::kI4;
  page.keys.rowBytes = kKvPositions * kvTypeBytes(keys.type);
  page.values.rowBytes = valueNibbles ? roundUp(headDim, 32) / 2 : page.width * kvTypeBytes(values.type);
  page.keys.codes = 0;
  const int64_t keyRows = keyNibbles ? divideUp(headDim, 2) : headDim;
  page.values.codes = placeKvScales(&page.keys, headDim, keyRows * page.keys.rowBytes);
  // No vector of codes lies across two lines.
  page.values.codes = roundUp(page.values.codes, 32);
  page.bytes =
      roundUp(placeKvScales(&page.values, headDim, page.values.codes + kKvPositions * page.values.rowBytes), 64);
  return page;
}

// Byte of a code, from the page's start; four-bit codes: which nibble of it is kvKeyNibble, kvValueNibble.
TSQ_INLINE constexpr int64_t kvKeyByte(const KvPart& keys, int64_t column, int64_t position) {
  return keys.type == KvType::kI4 ? keys.codes + column / 2 * keys.rowBytes + position
                                  : keys.codes + column * keys.rowBytes + position * kvTypeBytes(keys.type);
}
TSQ_INLINE constexpr int kvKeyNibble(int64_t column) {
  return static_cast<int>(column % 2);
}
TSQ_INLINE constexpr int64_t kvValueByte(const KvPart& values, int64_t column, int64_t position) {
  const int64_t row = values.codes + position * values.rowBytes;
  return values.type == KvType::kI4 ? row + column / 32 * 16 + column % 16 : row + column * kvTypeBytes(values.type);
}
TSQ_INLINE constexpr int kvValueNibble(int64_t column) {
  return static_cast<int>(column / 16 % 2);
}
// Index of a code's scale and offset.
TSQ_INLINE constexpr int64_t kvKeyScale(const KvPart& keys, int64_t column, int64_t position) {
  return keys.scales == KvScales::kChannel ? column : column / keys.group * kKvPositions + position;
}
TSQ_INLINE constexpr int64_t kvValueScale(const KvPart& values, int64_t column, int64_t position) {
  return position * values.groups + column / values.group;
}

}  // namespace tsq::layout
