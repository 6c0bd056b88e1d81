// Bit streams of on-disk formats, transposition: native/layout/bits.h.
#include "layout/bits.h"

#include "bindings/exports.h"
#include "bindings/work.h"

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

constexpr Export kExports[] = {
    {"packBits", packBits, true},
    {"unpackBits", unpackBits, true},
    {"unpackCodes", unpackCodes, true},
    {"transpose", transpose, true},
};

}  // namespace

std::span<const Export> bitExports() {
  return kExports;
}

}  // namespace tsq
