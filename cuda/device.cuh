// The only view of a GPU that kernels have. nvcc compiles them to instructions (ptx.cuh); any C++20 compiler compiles
// the same sources to a functional emulation (emulation/device.h), in which they are tested on machines without a GPU.
//
// Rules for kernels, all of which the emulation enforces or needs:
//   - memory is reached only through Global<T> and Shared<T>: load, store, the copies and the atomics below
//   - no static __shared__, no inline assembly, no built-in variables, no reliance on warps running in step
//   - every thread of a block reaches every syncThreads, and nobody returns before
//
//   threadIndex() blockIndex() blockCount()      sharedMemory<T>(byte offset)
//   load(p) store(p, v)                          T of 1, 2, 4, 8 or 16 bytes; Words and Floats are the 16-byte ones
//   hideOrigin(p)                                the compiler then forms one pointer after the other, not all beforehand
//   syncThreads() syncWarp(mask) syncSome(barrier, threads)
//   shuffleXor(v, bits) shuffleFrom(v, lane) ballot(predicate)   with an optional mask of lanes
//   copyAsync(to, from, bytes) copyAsyncOnce(…)  cp.async of 16 bytes, those from `bytes` on zero; …Once: read once only
//   commitCopies() waitCopies<groups left>()
//   loadMatrices(r, row) loadMatricesTransposed(r, row)          ldmatrix.x4
//   multiply<type>(d, a, b0, b1)                 mma: m16n8k16 for kF16, kBF16; m16n8k32 for kE4M3; multiplyS8 for s8
//   andOr(a, b, c) rotateRight(v, bits) permuteBytes(a, b, selector)   lop3, shf, prmt
//   fusedMultiplyAdd(a, b, c) squareRoot(v)      f32 and f64 (the root: f64), rounded once
//   fusedMultiplyAdd2<type>(a, b, c)             of the two values of a word
//   reciprocal(v)                                rcp.approx: to an ulp, of normal numbers
//   bitsOf(f) floatOf(bits) toNearest(f)         the bits of a float and back; the nearest integer, ties to even
//   atomicAdd(p, v) atomicAddSync(p, v)          device scope; …Sync releases and acquires
//   loadAcquire(p) storeRelease(p, v)            device scope
//
// sm_90a only:
//   initBarrier(b, arrivals) arrive(b) arriveExpecting(b, bytes) waitPhase(b, parity)   mbarrier
//   copyBulk(to, from, bytes, b)                 cp.async.bulk, reports its bytes to the barrier
//   takeRegisters<n>() leaveRegisters<n>()       setmaxnreg: this warpgroup has n from now on, more or fewer
//   proxyFence()                                 shows this thread's writes, once a barrier orders them, to wgmma
//   fenceProducts() multiplyAsync<type, columns>(d, a, descriptor(shared)) commitProducts() waitProducts<groups left>()
//   settle(d)                                    after the wait, before d is used: keeps the compiler from reading d early
//                                                wgmma.m64nNk16 of a warpgroup, A from registers, B [columns][16] in
//                                                rows of 128 bytes whose 16-byte chunks are permuted by row % 8
//   multiplyAsync<type, columns>(d, a, descriptor(shared), adds)  wgmma.m64nNk32 for kE4M3, and for kS8 with sums of
//                                                int32; d begins at zero where it does not add
#pragma once
#if defined(__CUDACC__)
#include "cuda/ptx.cuh"
#else
#include "cuda/emulation/device.h"
#endif

namespace tsq::cuda {

// The matrix descriptor of an operand of wgmma in rows of 128 bytes, eight of them next to each other (PTX ISA,
// asynchronous warpgroup matrix descriptor: address, stride of 1024 bytes, permutation of 128 bytes).
template <typename T>
TSQ_DEVICE uint64_t descriptor(Shared<T> rows) {
  return uint64_t{1} << 62 | uint64_t{1024 >> 4} << 32 | (sharedAddress(rows) & 0x3ffff) >> 4;
}

}  // namespace tsq::cuda
