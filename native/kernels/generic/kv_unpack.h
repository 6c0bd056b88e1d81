// Pages of a quantized KV cache as f32: keys [headDim][16], values [16][width]. Include after an instruction set's
// simd.h. See layout/kv_page.h.
#pragma once

#include "layout/kv_page.h"

namespace tsq {
namespace {

using layout::KvPage;
using layout::KvPart;
using layout::KvScales;
using layout::KvType;

// Sixteen codes; those of E4M3 are 2^-8 of what they stand for.
template <KvType kType>
TSQ_INLINE Lanes loadCodes16(const uint8_t* p) {
  if constexpr (kType == KvType::kF16) {
    return loadHalf(p);
  } else if constexpr (kType == KvType::kI8) {
    return loadSigned(p);
  } else {
    return loadE4m3(p);
  }
}

template <KvType kType>
constexpr float kCodeUnit = kType == KvType::kE4M3 ? 256.0f : 1.0f;

// `count` halves, rounded up to 16, as floats times `unit`.
TSQ_INLINE void widenScales(const uint8_t* source, int64_t count, float unit, float* out) {
  for (int64_t i = 0; i < count; i += 16) store(out + i, mul(loadHalf(source + 2 * i), set1(unit)));
}

// Four-bit codes: the offsets, or -8 scales where there are none.
TSQ_INLINE void widenOffsets(const KvPart& part, const uint8_t* page, int64_t count, const float* scales, float* out) {
  for (int64_t i = 0; i < count; i += 16) {
    store(out + i, part.offsets ? loadHalf(page + part.offsetAt + 2 * i) : mul(load(scales + i), set1(-8.0f)));
  }
}

// What a part is unpacked with.
struct KvUnpack {
  const KvPage* page;
  const uint8_t* data;  // the page
  const uint8_t* next;  // codes that will be unpacked soon
  float layer;          // kTensor
  float* out;
  float* room;  // 2 * (width + 16)
};

template <KvType kType, KvScales kScales>
__attribute__((noinline)) void unpackKeys(const KvUnpack& u) {
  const KvPart& keys = u.page->keys;
  const int64_t headDim = u.page->headDim, group = kScales == KvScales::kToken ? keys.group : headDim;
  const uint8_t* code = u.data + keys.codes;
  const uint8_t* next = u.next;
  float* scales = u.room;
  float* offsets = u.room + u.page->width + 16;
  if constexpr (kScales == KvScales::kToken || kScales == KvScales::kChannel) {
    const int64_t count = layout::kvScales(keys, headDim);
    widenScales(u.data + keys.scaleAt, count, kCodeUnit<kType>, scales);
    if constexpr (kType == KvType::kI4) widenOffsets(keys, u.data, count, scales, offsets);
  }
  float* out = u.out;
  for (int64_t begin = 0; begin < headDim; begin += group) {
    const int64_t end = begin + group < headDim ? begin + group : headDim;
    const float* groupScales = scales + begin / group * 16;
    Lanes scale = set1(u.layer * kCodeUnit<kType>), offset = zeros();
    if constexpr (kScales == KvScales::kToken) scale = load(groupScales);
    if constexpr (kScales == KvScales::kToken && kType == KvType::kI4) offset = load(offsets + begin / group * 16);
    if constexpr (kType == KvType::kI4) {
      for (int64_t d = begin; d < end; d += 2, code += 16, next += 16, out += 32) {
        Lanes low, high;
        loadNibbles(code, &low, &high);
        prefetch(next);
        if constexpr (kScales == KvScales::kChannel) {
          store(out, fma(low, set1(scales[d]), set1(offsets[d])));
          if (d + 1 < end) store(out + 16, fma(high, set1(scales[d + 1]), set1(offsets[d + 1])));
        } else {
          store(out, fma(low, scale, offset));
          if (d + 1 < end) store(out + 16, fma(high, scale, offset));
        }
      }
    } else {
      for (int64_t d = begin; d < end; ++d, code += keys.rowBytes, next += keys.rowBytes, out += 16) {
        Lanes key = loadCodes16<kType>(code);
        prefetch(next);
        if constexpr (kScales == KvScales::kChannel) scale = set1(scales[d]);
        if constexpr (kScales != KvScales::kNone) key = mul(key, scale);
        store(out, key);
      }
    }
  }
}

template <KvType kType, KvScales kScales>
__attribute__((noinline)) void unpackValues(const KvUnpack& u) {
  const KvPart& values = u.page->values;
  const int64_t width = u.page->width, groups = values.groups;
  const int64_t group = kScales == KvScales::kToken && groups > 1 ? values.group : width;
  float* scales = u.room;
  float* offsets = u.room + width + 16;
  if constexpr (kScales == KvScales::kToken) {
    widenScales(u.data + values.scaleAt, 16 * groups, kCodeUnit<kType>, scales);
    if constexpr (kType == KvType::kI4) widenOffsets(values, u.data, 16 * groups, scales, offsets);
  }
  float* out = u.out;
  for (int64_t p = 0; p < 16; ++p, out += width) {
    const uint8_t* code = u.data + values.codes + p * values.rowBytes;
    const uint8_t* next = u.next + p * values.rowBytes;
    for (int64_t begin = 0, g = p * groups; begin < width; begin += group, ++g) {
      const int64_t end = begin + group < width ? begin + group : width;
      Lanes scale = set1(u.layer * kCodeUnit<kType>), offset = zeros();
      if constexpr (kScales == KvScales::kToken) scale = set1(scales[g]);
      if constexpr (kScales == KvScales::kToken && kType == KvType::kI4) offset = set1(offsets[g]);
      if constexpr (kType == KvType::kI4) {
        for (int64_t d = begin; d < end; d += 32, code += 16, next += 16) {
          Lanes low, high;
          loadNibbles(code, &low, &high);
          prefetch(next);
          store(out + d, fma(low, scale, offset));
          if (d + 16 < end) store(out + d + 16, fma(high, scale, offset));
        }
      } else {
        for (int64_t d = begin; d < end; d += 16) {
          Lanes value = loadCodes16<kType>(code + d * layout::kvTypeBytes(kType));
          prefetch(next + d * layout::kvTypeBytes(kType));
          if constexpr (kScales != KvScales::kNone) value = mul(value, scale);
          store(out + d, value);
        }
      }
    }
  }
}

using KvUnpacker = decltype(&unpackKeys<KvType::kF16, KvScales::kNone>);

// Null: the part is f32 and needs none. KvCache::create lets no other combination through.
TSQ_INLINE KvUnpacker keyUnpacker(const KvPart& part) {
  switch (part.type) {
    case KvType::kF16:
      return unpackKeys<KvType::kF16, KvScales::kNone>;
    case KvType::kI8:
      return part.scales == KvScales::kChannel ? unpackKeys<KvType::kI8, KvScales::kChannel>
                                               : unpackKeys<KvType::kI8, KvScales::kToken>;
    case KvType::kE4M3:
      return part.scales == KvScales::kTensor ? unpackKeys<KvType::kE4M3, KvScales::kTensor>
                                              : unpackKeys<KvType::kE4M3, KvScales::kToken>;
    case KvType::kI4:
      return part.scales == KvScales::kChannel ? unpackKeys<KvType::kI4, KvScales::kChannel>
                                               : unpackKeys<KvType::kI4, KvScales::kToken>;
    default:
      return nullptr;
  }
}
TSQ_INLINE KvUnpacker valueUnpacker(const KvPart& part) {
  switch (part.type) {
    case KvType::kF16:
      return unpackValues<KvType::kF16, KvScales::kNone>;
    case KvType::kI8:
      return unpackValues<KvType::kI8, KvScales::kToken>;
    case KvType::kE4M3:
      return part.scales == KvScales::kTensor ? unpackValues<KvType::kE4M3, KvScales::kTensor>
                                              : unpackValues<KvType::kE4M3, KvScales::kToken>;
    case KvType::kI4:
      return unpackValues<KvType::kI4, KvScales::kToken>;
    default:
      return nullptr;
  }
}

}  // namespace
}  // namespace tsq
