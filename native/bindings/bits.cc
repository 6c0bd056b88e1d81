// Codes as on-disk formats pack them: bit streams, planes and tiles of native/layout; transposition.
#include "layout/bits.h"

#include "bindings/exports.h"
#include "bindings/work.h"
#include "layout/byte_codes.h"
#include "layout/planes.h"
#include "layout/shared_values.h"
#include "layout/tiles.h"

namespace tsq {
namespace {

// Arguments 1 … 5 of packBits and unpackBits: rows, cols, bits, interleave, add.
layout::BitStream bitStream(Arguments& a) {
  layout::BitStream stream;
  stream.rows = a.integer(a[1], "rows");
  stream.cols = a.integer(a[2], "cols");
  stream.bits = static_cast<int>(a.integer(a[3], "bits", 2, 8));
  stream.interleave = a.boolean(a[4], "interleave");
  stream.add = static_cast<int>(a.integer(a[5], "add", -255, 255));
  (void)product({stream.rows, stream.cols, stream.bits}, "rows x cols x bits");
  check(layout::checkBitStream(stream));
  return stream;
}

Napi::Value packBits(Arguments& a) {
  const layout::BitStream stream = bitStream(a);
  const auto codes = a.view<uint8_t>(a[0], "codes", product({stream.rows, stream.cols}, "codes"));
  const auto out =
      a.view<int32_t>(a[6], "out", product({stream.rows, layout::rowWords(stream.cols, stream.bits)}, "out"));
  return promise(a, [=]() -> Status { return layout::packBits(codes.data, stream, out.data); });
}

Napi::Value unpackBits(Arguments& a) {
  const layout::BitStream stream = bitStream(a);
  const auto words =
      a.view<int32_t>(a[0], "words", product({stream.rows, layout::rowWords(stream.cols, stream.bits)}, "words"));
  const auto out = a.view<uint8_t>(a[6], "out", product({stream.rows, stream.cols}, "out"));
  return promise(a, [=]() -> Status { return layout::unpackBits(words.data, stream, out.data); });
}

Napi::Value unpackCodes(Arguments& a) {
  const layout::StoredCodes stored = a.storedCodes();
  const auto out = a.view<uint8_t>(a[5], "out", product({stored.n, stored.k}, "out"));
  return promise(a, [=]() -> Status { return layout::unpackCodes(stored, out.data); });
}

Napi::Value packNibbles(Arguments& a) {
  const int64_t count = a.integer(a[1], "count");
  const bool highFirst = a.boolean(a[2], "highFirst");
  const auto codes = a.view<uint8_t>(a[0], "codes", count);
  const auto out = a.view<uint8_t>(a[3], "out", (count + 1) / 2);
  return promise(a, [=]() -> Status { return layout::packNibbles(codes.data, count, highFirst, out.data); });
}

Napi::Value signCodes(Arguments& a) {
  const int64_t count = a.integer(a[1], "count");
  const int bits = static_cast<int>(a.integer(a[2], "bits", 2, 8));
  const auto codes = a.view<uint8_t>(a[0], "codes", count);
  const auto out = a.view<uint8_t>(a[3], "out", count);
  return promise(a, [=]() -> Status { return layout::toSigned(codes.data, count, bits, out.data); });
}

// Arguments 1 … 6 of expandShared and collapseShared: n, k, groupSize, blockRows, runLength, elementBytes.
struct Shared {
  layout::Sharing sharing;
  int64_t bytes;  // of an element
  uint8_t* from;
  uint8_t* to;
};

Shared sharedValues(Arguments& a, bool expands) {
  Shared s{};
  s.sharing = {a.integer(a[1], "n", 1), a.integer(a[2], "k", 1), a.integer(a[3], "groupSize", 1),
               a.integer(a[4], "blockRows", 1), a.integer(a[5], "runLength")};
  s.bytes = a.integer(a[6], "elementBytes", 1, 4);
  if (s.bytes != 1 && s.bytes != 4)
    refuse(Code::kOption,
           std::string(a.target().name) + ": elementBytes is " + std::to_string(s.bytes) + ", expected 1 or 4");
  (void)product({s.sharing.n, s.sharing.k, s.bytes}, "weight");
  check(layout::checkSharing(s.sharing));
  const int64_t whole = s.sharing.n * layout::groupsOf(s.sharing), stored = layout::storedCount(s.sharing);
  s.from = static_cast<uint8_t*>(a.bytes(a[0], "values", (expands ? stored : whole) * s.bytes));
  s.to = static_cast<uint8_t*>(a.bytes(a[7], "out", (expands ? whole : stored) * s.bytes));
  for (const uint8_t* pointer : {s.from, s.to})
    if (reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(s.bytes) != 0)
      refuse(Code::kOption, std::string(a.target().name) + ": an array does not start at a multiple of elementBytes");
  return s;
}

Napi::Value expandShared(Arguments& a) {
  return promise(a, [s = sharedValues(a, true)]() -> Status {
    if (s.bytes == 1) {
      layout::expandShared(s.from, s.sharing, s.to);
    } else {
      layout::expandShared(reinterpret_cast<const uint32_t*>(s.from), s.sharing, reinterpret_cast<uint32_t*>(s.to));
    }
    return {};
  });
}

Napi::Value collapseShared(Arguments& a) {
  return promise(
      a,
      [s = sharedValues(a, false)]() -> Result<bool> {
        if (s.bytes == 1) return layout::collapseShared(s.from, s.sharing, s.to);
        return layout::collapseShared(reinterpret_cast<const uint32_t*>(s.from), s.sharing,
                                      reinterpret_cast<uint32_t*>(s.to));
      },
      [](Napi::Env env, bool same) -> Napi::Value { return Napi::Boolean::New(env, same); });
}

Napi::Value transpose(Arguments& a) {
  const int64_t rows = a.integer(a[1], "rows"), cols = a.integer(a[2], "cols");
  const int elementBytes = static_cast<int>(a.integer(a[3], "elementBytes", 1, 4));
  if (elementBytes == 3) refuse(Code::kOption, "transpose: elementBytes is 3, expected 1, 2 or 4");
  const int64_t bytes = product({rows, cols, elementBytes}, "matrix");
  const void* source = a.bytes(a[0], "source", bytes);
  void* out = a.bytes(a[4], "out", bytes);
  for (const void* pointer : {source, static_cast<const void*>(out)})
    if (reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(elementBytes) != 0)
      refuse(Code::kOption, "transpose: an array does not start at a multiple of elementBytes");
  return promise(a, [=]() -> Status { return layout::transpose(source, rows, cols, elementBytes, out); });
}

struct Planes {
  int64_t rows, cols, count, words;
  int bits;
};

// Arguments 1 … 3 of packPlanes and unpackPlanes.
Planes planes(Arguments& a) {
  Planes p{a.integer(a[1], "rows"), a.integer(a[2], "cols"), 0, 0, static_cast<int>(a.integer(a[3], "bits", 2, 8))};
  if (p.cols % 32 != 0)
    refuse(Code::kOption,
           std::string(a.target().name) + ": cols is " + std::to_string(p.cols) + ", expected a multiple of 32");
  p.count = product({p.rows, p.cols}, "codes");
  p.words = product({p.rows, p.cols / 32, p.bits}, "words");
  return p;
}

Napi::Value packPlanes(Arguments& a) {
  const Planes p = planes(a);
  const auto codes = a.view<uint8_t>(a[0], "codes", p.count);
  const auto out = a.view<int32_t>(a[4], "out", p.words);
  return promise(a, [=]() -> Status { return layout::packPlanes(codes.data, p.rows, p.cols, p.bits, out.data); });
}

Napi::Value unpackPlanes(Arguments& a) {
  const Planes p = planes(a);
  const auto words = a.view<int32_t>(a[0], "words", p.words);
  const auto out = a.view<uint8_t>(a[4], "out", p.count);
  return promise(a, [=]() -> Status {
    layout::unpackPlanes(words.data, p.rows, p.cols, p.bits, out.data);
    return {};
  });
}

// Arguments 1 … 3 of packTiles and unpackTiles: order, n, k.
layout::TiledCodes tiledCodes(Arguments& a) {
  const auto order = static_cast<layout::TileOrder>(a.integer(a[1], "order", 0, 1));
  const layout::TiledCodes tiled{order, a.integer(a[2], "n"), a.integer(a[3], "k")};
  check(layout::checkTiles(tiled));
  return tiled;
}

Napi::Value packTiles(Arguments& a) {
  const layout::TiledCodes tiled = tiledCodes(a);
  const int64_t count = product({tiled.n, tiled.k}, "codes");
  const uint8_t* codes = a.view<uint8_t>(a[0], "codes", count).data;
  uint8_t* out = a.view<uint8_t>(a[4], "out", count / 2).data;
  return promise(a, [=]() -> Status {
    layout::packTiles(codes, tiled, out);
    return {};
  });
}

Napi::Value unpackTiles(Arguments& a) {
  const layout::TiledCodes tiled = tiledCodes(a);
  const int64_t count = product({tiled.n, tiled.k}, "codes");
  const uint8_t* tiles = a.source(a[0], "tiles", Dtype::kU8, count / 2).data;
  uint8_t* out = a.view<uint8_t>(a[4], "out", count).data;
  return promise(a, [=]() -> Status {
    layout::unpackTiles(tiles, tiled, out);
    return {};
  });
}

Napi::Value orderMarlinScales(Arguments& a) {
  const int64_t groups = a.integer(a[1], "groups", 1), n = a.integer(a[2], "n"), count = product({groups, n}, "scales");
  const int run = groups > 1 ? 64 : 32;
  if (n % run != 0)
    refuse(Code::kOption,
           "orderMarlinScales: n is " + std::to_string(n) + ", expected a multiple of " + std::to_string(run));
  const bool pack = a.boolean(a[3], "pack");
  const float* scales = a.view<float>(a[0], "scales", count).data;
  float* out = a.view<float>(a[4], "out", count).data;
  return promise(a, [=]() -> Status {
    layout::orderMarlinScales(scales, groups, n, pack, out);
    return {};
  });
}

constexpr Export kExports[] = {
    {"packBits", packBits, true},
    {"unpackBits", unpackBits, true},
    {"unpackCodes", unpackCodes, true},
    {"packNibbles", packNibbles, true},
    {"signCodes", signCodes, true},
    {"expandShared", expandShared, true},
    {"collapseShared", collapseShared, true},
    {"transpose", transpose, true},
    {"packPlanes", packPlanes, true},
    {"unpackPlanes", unpackPlanes, true},
    {"packTiles", packTiles, true},
    {"unpackTiles", unpackTiles, true},
    {"orderMarlinScales", orderMarlinScales, true},
};

}  // namespace

std::span<const Export> bitExports() {
  return kExports;
}

}  // namespace tsq
