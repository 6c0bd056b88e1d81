// What calls of W8A8 must satisfy before anything is launched. No CUDA here: tested without a device.
#pragma once
#include "cuda/module/arguments.h"
#include "cuda/w8a8/layout.cuh"

namespace tsq::cuda::module {

inline int checkEight(const char* name, const void* pointer, bool optional, size_t align, TsqCudaText reason) {
  return checkPointer(name, pointer, optional, align, reason, "W8A8");
}

inline int checkShape(const TsqCudaW8A8Shape& shape, TsqCudaText reason) {
  const auto n = static_cast<long long>(shape.n), k = static_cast<long long>(shape.k);
  if (shape.type != kTsqCudaS8 && shape.type != kTsqCudaE4M3) {
    return refuse(kTsqCudaArgument, reason, "W8A8: type is %d, expected 0 (s8) or 1 (e4m3)", shape.type);
  }
  if (n <= 0 || k <= 0 || k > int64_t{1} << 32 || !w8a8::pairsOf(n, k).valid()) {
    return refuse(
        kTsqCudaArgument, reason,
        "W8A8: weight [%lld, %lld]: sizes are positive, n at most 2^31, k at most 2^32, and n k / 2 below 2^45", n, k);
  }
  if (shape.type == kTsqCudaS8 && k > w8a8::kMostKOfIntegers) {
    return refuse(kTsqCudaArgument, reason, "W8A8: k is %lld: sums of s8 fit int32 up to %lld", k,
                  static_cast<long long>(w8a8::kMostKOfIntegers));
  }
  if (shape.blockScales != 0 && shape.type != kTsqCudaE4M3) {
    return refuse(kTsqCudaArgument, reason, "W8A8: scales of blocks are for e4m3, and the type is s8");
  }
  return kTsqCudaOk;
}

inline int checkTokens(const TsqCudaW8A8Shape&, int32_t m, int blocks, TsqCudaText reason) {
  return checkTokens(m > INT_MAX - 128 ? 0 : m, blocks, reason, "W8A8");
}

inline int checkPack(const TsqCudaW8A8Pack& pack, TsqCudaText reason) {
  TSQ_TRY(checkShape(pack.shape, reason));
  if (pack.isUnsigned != 0 && pack.shape.type != kTsqCudaS8) {
    return refuse(kTsqCudaArgument, reason, "W8A8: codes are unsigned, which is for s8, and the type is e4m3");
  }
  if (pack.scaleType < kTsqCudaF32 || pack.scaleType > kTsqCudaBF16) {
    return refuse(kTsqCudaArgument, reason, "W8A8: scaleType is %d, expected 0 (float32), 1 (f16) or 2 (bf16)",
                  pack.scaleType);
  }
  if (pack.sums != nullptr && pack.shape.type != kTsqCudaS8) {
    return refuse(kTsqCudaArgument, reason, "W8A8: sums of codes are for s8, and the type is e4m3: pass null");
  }
  TSQ_TRY(checkEight("the codes", pack.codes, false, 1, reason));
  TSQ_TRY(checkEight("the scales", pack.scales, false, pack.scaleType == kTsqCudaF32 ? 4 : 2, reason));
  TSQ_TRY(checkEight("the packed weight", pack.weights, false, 16, reason));
  TSQ_TRY(checkEight("the packed scales", pack.packedScales, false, 16, reason));
  return checkEight("the sums", pack.sums, true, 4, reason);
}

// Codes with zero points need more bits.
inline int checkZeros(const TsqCudaW8A8Shape& shape, const void* zeros, TsqCudaText reason) {
  TSQ_TRY(checkEight("the zero points", zeros, true, 4, reason));
  if (zeros == nullptr) return kTsqCudaOk;
  if (shape.type != kTsqCudaS8) {
    return refuse(kTsqCudaArgument, reason, "W8A8: zero points are for s8, and the type is e4m3: pass null");
  }
  if (shape.k <= w8a8::kMostKOfShifted) return kTsqCudaOk;
  return refuse(kTsqCudaArgument, reason, "W8A8: k is %lld: sums of s8 with zero points fit int32 up to %lld",
                static_cast<long long>(shape.k), static_cast<long long>(w8a8::kMostKOfShifted));
}

inline int checkRows(const char* name, int32_t m, int64_t stride, int64_t width, TsqCudaText reason) {
  if (m == 1 || stride >= width) return kTsqCudaOk;
  return refuse(kTsqCudaArgument, reason, "W8A8: rows of %s lie %lld apart, expected %lld or more", name,
                static_cast<long long>(stride), static_cast<long long>(width));
}

inline int checkQuantize(const TsqCudaW8A8Quantize& quantize, TsqCudaText reason) {
  TSQ_TRY(checkShape(quantize.shape, reason));
  TSQ_TRY(checkTokens(quantize.shape, quantize.m, 1, reason));
  TSQ_TRY(checkEight("x", quantize.x, false, 2, reason));
  TSQ_TRY(checkEight("the given scale", quantize.given, true, 4, reason));
  TSQ_TRY(checkEight("the quantized x", quantize.codes, false, 16, reason));
  TSQ_TRY(checkEight("the scales of x", quantize.scales, false, 16, reason));
  TSQ_TRY(checkZeros(quantize.shape, quantize.zeros, reason));
  if (quantize.given != nullptr && (quantize.zeros != nullptr || quantize.shape.blockScales != 0)) {
    return refuse(kTsqCudaArgument, reason,
                  "W8A8: a given scale goes without zero points and without scales of blocks");
  }
  return checkRows("x", quantize.m, quantize.strideX, quantize.shape.k, reason);
}

inline int checkGemm(const TsqCudaW8A8& gemm, TsqCudaText reason) {
  TSQ_TRY(checkShape(gemm.shape, reason));
  TSQ_TRY(checkTokens(gemm.shape, gemm.m, gemm.blocks, reason));
  TSQ_TRY(checkEight("the weight", gemm.weights, false, 16, reason));
  TSQ_TRY(checkEight("the scales", gemm.scales, false, 16, reason));
  TSQ_TRY(checkEight("the quantized x", gemm.codes, false, 16, reason));
  TSQ_TRY(checkEight("the scales of x", gemm.activationScales, false, 16, reason));
  TSQ_TRY(checkZeros(gemm.shape, gemm.zeros, reason));
  TSQ_TRY(checkEight("the sums", gemm.sums, gemm.zeros == nullptr, 4, reason));
  TSQ_TRY(checkEight("the bias", gemm.bias, true, 2, reason));
  TSQ_TRY(checkEight("y", gemm.y, false, 2, reason));
  TSQ_TRY(checkEight("the counters", gemm.counters, false, 4, reason));
  TSQ_TRY(checkEight("the partial sums", gemm.partials, false, 16, reason));
  return checkRows("y", gemm.m, gemm.strideY, gemm.shape.n, reason);
}

// e4m3 multiplies on tensor cores since compute capability 8.9 (PTX ISA, mma).
inline int checkCapability(const TsqCudaW8A8Shape& shape, int capability, TsqCudaText reason) {
  if (shape.type != kTsqCudaE4M3 || capability >= 89) return kTsqCudaOk;
  return refuse(kTsqCudaDevice, reason,
                "W8A8: e4m3 needs a device of compute capability 8.9 or later, and this one has %d.%d: use s8, or "
                "weights of 8 bits with activations of 16",
                capability / 10, capability % 10);
}

}  // namespace tsq::cuda::module
