// Elementwise passes over tensors: conversion, the scan for values that are no numbers, scaling, AWQ's column
// magnitudes.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
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

napi_value convert(Arguments& a) {
  convertAll(conversion(a));
  return a.undefined();
}

napi_value convertAsync(Arguments& a) {
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

napi_value scan(Arguments& a) {
  const Dtype dtype = a.dtype(a[1], "dtype");
  const int64_t count = a.integer(a[2], "count");
  const Source source = a.source(a[0], "source", dtype, count);
  return promise<ScanResult>(
      a, [=]() -> Result<ScanResult> { return scanAll(source.data, dtype, count); },
      [](napi_env env, const ScanResult& result) {
        void* data = nullptr;
        napi_value buffer = nullptr, array = nullptr;
        check(env, napi_create_arraybuffer(env, sizeof(result), &data, &buffer), "napi_create_arraybuffer");
        std::memcpy(data, result.data(), sizeof(result));
        check(env, napi_create_typedarray(env, napi_float64_array, result.size(), buffer, 0, &array),
              "napi_create_typedarray");
        return array;
      });
}

napi_value scaleMatrix(Arguments& a) {
  const int64_t n = a.integer(a[1], "n"), k = a.integer(a[2], "k"), count = product({n, k}, "matrix");
  const float* source = a.view<float>(a[0], "source", count).data;
  const float* rowScale = a.optionalView<float>(a[3], "rowScale", n).data;
  const float* columnScale = a.optionalView<float>(a[4], "columnScale", k).data;
  float* out = a.view<float>(a[5], "out", count).data;
  return promise(a, [=]() -> Status {
    parallelBlocks(n, unitsPerTask(k), AbortFlag(), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const float* x = source + row * k;
        float* y = out + row * k;
        const float scale = rowScale != nullptr ? rowScale[row] : 1.0f;
        if (columnScale == nullptr) {
          for (int64_t j = 0; j < k; ++j) y[j] = x[j] * scale;
        } else {
          for (int64_t j = 0; j < k; ++j) y[j] = x[j] * scale * columnScale[j];
        }
      }
    });
    return {};
  });
}

// AWQ (arXiv 2306.00978; AutoAWQ's w_scale): the mean over rows of |w| / (the group's largest |w| + 1e-6).
// Rows are cut into at most kParts parts, whose sums are added in order: the result depends on n alone, not on the
// threads.
Status columnMagnitudes(const float* w, int64_t n, int64_t k, int64_t groupSize, float* out) {
  constexpr int64_t kParts = 32;
  const int64_t rows = std::max<int64_t>(1, (n + kParts - 1) / kParts), parts = (n + rows - 1) / rows;
  Result<AlignedBuffer> memory = AlignedBuffer::allocate(static_cast<size_t>(parts * k) * sizeof(double));
  if (!memory.ok()) return memory.status();
  double* sums = memory.value().as<double>();
  auto part = [&](int64_t index, int) {
    double* sum = sums + index * k;
    for (int64_t row = index * rows; row < std::min(n, (index + 1) * rows); ++row) {
      for (int64_t begin = 0; begin < k; begin += groupSize) {
        const int64_t end = std::min(k, begin + groupSize);
        const float* x = w + row * k;
        float peak = 0;
        for (int64_t j = begin; j < end; ++j) peak = std::max(peak, std::fabs(x[j]));
        const float inverse = 1.0f / (peak + 1e-6f);
        for (int64_t j = begin; j < end; ++j) sum[j] += std::fabs(x[j]) * inverse;
      }
    }
  };
  ThreadPool::instance().run(parts, part);
  parallelBlocks(k, unitsPerTask(parts), AbortFlag(), [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      double total = 0;
      for (int64_t index = 0; index < parts; ++index) total += sums[index * k + j];
      out[j] = static_cast<float>(total / static_cast<double>(n));
    }
  });
  return {};
}

napi_value columnMagnitude(Arguments& a) {
  const int64_t n = a.integer(a[1], "n", 1), k = a.integer(a[2], "k", 1), groupSize = a.integer(a[3], "groupSize", 1);
  (void)groupCount(k, groupSize);
  const float* w = a.view<float>(a[0], "w", product({n, k}, "w")).data;
  float* out = a.view<float>(a[4], "out", k).data;
  return promise(a, [=]() -> Status { return columnMagnitudes(w, n, k, groupSize, out); });
}

constexpr Export kExports[] = {
    {"convert", convert, false},        {"convertAsync", convertAsync, true},       {"scan", scan, true},
    {"scaleMatrix", scaleMatrix, true}, {"columnMagnitude", columnMagnitude, true},
};

}  // namespace

std::span<const Export> elementExports() {
  return kExports;
}

}  // namespace tsq
