#include "bench/cuda/cublas.h"

#include <dlfcn.h>
#include <library_types.h>

#include <cstdlib>

namespace bench {
namespace {

// cublas_api.h.
constexpr int kNoTranspose = 0, kTranspose = 1;
constexpr int kCompute32F = 68, kCompute32I = 72;
constexpr int kDefaultAlgorithm = -1;
constexpr size_t kWorkspaceBytes = size_t{64} << 20;  // its own, as captured graphs need; no less than it wants on 9.0

void demand(int status, const char* what) {
  if (status != 0) throw std::runtime_error(std::string(what) + ": cuBLAS status " + std::to_string(status));
}

}  // namespace

std::unique_ptr<CuBlas> CuBlas::open(cudaStream_t stream, std::string* reason) {
  std::unique_ptr<CuBlas> blas(new CuBlas);
  void* library = nullptr;
  const char* named = std::getenv("TSQ_CUBLAS");
  for (const char* name : {named, "libcublas.so.13", "libcublas.so.12", "libcublas.so"}) {
    if (name == nullptr || name[0] == '\0') continue;
    library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) {
      blas->path_ = name;
      break;
    }
    *reason += (reason->empty() ? "" : "; ") + std::string(dlerror());
  }
  if (library == nullptr) return nullptr;
  const auto create = reinterpret_cast<Create>(dlsym(library, "cublasCreate_v2"));
  const auto getVersion = reinterpret_cast<GetVersion>(dlsym(library, "cublasGetVersion_v2"));
  const auto setStream = reinterpret_cast<SetStream>(dlsym(library, "cublasSetStream_v2"));
  const auto setWorkspace = reinterpret_cast<SetWorkspace>(dlsym(library, "cublasSetWorkspace_v2"));
  blas->destroy_ = reinterpret_cast<Destroy>(dlsym(library, "cublasDestroy_v2"));
  blas->gemmEx_ = reinterpret_cast<GemmEx>(dlsym(library, "cublasGemmEx"));
  if (!create || !getVersion || !setStream || !setWorkspace || !blas->destroy_ || !blas->gemmEx_) {
    *reason = blas->path_ + " lacks functions of cuBLAS 11 and later";
    return nullptr;
  }
  demand(create(&blas->handle_), "starting");
  demand(getVersion(blas->handle_, &blas->version_), "asking for the version");
  demand(setStream(blas->handle_, stream), "setting the stream");
  blas->workspace_ = DeviceBuffer<uint8_t>(kWorkspaceBytes);
  demand(setWorkspace(blas->handle_, blas->workspace_.data(), kWorkspaceBytes), "setting the workspace");
  return blas;
}

CuBlas::~CuBlas() {
  if (handle_ != nullptr) destroy_(handle_);
}

// Its matrices lie in columns, so that rows of ours are its columns: y^T [n][m] = w^T^T x^T.
void CuBlas::multiply(const void* w, const void* x, void* y, int64_t m, int64_t n, int64_t k, bool bf16) {
  const float one = 1, zero = 0;
  const int type = bf16 ? CUDA_R_16BF : CUDA_R_16F;
  demand(gemmEx_(handle_, kTranspose, kNoTranspose, static_cast<int>(n), static_cast<int>(m), static_cast<int>(k), &one,
                 w, type, static_cast<int>(k), x, type, static_cast<int>(k), &zero, y, type, static_cast<int>(n),
                 kCompute32F, kDefaultAlgorithm),
         "multiplying");
}

bool CuBlas::multiplyS8(const void* w, const void* x, void* y, int64_t m, int64_t n, int64_t k) {
  const int32_t one = 1, zero = 0;
  return gemmEx_(handle_, kTranspose, kNoTranspose, static_cast<int>(n), static_cast<int>(m), static_cast<int>(k), &one,
                 w, CUDA_R_8I, static_cast<int>(k), x, CUDA_R_8I, static_cast<int>(k), &zero, y, CUDA_R_32I,
                 static_cast<int>(n), kCompute32I, kDefaultAlgorithm) == 0;
}

}  // namespace bench
