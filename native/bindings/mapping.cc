// Mapped files.
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "bindings/exports.h"
#include "bindings/work.h"
#include "program/parallel.h"
#include "runtime/memory.h"

namespace tsq {
namespace {

// Bytes that one task copies: enough pages to make reading ahead worth while, few enough to share a large tensor out.
constexpr int64_t kCopyBlock = int64_t{4} << 20;

struct Slice {
  std::shared_ptr<const MappedFile> mapping;
  int64_t offset, bytes;
};

Slice slice(Arguments& a, int64_t offset, int64_t bytes) {
  auto mapping = a.object<const MappedFile>(a[0], "mapping");
  const auto size = static_cast<int64_t>(mapping->size());
  if (offset > size || bytes > size - offset)
    refuse(Code::kShape, std::string(a.target().name) + ": " + std::to_string(bytes) + " bytes at " +
                             std::to_string(offset) + " lie outside the mapped file of " + std::to_string(size) +
                             " bytes");
  return {std::move(mapping), offset, bytes};
}

void copySlice(const Slice& slice, uint8_t* out) {
  parallelBlocks(slice.bytes, kCopyBlock, AbortFlag(), [&](int64_t begin, int64_t end) {
    std::memcpy(out + begin, slice.mapping->data() + slice.offset + begin, static_cast<size_t>(end - begin));
  });
}

Napi::Value mapFile(Arguments& a) {
  const std::string path = a.string(a[0], "path");
  return a.environment().hold(std::make_shared<const MappedFile>(take(MappedFile::open(path.c_str()))));
}

Napi::Value mappingBytes(Arguments& a) {
  return Napi::Number::New(a.env(), static_cast<double>(a.object<const MappedFile>(a[0], "mapping")->size()));
}

Napi::Value readMapping(Arguments& a) {
  const int64_t offset = a.integer(a[1], "offset");
  const View<uint8_t> out = a.view<uint8_t>(a[2], "out", 0);
  copySlice(slice(a, offset, out.length), out.data);
  return a.env().Undefined();
}

Napi::Value readMappingAsync(Arguments& a) {
  const int64_t offset = a.integer(a[1], "offset");
  const View<uint8_t> out = a.view<uint8_t>(a[2], "out", 0);
  return promise(a, [part = slice(a, offset, out.length), out]() -> Status {
    copySlice(part, out.data);
    return {};
  });
}

Napi::Value dropMapping(Arguments& a) {
  const int64_t offset = a.integer(a[1], "offset"), bytes = a.integer(a[2], "bytes");
  const Slice part = slice(a, offset, bytes);
  part.mapping->release(static_cast<uint64_t>(part.offset), static_cast<uint64_t>(part.bytes));
  return a.env().Undefined();
}

constexpr Export kExports[] = {
    {"mapFile", mapFile, false},         {"mappingBytes", mappingBytes, false},
    {"readMapping", readMapping, false}, {"readMappingAsync", readMappingAsync, true},
    {"dropMapping", dropMapping, false},
};

}  // namespace

std::span<const Export> mappingExports() {
  return kExports;
}

}  // namespace tsq
