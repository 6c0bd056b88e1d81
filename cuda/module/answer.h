// Errors of the CUDA runtime as outcomes of the table's functions.
#pragma once
#include <cuda_runtime_api.h>

#include "cuda/module/arguments.h"

namespace tsq::cuda::module {

inline int answer(cudaError_t error, const char* what, TsqCudaText reason) {
  if (error == cudaSuccess) return kTsqCudaOk;
  cudaGetLastError();  // forgets it, so that later calls do not report it again
  return refuse(kTsqCudaDevice, reason, "%s: %s (%s)", what, cudaGetErrorString(error), cudaGetErrorName(error));
}

}  // namespace tsq::cuda::module
