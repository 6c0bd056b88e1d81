// Elementwise passes over tensors of any type: conversion, the scan for values that are no numbers.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "bindings/exports.h"
#include "bindings/work.h"
#include "kernels/kernels.h"
#include "program/parallel.h"

namespace tsq {
namespace {

constexpr int64_t kChunk = 2048;              // floats of a buffer on the stack
constexpr int64_t kBlock = int64_t{1} << 16;  // elements of a task

bool aligned(const void* pointer, Dtype dtype) {
  return reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(dtypeBytes(dtype)) == 0;
}

// `count` <= kChunk floats of any alignment as f32: in place where that is what they are, otherwise in `buffer`.
const float* asFloats(const uint8_t* source, Dtype from, int64_t count, float* buffer) {
  if (from != Dtype::kF32) {
    kernels().toFloat(source, from, buffer, count);
    return buffer;
  }
  if (aligned(source, from)) return reinterpret_cast<const float*>(source);
  std::memcpy(buffer, source, static_cast<size_t>(count) * sizeof(float));
  return buffer;
}

struct Conversion {
  const uint8_t* source;
  Dtype from;
  uint8_t* out;
  Dtype to;
  int64_t count;
};

void convertRange(const Conversion& c, int64_t begin, int64_t end) {
  const int64_t fromBytes = dtypeBytes(c.from), toBytes = dtypeBytes(c.to);
  if (c.from == c.to) {
    std::memmove(c.out + begin * toBytes, c.source + begin * fromBytes, static_cast<size_t>((end - begin) * toBytes));
    return;
  }
  alignas(64) float wide[kChunk];
  for (int64_t i = begin; i < end; i += kChunk) {
    const int64_t count = std::min(kChunk, end - i);
    const float* values = asFloats(c.source + i * fromBytes, c.from, count, wide);
    if (c.to == Dtype::kF32) {
      std::memcpy(c.out + i * toBytes, values, static_cast<size_t>(count) * sizeof(float));
    } else {
      kernels().fromFloat(values, c.out + i * toBytes, c.to, count);
    }
  }
}

void convertAll(const Conversion& c) {
  parallelBlocks(c.count, kBlock, AbortFlag(), [&](int64_t begin, int64_t end) { convertRange(c, begin, end); });
}

Conversion conversion(Arguments& a) {
  const Dtype from = a.dtype(a[1], "from"), to = a.dtype(a[3], "to");
  const int64_t count = a.integer(a[4], "count");
  if (from > Dtype::kBF16 || to > Dtype::kBF16)
    refuse(Code::kDtype,
           std::string(a.target().name) + ": integer types are not converted; expected f32, f16 or bf16 on both sides");
  const Source source = a.source(a[0], "source", from, count);
  return {source.data, from, static_cast<uint8_t*>(a.output(a[2], "out", to, count)), to, count};
}

Napi::Value convert(Arguments& a) {
  convertAll(conversion(a));
  return a.env().Undefined();
}

Napi::Value convertAsync(Arguments& a) {
  return promise(a, [c = conversion(a)]() -> Status {
    convertAll(c);
    return {};
  });
}

struct Scan {
  int64_t nans = 0, infinities = 0, firstBad = -1;
  double peak = 0;
};

Scan scanFloats(const uint8_t* source, Dtype dtype, int64_t begin, int64_t end) {
  constexpr uint32_t kInfinity = 0x7f800000u;
  Scan scan;
  uint32_t peak = 0;
  alignas(64) float wide[kChunk];
  for (int64_t i = begin; i < end; i += kChunk) {
    const int64_t count = std::min(kChunk, end - i);
    const float* values = asFloats(source + i * dtypeBytes(dtype), dtype, count, wide);
    uint32_t highest = 0;
    for (int64_t j = 0; j < count; ++j) highest = std::max(highest, floatToBits(values[j]) & 0x7fffffffu);
    if (highest < kInfinity) {
      peak = std::max(peak, highest);
      continue;
    }
    for (int64_t j = 0; j < count; ++j) {
      const uint32_t magnitude = floatToBits(values[j]) & 0x7fffffffu;
      if (magnitude < kInfinity) {
        peak = std::max(peak, magnitude);
        continue;
      }
      ++(magnitude == kInfinity ? scan.infinities : scan.nans);
      if (scan.firstBad < 0) scan.firstBad = i + j;
    }
  }
  scan.peak = bitsToFloat(peak);
  return scan;
}

template <typename T>
Scan scanIntegers(const uint8_t* source, int64_t begin, int64_t end) {
  double peak = 0;
  for (int64_t i = begin; i < end; ++i) {
    T value;
    std::memcpy(&value, source + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
    peak = std::max(peak, std::abs(static_cast<double>(value)));
  }
  return {0, 0, -1, peak};
}

Scan scanRange(const uint8_t* source, Dtype dtype, int64_t begin, int64_t end) {
  switch (dtype) {
    case Dtype::kI8:
      return scanIntegers<int8_t>(source, begin, end);
    case Dtype::kU8:
      return scanIntegers<uint8_t>(source, begin, end);
    case Dtype::kI32:
      return scanIntegers<int32_t>(source, begin, end);
    default:
      return scanFloats(source, dtype, begin, end);
  }
}

// [NaN count, Inf count, largest finite |value|, first index or -1].
using ScanResult = std::array<double, 4>;

ScanResult scanAll(const uint8_t* source, Dtype dtype, int64_t count) {
  std::vector<Scan> blocks(static_cast<size_t>((count + kBlock - 1) / kBlock));
  auto task = [&](int64_t block, int) {
    blocks[static_cast<size_t>(block)] =
        scanRange(source, dtype, block * kBlock, std::min(count, (block + 1) * kBlock));
  };
  ThreadPool::instance().run(static_cast<int64_t>(blocks.size()), task);
  ScanResult result{0, 0, 0, -1};
  for (const Scan& block : blocks) {
    result[0] += static_cast<double>(block.nans);
    result[1] += static_cast<double>(block.infinities);
    result[2] = std::max(result[2], block.peak);
    if (result[3] < 0 && block.firstBad >= 0) result[3] = static_cast<double>(block.firstBad);
  }
  return result;
}

Napi::Value scan(Arguments& a) {
  const Dtype dtype = a.dtype(a[1], "dtype");
  const int64_t count = a.integer(a[2], "count");
  const Source source = a.source(a[0], "source", dtype, count);
  return promise(
      a, [=]() -> Result<ScanResult> { return scanAll(source.data, dtype, count); },
      [](Napi::Env env, const ScanResult& result) {
        auto array = Napi::Float64Array::New(env, result.size());
        std::copy(result.begin(), result.end(), array.Data());
        return array;
      });
}

constexpr Export kExports[] = {
    {"convert", convert, false},
    {"convertAsync", convertAsync, true},
    {"scan", scan, true},
};

}  // namespace

std::span<const Export> elementExports() {
  return kExports;
}

}  // namespace tsq
