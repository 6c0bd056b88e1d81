// Kernels onto the caller's stream.
#pragma once
#include <algorithm>

#include "cuda/module/runtime.h"

namespace tsq::cuda::module {

template <typename Kernel, typename Parameters>
int enqueue(Kernel* kernel, int64_t blocks, int threads, size_t sharedBytes, Parameters parameters, void* stream,
            TsqCudaText reason, const char* what = "starting a W4A16 kernel") {
  void* arguments[] = {&parameters};
  return answer(cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)),
                                 arguments, sharedBytes, static_cast<cudaStream_t>(stream)),
                what, reason);
}

// For kernels whose threads go through so many values in turns.
inline int64_t blocksOver(int64_t values, int threads) {
  return std::min<int64_t>((values + threads - 1) / threads, 4096);
}

}  // namespace tsq::cuda::module
