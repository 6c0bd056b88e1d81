// Launches of kernels, and what they need to know of the current device.
#pragma once
#include <cuda_runtime_api.h>

#include <algorithm>

#include "cuda/module/runtime.h"

namespace tsq::cuda::module {

// The compute capability of the current device, as 10 major + minor.
constexpr int kHopper = 90;  // which alone runs sm_90a code
inline int capabilityOf(int* capability, TsqCudaText reason) {
  int index = 0, major = 0, minor = 0;
  TSQ_TRY(answer(cudaGetDevice(&index), "asking for the current CUDA device", reason));
  TSQ_TRY(
      answer(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index), "asking a CUDA device", reason));
  TSQ_TRY(
      answer(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index), "asking a CUDA device", reason));
  *capability = 10 * major + minor;
  return kTsqCudaOk;
}

// More shared memory than 48 KiB is for those who ask.
template <typename All>
int allowShared(const All& all, TsqCudaText reason) {
  for (const auto& one : all) {
    const auto* kernel = reinterpret_cast<const void*>(one.kernel);
    TSQ_TRY(answer(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(one.sharedBytes)),
        "preparing the kernels", reason));
  }
  return kTsqCudaOk;
}

// Blocks of so many threads that go over values in strides.
inline int64_t blocksOf(int64_t values, int threads) {
  return std::min<int64_t>((values + threads - 1) / threads, 4096);
}

template <typename Kernel, typename Parameters>
int enqueue(Kernel* kernel, int64_t blocks, int threads, size_t sharedBytes, Parameters parameters, void* stream,
            TsqCudaText reason, const char* what = "starting a kernel") {
  void* arguments[] = {&parameters};
  return answer(cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)),
                                 arguments, sharedBytes, static_cast<cudaStream_t>(stream)),
                what, reason);
}

}  // namespace tsq::cuda::module
