// A cuBLAS for the emulated CUDA runtime: the entry points that benchmarks call, on memory of the host, in the order of
// streams and captures. It has the library's rules: columns first, no products without a workspace of the caller once a
// stream was set (which forgets it) where captures depend on it, statuses in place of crashes.
//   TSQ_EMULATED_CUBLAS_CREATE, TSQ_EMULATED_CUBLAS_GEMM  the status that starting, or a product, fails with
#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>
#include <deque>
#include <mutex>

#include "cuda_runtime_api.h"
#include "runtime/scalar.h"

namespace {

constexpr int kSuccess = 0, kNotInitialized = 1, kInvalidValue = 7, kInternalError = 14, kNotSupported = 15;
constexpr int kVersion = 129901;

struct Handle {
  static constexpr uint32_t kAlive = 0xb1a5;
  uint32_t alive = kAlive;
  int device = 0;
  cudaStream_t stream = nullptr;
  void* workspace = nullptr;
};

// c[column * ldc + row] of n columns and m rows = a^T b, a and b of k rows.
struct Product {
  const uint16_t *a, *b;
  uint16_t* c;
  int m, n, k, lda, ldb, ldc;
  bool bf16;
};

void compute(void* data) {
  const Product& p = *static_cast<const Product*>(data);
  const auto value = [&](uint16_t bits) -> double { return p.bf16 ? tsq::bf16ToFloat(bits) : tsq::f16ToFloat(bits); };
  for (int column = 0; column < p.n; ++column) {
    for (int row = 0; row < p.m; ++row) {
      double sum = 0;
      for (int j = 0; j < p.k; ++j)
        sum += value(p.a[int64_t{row} * p.lda + j]) * value(p.b[int64_t{column} * p.ldb + j]);
      const auto rounded = static_cast<float>(sum);
      p.c[int64_t{column} * p.ldc + row] = p.bf16 ? tsq::floatToBf16(rounded) : tsq::floatToF16(rounded);
    }
  }
}

// Graphs use them until the process ends.
const Product* kept(const Product& product) {
  static auto* mutex = new std::mutex;
  static auto* all = new std::deque<Product>;
  const std::lock_guard lock(*mutex);
  return &all->emplace_back(product);
}

template <typename Function>
Function ofRuntime(const char* name) {
  void* runtime = dlopen(TSQ_CUDA_EMULATED, RTLD_NOW | RTLD_NOLOAD);
  return runtime == nullptr ? nullptr : reinterpret_cast<Function>(dlsym(runtime, name));
}

int planned(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? kSuccess : std::atoi(text);
}

Handle* alive(void* handle) {
  auto* found = static_cast<Handle*>(handle);
  return found != nullptr && found->alive == Handle::kAlive ? found : nullptr;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int cublasCreate_v2(void** handle) {
  if (const int status = planned("TSQ_EMULATED_CUBLAS_CREATE"); status != kSuccess) return status;
  const auto device = ofRuntime<cudaError_t (*)(int*)>("cudaGetDevice");
  auto* made = new Handle;
  if (device == nullptr || device(&made->device) != cudaSuccess) {
    delete made;
    return kNotInitialized;
  }
  *handle = made;
  return kSuccess;
}

EXPORT int cublasDestroy_v2(void* handle) {
  Handle* found = alive(handle);
  if (found == nullptr) return kNotInitialized;
  found->alive = 0;  // stays, so that a second time is seen
  return kSuccess;
}

EXPORT int cublasGetVersion_v2(void* handle, int* version) {
  *version = kVersion;
  return alive(handle) != nullptr ? kSuccess : kNotInitialized;
}

EXPORT int cublasSetStream_v2(void* handle, cudaStream_t stream) {
  Handle* found = alive(handle);
  if (found == nullptr) return kNotInitialized;
  found->stream = stream;
  found->workspace = nullptr;
  return kSuccess;
}

EXPORT int cublasSetWorkspace_v2(void* handle, void* workspace, size_t bytes) {
  Handle* found = alive(handle);
  if (found == nullptr) return kNotInitialized;
  if (workspace == nullptr || bytes == 0 || reinterpret_cast<uintptr_t>(workspace) % 256 != 0) return kInvalidValue;
  found->workspace = workspace;
  return kSuccess;
}

EXPORT int cublasGemmEx(void* handle, int transA, int transB, int m, int n, int k, const float* alpha, const void* a,
                        int typeA, int lda, const void* b, int typeB, int ldb, const float* beta, void* c, int typeC,
                        int ldc, int computeType, int algorithm) {
  if (const int status = planned("TSQ_EMULATED_CUBLAS_GEMM"); status != kSuccess) return status;
  const Handle* found = alive(handle);
  const auto device = ofRuntime<cudaError_t (*)(int*)>("cudaGetDevice");
  const auto launch = ofRuntime<cudaError_t (*)(cudaStream_t, void (*)(void*), void*)>("cudaLaunchHostFunc");
  int current = -1;
  if (found == nullptr || launch == nullptr || device(&current) != cudaSuccess) return kNotInitialized;
  if (current != found->device || found->workspace == nullptr) return kInternalError;
  constexpr int kF16 = 2, kBF16 = 14, kCompute32F = 68, kDefault = -1;
  if (transA != 1 || transB != 0 || computeType != kCompute32F || algorithm != kDefault) return kNotSupported;
  if ((typeA != kF16 && typeA != kBF16) || typeB != typeA || typeC != typeA) return kNotSupported;
  if (*alpha != 1 || *beta != 0) return kNotSupported;
  if (m < 0 || n < 0 || k < 0 || lda < k || ldb < k || ldc < m) return kInvalidValue;
  const Product* product = kept({static_cast<const uint16_t*>(a), static_cast<const uint16_t*>(b),
                                 static_cast<uint16_t*>(c), m, n, k, lda, ldb, ldc, typeA == kBF16});
  return launch(found->stream, compute, const_cast<Product*>(product)) == cudaSuccess ? kSuccess : kInternalError;
}
