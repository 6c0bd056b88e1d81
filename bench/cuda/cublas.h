// cuBLAS, where it can be opened at run time: nothing here is linked with it.
#pragma once
#include <cuda_runtime_api.h>

#include <memory>
#include <string>

#include "bench/cuda/device.h"

namespace bench {

class CuBlas {
 public:
  // Null where no library opens, with the reason. TSQ_CUBLAS names one; else the loader looks for it.
  static std::unique_ptr<CuBlas> open(cudaStream_t stream, std::string* reason);
  ~CuBlas();

  // y[m][n] = x[m][k] w[n][k]^T in f16 or bf16 with sums in float32.
  void multiply(const void* w, const void* x, void* y, int64_t m, int64_t n, int64_t k, bool bf16);
  // Sums in int32 of s8 by s8: y[m][n], without scales. False where the library or the device has no such product.
  bool multiplyS8(const void* w, const void* x, void* y, int64_t m, int64_t n, int64_t k);
  int version() const { return version_; }
  const std::string& path() const { return path_; }

 private:
  CuBlas() = default;
  // cublas_api.h: a status of 0 is success.
  using Create = int (*)(void** handle);
  using Destroy = int (*)(void* handle);
  using GetVersion = int (*)(void* handle, int* version);
  using SetStream = int (*)(void* handle, cudaStream_t stream);
  using SetWorkspace = int (*)(void* handle, void* workspace, size_t bytes);
  using GemmEx = int (*)(void* handle, int transA, int transB, int m, int n, int k, const void* alpha, const void* a,
                         int typeA, int lda, const void* b, int typeB, int ldb, const void* beta, void* c, int typeC,
                         int ldc, int computeType, int algorithm);
  Destroy destroy_ = nullptr;
  GemmEx gemmEx_ = nullptr;
  void* handle_ = nullptr;
  DeviceBuffer<uint8_t> workspace_;
  int version_ = 0;
  std::string path_;
};

}  // namespace bench
