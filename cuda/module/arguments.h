// What a call must satisfy before anything is launched. No CUDA here: tested without a device.
#pragma once
#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdarg>
#include <cstdio>

#include "cuda/module/module.h"
#include "cuda/w4a16/layout.cuh"

namespace tsq::cuda::module {

__attribute__((format(printf, 3, 4))) inline int refuse(int outcome, TsqCudaText reason, const char* format, ...) {
  if (reason.text == nullptr || reason.capacity == 0) return outcome;
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(reason.text, reason.capacity, format, arguments);
  va_end(arguments);
  return outcome;
}

inline w4a16::Shape shapeOf(const TsqCudaShape& shape) {
  return {shape.n, shape.k, shape.group, shape.bits, shape.book != 0};
}

inline int checkShape(const TsqCudaShape& shape, TsqCudaText reason) {
  if (shapeOf(shape).valid()) {
    if (shape.book == 0 || shape.k % shape.group == 0) return kTsqCudaOk;
    return refuse(
        kTsqCudaArgument, reason,
        "W4A16: weight [%lld, %lld] with a code book in blocks of %lld, which run over its rows as one: expected "
        "blocks that divide k, so that none belongs to two rows; dequantize this one",
        static_cast<long long>(shape.n), static_cast<long long>(shape.k), static_cast<long long>(shape.group));
  }
  return refuse(
      kTsqCudaArgument, reason,
      "W4A16: weight [%lld, %lld] of %d bits in groups of %lld: groups are 16, 32, a multiple of 64, or k and more; "
      "sizes are positive at most 2^31, and below 2^45 in all; bits are 4 (with a code book too), 8, or 16 in one "
      "group",
      static_cast<long long>(shape.n), static_cast<long long>(shape.k), shape.bits,
      static_cast<long long>(shape.group));
}

inline int checkPointer(const char* name, const void* pointer, bool optional, size_t align, TsqCudaText reason,
                        const char* who = "W4A16") {
  if (pointer == nullptr) return optional ? kTsqCudaOk : refuse(kTsqCudaArgument, reason, "%s: %s is null", who, name);
  if (reinterpret_cast<uintptr_t>(pointer) % align == 0) return kTsqCudaOk;
  return refuse(kTsqCudaArgument, reason, "%s: %s at %p is not aligned to %zu bytes", who, name, pointer, align);
}

#define TSQ_TRY(call)                                           \
  do {                                                          \
    if (const int outcome = call; outcome != 0) return outcome; \
  } while (false)

inline int checkPack(const TsqCudaPack& pack, size_t sourceAlign, TsqCudaText reason) {
  TSQ_TRY(checkShape(pack.shape, reason));
  TSQ_TRY(checkPointer("the source", pack.source, false, sourceAlign, reason));
  TSQ_TRY(checkPointer("the order", pack.order, true, 4, reason));
  return checkPointer("the packed weight", pack.packed, false, 16, reason);
}

// m tokens by blocks of a slab: as many blocks as a grid may have.
inline int checkTokens(int32_t m, int blocks, TsqCudaText reason, const char* who = "W4A16") {
  if (m > 0 && blocks > 0 && (int64_t{m} + 23) / 8 * blocks <= INT_MAX) return kTsqCudaOk;
  return refuse(kTsqCudaArgument, reason, "%s: %d tokens by %d blocks are not a grid", who, m, blocks);
}

inline int checkGemm(const TsqCudaW4A16& gemm, TsqCudaText reason) {
  TSQ_TRY(checkShape(gemm.shape, reason));
  TSQ_TRY(checkTokens(gemm.m, gemm.blocks, reason));
  TSQ_TRY(checkPointer("the weight", gemm.weights, false, 16, reason));
  TSQ_TRY(checkPointer("the scales", gemm.scales, gemm.shape.bits == 16, 16, reason));
  TSQ_TRY(checkPointer("the zero points", gemm.zeros, true, 16, reason));
  if (gemm.shape.book != 0 && gemm.zeros != nullptr)
    return refuse(kTsqCudaArgument, reason, "W4A16: a weight with a code book has no zero points, and some are given");
  if (gemm.shape.book != 0 && gemm.book.scale == 0)
    return refuse(kTsqCudaArgument, reason, "W4A16: the code book of the weight is not given: makeBook makes it");
  TSQ_TRY(checkPointer("x", gemm.x, false, 2, reason));
  TSQ_TRY(checkPointer("the order", gemm.order, true, 4, reason));
  TSQ_TRY(checkPointer("the bias", gemm.bias, true, 2, reason));
  TSQ_TRY(checkPointer("y", gemm.y, false, 2, reason));
  TSQ_TRY(checkPointer("the counters", gemm.counters, false, 4, reason));
  TSQ_TRY(checkPointer("the partial sums", gemm.partials, false, 16, reason));
  if (gemm.m > 1 && (gemm.strideX < gemm.shape.k || gemm.strideY < gemm.shape.n)) {
    return refuse(kTsqCudaArgument, reason,
                  "W4A16: rows of x lie %lld apart and those of y %lld, expected %lld and %lld or more",
                  static_cast<long long>(gemm.strideX), static_cast<long long>(gemm.strideY),
                  static_cast<long long>(gemm.shape.k), static_cast<long long>(gemm.shape.n));
  }
  return kTsqCudaOk;
}

inline int checkBook(const float (&values)[16], TsqCudaText reason) {
  float largest = 0;
  for (int i = 0; i < 16; ++i) {
    if (!std::isfinite(values[i]))
      return refuse(kTsqCudaArgument, reason, "W4A16: value %d of the code book is %g, expected a finite one", i,
                    static_cast<double>(values[i]));
    largest = std::max(largest, std::abs(values[i]));
  }
  if (largest >= 0x1p-60f && largest <= 0x1p60f) return kTsqCudaOk;
  return refuse(kTsqCudaArgument, reason,
                "W4A16: the largest value of the code book is %g, expected 2^-60 to 2^60: scale the book, and the "
                "weight's scales the other way",
                static_cast<double>(largest));
}

}  // namespace tsq::cuda::module
