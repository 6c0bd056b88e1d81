// The products of warpgroups in 8 bits, for ptx.cuh: wgmma.m64nNk32, A from registers, B by descriptor.
#pragma once
#include "cuda/types.cuh"

namespace tsq::cuda {

#define TSQ_NAMES_0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define TSQ_NAMES_1 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define TSQ_NAMES_2 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define TSQ_NAMES_3 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define TSQ_NAMES_16 TSQ_NAMES_0
#define TSQ_NAMES_32 TSQ_NAMES_0 ", " TSQ_NAMES_1
#define TSQ_NAMES_64 TSQ_NAMES_32 ", " TSQ_NAMES_2 ", " TSQ_NAMES_3
// Sums from number i on as operands.
#define TSQ_SUMS_4(kind, i) kind(d[i]), kind(d[i + 1]), kind(d[i + 2]), kind(d[i + 3])
#define TSQ_SUMS_8(kind, i) TSQ_SUMS_4(kind, i), TSQ_SUMS_4(kind, i + 4)
#define TSQ_SUMS_16(kind, i) TSQ_SUMS_8(kind, i), TSQ_SUMS_8(kind, i + 8)
#define TSQ_SUMS_32(kind, i) TSQ_SUMS_16(kind, i), TSQ_SUMS_16(kind, i + 16)
#define TSQ_SUMS_64(kind, i) TSQ_SUMS_32(kind, i), TSQ_SUMS_32(kind, i + 32)
// `a`, `b` and `flag` are the names of the operands behind the sums, `end` the signs of operands that floats have.
#define TSQ_WGMMA_8(count, shape, types, kind, a0, b0, flag, end)                                                     \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, " flag ", 0; wgmma.mma_async.sync.aligned." shape "." types            \
               " {" TSQ_NAMES_##count "}, {" a0 "}, " b0 ", p" end "; }"                                              \
               : TSQ_SUMS_##count(kind, 0)                                                                            \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(adds)))
#define TSQ_WGMMA_8_ANY(types, kind, end)                                                                             \
  if constexpr (kColumns == 32) {                                                                                     \
    TSQ_WGMMA_8(16, "m64n32k32", types, kind, "%16, %17, %18, %19", "%20", "%21", end);                               \
  } else if constexpr (kColumns == 64) {                                                                              \
    TSQ_WGMMA_8(32, "m64n64k32", types, kind, "%32, %33, %34, %35", "%36", "%37", end);                               \
  } else {                                                                                                            \
    TSQ_WGMMA_8(64, "m64n128k32", types, kind, "%64, %65, %66, %67", "%68", "%69", end);                              \
  }

// Sums of kE4M3 are float, those of kS8 int32_t; they begin at zero where the product does not add.
template <Type kType, int kColumns, typename Sum>
TSQ_DEVICE void multiplyAsync(Sum (&d)[kColumns / 2], const uint32_t (&a)[4], uint64_t b, bool adds) {
  static_assert(kColumns == 32 || kColumns == 64 || kColumns == 128);
  static_assert(std::is_same_v<Sum, float> ? kType == Type::kE4M3 : kType == Type::kS8);
  if constexpr (kType == Type::kE4M3) {
    TSQ_WGMMA_8_ANY("f32.e4m3.e4m3", "+f", ", 1, 1");
  } else {
    TSQ_WGMMA_8_ANY("s32.s8.s8", "+r", "");
  }
}
template <int kCount>
TSQ_DEVICE void settle(int32_t (&d)[kCount]) {
  TSQ_UNROLL for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(d[i])::"memory");
}

}  // namespace tsq::cuda
