#include "program/kv_writer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "program/kv_rotation.h"

namespace tsq {

namespace {

using layout::KvCoding;
using layout::KvPage;
using layout::KvPart;
using layout::KvScales;
using layout::KvType;

constexpr int64_t kPage = KvCache::kPage;

void putHalf(uint8_t* at, int64_t index, uint16_t bits) {
  std::memcpy(at + 2 * index, &bits, 2);
}

// A number of f16 that is not infinite.
uint16_t halfOf(float x) {
  return floatToF16(std::isnan(x) ? x : std::clamp(x, -65504.0f, 65504.0f));
}

// Nearest even, for |x| < 2^21.
int32_t nearest(float x) {
  return static_cast<int32_t>(floatToBits(x + 12582912.0f) - 0x4b400000u);
}

// Scale and offset of numbers that share them, as they are stored.
struct Grid {
  uint16_t scale = 0, offset = 0;
  float inverse = 0, from = 0;  // code = (x - from) * inverse
};

// int8 and fp8 ranges are symmetric. Four-bit codes: from the lowest to the highest number where there are offsets;
// else the number of largest magnitude, whatever its sign, is code 0 of -8 … 7 (as in ggml's Q4_0).
Grid gridOf(const KvCoding& coding, const float* x, int64_t count, int64_t step) {
  float low = x[0], high = x[0], total = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float value = x[i * step];
    low = std::min(low, value);
    high = std::max(high, value);
    total += value * 0.0f;  // NaN where one is not finite
  }
  Grid grid;
  if (std::isnan(total)) {
    grid.scale = grid.offset = floatToF16(std::numeric_limits<float>::quiet_NaN());
    return grid;
  }
  const float most = std::max(-low, high);
  float scale = 0;
  if (coding.type == KvType::kI8) scale = most / 127.0f;
  if (coding.type == KvType::kE4M3) scale = most / 448.0f;
  if (coding.type == KvType::kI4) scale = coding.offsets ? (high - low) / 15.0f : (high >= -low ? high : low) / -8.0f;
  if (coding.offsets) {
    grid.offset = halfOf(low);
    grid.from = f16ToFloat(grid.offset);
  }
  grid.scale = halfOf(scale);
  const float rounded = f16ToFloat(grid.scale);
  grid.inverse = rounded == 0 ? 0 : 1.0f / rounded;
  if (coding.type == KvType::kI4 && !coding.offsets) grid.from = -8.0f * rounded;
  return grid;
}

uint8_t codeOf(KvType type, const Grid& grid, float x) {
  const float code = (x - grid.from) * grid.inverse;
  switch (type) {
    case KvType::kI8:
      return static_cast<uint8_t>(static_cast<int8_t>(nearest(std::clamp(code, -127.0f, 127.0f))));
    case KvType::kE4M3:
      return floatToE4m3(std::clamp(code, -448.0f, 448.0f));
    default:
      return static_cast<uint8_t>(nearest(std::clamp(code, 0.0f, 15.0f)));
  }
}

void putCode(const KvPart& part, uint8_t* byte, int nibble, uint8_t code) {
  if (part.type != KvType::kI4) {
    *byte = code;
  } else {
    *byte = static_cast<uint8_t>(nibble == 0 ? (*byte & 0xf0) | code : (*byte & 0x0f) | code << 4);
  }
}

void putScale(const KvPart& part, uint8_t* page, int64_t index, const Grid& grid) {
  putHalf(page + part.scaleAt, index, grid.scale);
  if (part.offsets) putHalf(page + part.offsetAt, index, grid.offset);
}

// One row, where it has scales of its own or none.
template <bool kKeys>
void writeRow(const KvPage& page, float layerScale, uint8_t* out, int64_t position, const float* x) {
  const KvPart& part = kKeys ? page.keys : page.values;
  const auto byteAt = [&](int64_t d) {
    return out + (kKeys ? layout::kvKeyByte(part, d, position) : layout::kvValueByte(part, d, position));
  };
  if (part.type == KvType::kF32 || part.type == KvType::kF16) {
    for (int64_t d = 0; d < page.headDim; ++d) {
      if (part.type == KvType::kF32) {
        std::memcpy(byteAt(d), x + d, 4);
      } else {
        putHalf(byteAt(d), 0, halfOf(x[d]));
      }
    }
    return;
  }
  const bool own = part.scales == KvScales::kToken;
  const int64_t group = own ? part.group : page.headDim;
  for (int64_t begin = 0; begin < page.headDim; begin += group) {
    const int64_t end = std::min(begin + group, page.headDim);
    Grid grid;
    if (own) {
      grid = gridOf(part, x + begin, end - begin, 1);
      putScale(part, out,
               kKeys ? layout::kvKeyScale(part, begin, position) : layout::kvValueScale(part, begin, position), grid);
    } else {
      grid.inverse = 1.0f / layerScale;
    }
    for (int64_t d = begin; d < end; ++d) {
      putCode(part, byteAt(d), kKeys ? layout::kvKeyNibble(d) : layout::kvValueNibble(d),
              codeOf(part.type, grid, x[d]));
    }
  }
}

// All keys of a page, a scale for every column.
void writeChannels(const KvPage& page, const KvPage& exactPage, const uint8_t* exact, uint8_t* out) {
  for (int64_t d = 0; d < page.headDim; ++d) {
    float column[kPage];
    for (int64_t p = 0; p < kPage; ++p) {
      uint16_t bits;
      std::memcpy(&bits, exact + layout::kvKeyByte(exactPage.keys, d, p), 2);
      column[p] = f16ToFloat(bits);
    }
    const Grid grid = gridOf(page.keys, column, kPage, 1);
    putScale(page.keys, out, d, grid);
    for (int64_t p = 0; p < kPage; ++p) {
      putCode(page.keys, out + layout::kvKeyByte(page.keys, d, p), layout::kvKeyNibble(d),
              codeOf(page.keys.type, grid, column[p]));
    }
  }
}

// Both f32, as they are.
void copyKv(const KvPage& page, uint8_t* out, int64_t at, const KvRows& rows) {
  float* keys = reinterpret_cast<float*>(out + page.keys.codes) + at;
  float* values = reinterpret_cast<float*>(out + page.values.codes) + at * page.width;
  for (int64_t d = 0; d < page.headDim; ++d) {
    for (int64_t i = 0; i < rows.count; ++i) keys[d * kPage + i] = rows.keys[i * rows.stride + d];
  }
  for (int64_t i = 0; i < rows.count; ++i) {
    const float* row = rows.values + i * rows.stride;
    std::copy(row, row + page.headDim, values + i * page.width);
  }
}

const float* rotated(bool rotate, const float* x, int64_t headDim, float* room) {
  if (!rotate) return x;
  std::copy(x, x + headDim, room);
  rotateHead(room, headDim);
  return room;
}

}  // namespace

void writeKv(const KvCache& cache, int64_t layer, const KvTargets& targets, int64_t at, const KvRows& rows) {
  const KvFormat& format = cache.format();
  const KvPage& page = cache.page();
  const KvPage& exactPage = cache.exactPage();
  const int64_t headDim = page.headDim;
  const bool channels = page.keys.scales == KvScales::kChannel;
  const auto scaleOf = [&](const std::vector<float>& scales) {
    return scales.empty() ? 1.0f : scales[static_cast<size_t>(layer)];
  };
  const float keyScale = scaleOf(format.keyScales), valueScale = scaleOf(format.valueScales);
  if (at == 0) {
    std::memset(targets.page, 0, static_cast<size_t>(page.bytes));
    for (uint8_t* exact : targets.exact) {
      if (exact != nullptr) std::memset(exact, 0, static_cast<size_t>(exactPage.bytes));
    }
  }
  const bool plain = page.keys.type == KvType::kF32 && page.values.type == KvType::kF32;
  if (plain && !cache.hasExact() && !format.rotateKeys && !format.rotateValues) {
    return copyKv(page, targets.page, at, rows);
  }
  float room[KvCache::kMaxRotated];
  for (int64_t i = 0; i < rows.count; ++i) {
    const float* key = rotated(format.rotateKeys, rows.keys + i * rows.stride, headDim, room);
    if (!channels) writeRow<true>(page, keyScale, targets.page, at + i, key);
    for (uint8_t* exact : targets.exact) {
      if (exact != nullptr) writeRow<true>(exactPage, 1, exact, at + i, key);
    }
    const float* value = rotated(format.rotateValues, rows.values + i * rows.stride, headDim, room);
    writeRow<false>(page, valueScale, targets.page, at + i, value);
    for (uint8_t* exact : targets.exact) {
      if (exact != nullptr) writeRow<false>(exactPage, 1, exact, at + i, value);
    }
  }
  if (channels && at + rows.count == kPage) {
    writeChannels(page, exactPage, targets.exact[0] != nullptr ? targets.exact[0] : targets.exact[1], targets.page);
  }
}

}  // namespace tsq
