// The outcomes of CUDA's runtime in words, and whether there is a device at all.
#pragma once
#include <cuda_runtime_api.h>

#include "cuda/module/arguments.h"

namespace tsq::cuda::module {

inline int answer(cudaError_t error, const char* what, TsqCudaText reason) {
  if (error == cudaSuccess) return kTsqCudaOk;
  cudaGetLastError();  // forgets it, so that later calls do not report it again
  return refuse(kTsqCudaDevice, reason, "%s: %s (%s)", what, cudaGetErrorString(error), cudaGetErrorName(error));
}

inline int devices(TsqCudaText reason) {
  int count = 0;  // the call leaves it alone where there is no driver
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return count;
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (error == cudaErrorInsufficientDriver && driver == 0) {
    refuse(0, reason, "no NVIDIA driver is installed");
  } else if (error == cudaErrorInsufficientDriver) {
    refuse(0, reason, "the NVIDIA driver supports CUDA %d.%d, and %d.%d is needed: update the driver", driver / 1000,
           driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
  } else if (error == cudaErrorNoDevice || error == cudaSuccess) {
    refuse(0, reason, "the NVIDIA driver finds no device (is CUDA_VISIBLE_DEVICES set?)");
  } else {
    answer(error, "counting CUDA devices", reason);
  }
  return 0;
}

}  // namespace tsq::cuda::module
