#include "cuda/module/memory.h"

#include "cuda/module/runtime.h"

namespace tsq::cuda::module {

int use(int index, TsqCudaText reason) {
  return answer(cudaSetDevice(index), "choosing a CUDA device", reason);
}

int openStream(void** stream, TsqCudaText reason) {
  int index = 0;
  TSQ_TRY(answer(cudaGetDevice(&index), "asking for the current CUDA device", reason));
  // Memory that was released stays with the process: what a product returns is taken from there, not from the driver.
  cudaMemPool_t pool = nullptr;
  uint64_t keep = UINT64_MAX;
  TSQ_TRY(answer(cudaDeviceGetDefaultMemPool(&pool, index), "asking for the device's memory pool", reason));
  TSQ_TRY(answer(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep),
                 "preparing the device's memory pool", reason));
  cudaStream_t created = nullptr;
  TSQ_TRY(answer(cudaStreamCreateWithFlags(&created, cudaStreamNonBlocking), "creating a stream", reason));
  *stream = created;
  return kTsqCudaOk;
}

int closeStream(void* stream, TsqCudaText reason) {
  return answer(cudaStreamDestroy(static_cast<cudaStream_t>(stream)), "closing a stream", reason);
}

int allocate(int64_t bytes, void* stream, void** out, TsqCudaText reason) {
  const cudaError_t error = cudaMallocAsync(out, static_cast<size_t>(bytes), static_cast<cudaStream_t>(stream));
  if (error != cudaErrorMemoryAllocation) return answer(error, "allocating memory of the device", reason);
  cudaGetLastError();
  size_t free = 0, total = 0;
  TSQ_TRY(answer(cudaMemGetInfo(&free, &total), "asking for the memory of the device", reason));
  return refuse(kTsqCudaMemory, reason, "%lld bytes do not fit: %zu of the device's %zu bytes are free",
                static_cast<long long>(bytes), free, total);
}

int release(void* memory, void* stream, TsqCudaText reason) {
  return answer(cudaFreeAsync(memory, static_cast<cudaStream_t>(stream)), "releasing memory of the device", reason);
}

int clear(void* memory, int64_t bytes, void* stream, TsqCudaText reason) {
  return answer(cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes), static_cast<cudaStream_t>(stream)),
                "clearing memory of the device", reason);
}

int copy(void* to, const void* from, int64_t bytes, void* stream, TsqCudaText reason) {
  return answer(
      cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, static_cast<cudaStream_t>(stream)),
      "copying memory of the device", reason);
}

int wait(void* stream, TsqCudaText reason) {
  return answer(cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), "waiting for the device", reason);
}

}  // namespace tsq::cuda::module
