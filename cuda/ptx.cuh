// cuda/device.cuh for nvcc: one instruction each, named as in the PTX ISA.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "cuda/types.cuh"

#define TSQ_DEVICE __device__ __forceinline__
#define TSQ_BOTH __host__ __device__ __forceinline__
#define TSQ_PRAGMA(text) _Pragma(#text)
#define TSQ_UNROLL TSQ_PRAGMA(unroll)
#define TSQ_UNROLL_BY(count) TSQ_PRAGMA(unroll count)
#define TSQ_KERNEL(threads) __global__ void __launch_bounds__(threads, 1)

namespace tsq::cuda {

constexpr uint32_t kAllLanes = 0xffffffffu;

template <typename T>
struct Global {
  T* pointer = nullptr;
  TSQ_BOTH Global operator+(int64_t elements) const { return {pointer + elements}; }
  TSQ_BOTH explicit operator bool() const { return pointer != nullptr; }
  template <typename U>
    requires(std::is_same_v<U, const T>)
  TSQ_BOTH operator Global<U>() const { return {pointer}; }
};

template <typename T>
struct Shared {
  T* pointer;
  TSQ_DEVICE Shared operator+(int elements) const { return {pointer + elements}; }
};

TSQ_DEVICE int threadIndex() {
  return static_cast<int>(threadIdx.x);
}
TSQ_DEVICE int blockIndex() {
  return static_cast<int>(blockIdx.x);
}
TSQ_DEVICE int blockCount() {
  return static_cast<int>(gridDim.x);
}
template <typename T>
TSQ_DEVICE Shared<T> sharedMemory(uint32_t byteOffset) {
  extern __shared__ __align__(1024) unsigned char bytes[];
  return {reinterpret_cast<T*>(bytes + byteOffset)};
}

// Structures of 16 bytes move as vectors only where their type says so.
template <typename T>
TSQ_DEVICE std::remove_const_t<T> loadFrom(T* from) {
  if constexpr (sizeof(T) == 16) {
    const uint4 bits = *reinterpret_cast<const uint4*>(from);
    return *reinterpret_cast<const std::remove_const_t<T>*>(&bits);
  } else {
    return *from;
  }
}
template <typename T>
TSQ_DEVICE void storeTo(T* to, const T& value) {
  if constexpr (sizeof(T) == 16) {
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(&value);
  } else {
    *to = value;
  }
}
template <typename T>
TSQ_DEVICE std::remove_const_t<T> load(Global<T> from) {
  return loadFrom(from.pointer);
}
template <typename T>
TSQ_DEVICE void store(Global<T> to, std::type_identity_t<T> value) {
  storeTo(to.pointer, value);
}
template <typename T>
TSQ_DEVICE T load(Shared<T> from) {
  return loadFrom(from.pointer);
}
template <typename T>
TSQ_DEVICE void store(Shared<T> to, std::type_identity_t<T> value) {
  storeTo(to.pointer, value);
}

template <typename T>
TSQ_DEVICE void hideOrigin(Global<T>& p) {
  asm volatile("" : "+l"(p.pointer));
}

TSQ_DEVICE void syncThreads() {
  __syncthreads();
}
TSQ_DEVICE void syncSome(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
TSQ_DEVICE void syncWarp(uint32_t mask = kAllLanes) {
  __syncwarp(mask);
}
template <typename T>
TSQ_DEVICE T shuffleFrom(T value, int lane, uint32_t mask = kAllLanes) {
  return __shfl_sync(mask, value, lane);
}
template <typename T>
TSQ_DEVICE T shuffleXor(T value, int laneBits, uint32_t mask = kAllLanes) {
  return __shfl_xor_sync(mask, value, laneBits);
}
TSQ_DEVICE uint32_t ballot(bool predicate, uint32_t mask = kAllLanes) {
  return __ballot_sync(mask, predicate);
}

template <typename T>
TSQ_DEVICE uint32_t sharedAddress(Shared<T> at) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(at.pointer));
}
TSQ_DEVICE void copyAsync(Shared<Words> to, Global<const Words> from, int bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(sharedAddress(to)), "l"(from.pointer), "r"(bytes)
               : "memory");
}
TSQ_DEVICE void copyAsyncOnce(Shared<Words> to, Global<const Words> from, int bytes = 16) {
  uint64_t policy;  // the compiler hoists it out of loops
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(sharedAddress(to)),
               "l"(from.pointer), "r"(bytes), "l"(policy)
               : "memory");
}
TSQ_DEVICE void commitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kLeft>
TSQ_DEVICE void waitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

TSQ_DEVICE void loadMatrices(uint32_t (&r)[4], Shared<Words> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(sharedAddress(row))
               : "memory");
}
TSQ_DEVICE void loadMatricesTransposed(uint32_t (&r)[4], Shared<Words> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(sharedAddress(row))
               : "memory");
}

#define TSQ_MMA(shape, types, kind, d, a, b0, b1)                                                                  \
  asm volatile("mma.sync.aligned." shape ".row.col." types " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "       \
               "{%0, %1, %2, %3};"                                                                                 \
               : kind(d[0]), kind(d[1]), kind(d[2]), kind(d[3])                                                    \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))

template <Type kType>
TSQ_DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (kType == Type::kF16) {
    TSQ_MMA("m16n8k16", "f32.f16.f16.f32", "+f", d, a, b0, b1);
  } else if constexpr (kType == Type::kBF16) {
    TSQ_MMA("m16n8k16", "f32.bf16.bf16.f32", "+f", d, a, b0, b1);
  } else {
    TSQ_MMA("m16n8k32", "f32.e4m3.e4m3.f32", "+f", d, a, b0, b1);
  }
}
TSQ_DEVICE void multiplyS8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  TSQ_MMA("m16n8k32", "s32.s8.s8.s32", "+r", d, a, b0, b1);
}

TSQ_DEVICE int atomicAdd(Global<int> to, int value) {
  int old;
  asm volatile("atom.relaxed.gpu.global.add.s32 %0, [%1], %2;" : "=r"(old) : "l"(to.pointer), "r"(value) : "memory");
  return old;
}
TSQ_DEVICE int atomicAddSync(Global<int> to, int value) {
  int old;
  asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], %2;" : "=r"(old) : "l"(to.pointer), "r"(value) : "memory");
  return old;
}
TSQ_DEVICE int loadAcquire(Global<const int> from) {
  int value;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(from.pointer) : "memory");
  return value;
}
TSQ_DEVICE void storeRelease(Global<int> to, int value) {
  asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(to.pointer), "r"(value) : "memory");
}

TSQ_BOTH constexpr uint32_t rotateRight(uint32_t value, int bits) {
  return value >> (bits & 31) | value << (-bits & 31);
}
TSQ_DEVICE uint32_t andOr(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t r;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
}
TSQ_DEVICE uint32_t permuteBytes(uint32_t a, uint32_t b, uint32_t selector) {
  uint32_t r;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(selector));
  return r;
}
TSQ_DEVICE float fusedMultiplyAdd(float a, float b, float c) {
  return __fmaf_rn(a, b, c);
}
TSQ_DEVICE double fusedMultiplyAdd(double a, double b, double c) {
  return __fma_rn(a, b, c);
}
TSQ_DEVICE double squareRoot(double value) {
  return __dsqrt_rn(value);
}
TSQ_DEVICE float reciprocal(float a) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(a));
  return r;
}
TSQ_DEVICE uint32_t bitsOf(float value) {
  return __float_as_uint(value);
}
TSQ_DEVICE float floatOf(uint32_t bits) {
  return __uint_as_float(bits);
}
TSQ_DEVICE int toNearest(float value) {
  return __float2int_rn(value);
}
template <Type kType>
TSQ_BOTH float toFloat(uint16_t bits) {
  if constexpr (kType == Type::kF16) return __half2float(__ushort_as_half(bits));
  return __bfloat162float(__ushort_as_bfloat16(bits));
}
template <Type kType>
TSQ_BOTH uint16_t fromFloat(float value) {
  if constexpr (kType == Type::kF16) return __half_as_ushort(__float2half_rn(value));
  return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

// --- sm_90a ---

TSQ_DEVICE void initBarrier(Shared<Arrivals> barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(sharedAddress(barrier)), "r"(arrivals) : "memory");
}
TSQ_DEVICE void arrive(Shared<Arrivals> barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(sharedAddress(barrier)) : "memory");
}
TSQ_DEVICE void arriveExpecting(Shared<Arrivals> barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(sharedAddress(barrier)), "r"(bytes)
               : "memory");
}
TSQ_DEVICE void waitPhase(Shared<Arrivals> barrier, uint32_t parity) {
  uint32_t done = 0;
  while (done == 0) {
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(done)
                 : "r"(sharedAddress(barrier)), "r"(parity)
                 : "memory");
  }
}
TSQ_DEVICE void copyBulk(Shared<Words> to, Global<const Words> from, int bytes, Shared<Arrivals> barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   sharedAddress(to)),
               "l"(from.pointer), "r"(bytes), "r"(sharedAddress(barrier))
               : "memory");
}
TSQ_DEVICE void proxyFence() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

TSQ_DEVICE void fenceProducts() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
TSQ_DEVICE void commitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kLeft>
TSQ_DEVICE void waitProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
}
template <int kCount>
TSQ_DEVICE void settle(float (&d)[kCount]) {
  TSQ_UNROLL for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#define TSQ_WGMMA_32(type)                                                                        \
  asm volatile("{ .reg .pred p; setp.eq.u32 p, 0, 0; "                                            \
               "wgmma.mma_async.sync.aligned.m64n32k16.f32." type "." type " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, {%16, %17, %18, %19}, %20, p, 1, 1, 0; }" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])                                                                               \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define TSQ_WGMMA_64(type)                                                                        \
  asm volatile("{ .reg .pred p; setp.eq.u32 p, 0, 0; "                                            \
               "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, p, 1, 1, 0; }" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])                                                                               \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

#define TSQ_WGMMA_128(type) \
  asm volatile("{ .reg .pred p; setp.eq.u32 p, 0, 0; " \
               "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, {%64, %65, %66, %67}, %68, p, 1, 1, 0; }" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]) \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

template <Type kType, int kColumns>
TSQ_DEVICE void multiplyAsync(float (&d)[kColumns / 2], const uint32_t (&a)[4], uint64_t b) {
  static_assert(kColumns == 32 || kColumns == 64 || kColumns == 128);
  constexpr bool kHalf = kType == Type::kF16;
  if constexpr (kColumns == 32 && kHalf) {
    TSQ_WGMMA_32("f16");
  } else if constexpr (kColumns == 32) {
    TSQ_WGMMA_32("bf16");
  } else if constexpr (kColumns == 64 && kHalf) {
    TSQ_WGMMA_64("f16");
  } else if constexpr (kColumns == 64) {
    TSQ_WGMMA_64("bf16");
  } else if constexpr (kHalf) {
    TSQ_WGMMA_128("f16");
  } else {
    TSQ_WGMMA_128("bf16");
  }
}

template <int kCount>
TSQ_DEVICE void takeRegisters() {
  static_assert(kCount % 8 == 0 && kCount >= 24 && kCount <= 256);
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
TSQ_DEVICE void leaveRegisters() {
  static_assert(kCount % 8 == 0 && kCount >= 24 && kCount <= 256);
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

template <Type kType>
TSQ_DEVICE uint32_t fusedMultiplyAdd2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t r;
  if constexpr (kType == Type::kF16) {
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  } else {
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  }
  return r;
}

}  // namespace tsq::cuda

#include "cuda/ptx_products8.cuh"
