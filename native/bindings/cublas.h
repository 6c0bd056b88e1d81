// cuBLAS, which benchmarks set beside our kernels. It is opened at run time: nothing is linked with it. No JavaScript
// here, and no device either: bench/cuda, which has its own, uses it too.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "runtime/status.h"

namespace tsq {

// Of w and x, and of y, which for s8 is int32. Sums are float32, or int32.
enum class BlasType { kF16, kBF16, kS8 };

// For one device, which is the current one of the calling thread in every call; used by one thread at a time.
class CuBlas {
 public:
  // The library of this name or path. Empty: the newest of those from 11 to 13 that opens and starts on the device.
  // A failure (kUnsupported) says of each that was tried what is wrong.
  static Result<std::shared_ptr<CuBlas>> open(const std::string& name);
  // Waits for the device.
  ~CuBlas();
  CuBlas(const CuBlas&) = delete;
  CuBlas& operator=(const CuBlas&) = delete;

  // 4 MiB, and 32 on 9.0 and later, are what its documentation recommends.
  static constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;
  // Memory of the device for products from now on. It has its own otherwise, which graphs cannot be sure of.
  void useWorkspace(void* memory, int64_t bytes) {
    workspace_ = memory;
    workspaceBytes_ = bytes;
  }

  // Enqueues y[m][n] = x[m][k] w[n][k]^T. kUnsupported where the library or the device has no such product.
  Status multiply(BlasType type, const void* w, const void* x, void* y, int64_t m, int64_t n, int64_t k, void* stream);

  int version() const { return version_; }
  const std::string& path() const { return path_; }

 private:
  CuBlas() = default;
  static Result<std::shared_ptr<CuBlas>> attempt(const std::string& name);
  Status statusOf(int status, const char* what) const;

  // cublas_api.h: a status of 0 is success.
  using Create = int (*)(void** handle);
  using Destroy = int (*)(void* handle);
  using GetVersion = int (*)(void* handle, int* version);
  using SetStream = int (*)(void* handle, void* stream);
  using SetWorkspace = int (*)(void* handle, void* workspace, size_t bytes);
  using GemmEx = int (*)(void* handle, int transA, int transB, int m, int n, int k, const void* alpha, const void* a,
                         int typeA, int lda, const void* b, int typeB, int ldb, const void* beta, void* c, int typeC,
                         int ldc, int computeType, int algorithm);
  Destroy destroy_ = nullptr;
  SetStream setStream_ = nullptr;
  SetWorkspace setWorkspace_ = nullptr;
  GemmEx gemmEx_ = nullptr;
  void* handle_ = nullptr;
  void* workspace_ = nullptr;
  int64_t workspaceBytes_ = 0;
  int version_ = 0;
  std::string path_;
};

}  // namespace tsq
