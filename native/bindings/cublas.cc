#include "bindings/cublas.h"

#include <algorithm>
#include <climits>
#include <filesystem>
#include <iterator>
#include <utility>
#include <vector>

#include "runtime/shared_library.h"

namespace tsq {
namespace {

// cublas_api.h and library_types.h.
constexpr int kNoTranspose = 0, kTranspose = 1;
constexpr int kCompute32F = 68, kCompute32I = 72;
constexpr int kDefaultAlgorithm = -1;
constexpr int kReal16F = 2, kReal8I = 3, kReal32I = 10, kReal16BF = 14;

template <typename Function>
bool find(void* library, const char* name, Function* out, std::string* missing) {
  *out = reinterpret_cast<Function>(findSymbol(library, name));
  if (*out != nullptr) return true;
  *missing += (missing->empty() ? "" : ", ") + std::string(name);
  return false;
}

}  // namespace

Result<std::shared_ptr<CuBlas>> CuBlas::open(const std::string& name) {
  std::vector<std::string> names{"libcublas.so.13", "libcublas.so.12", "libcublas.so.11", "libcublas.so"};
  if (!name.empty()) names = {name};
  std::string reasons;
  for (const std::string& each : names) {
    Result<std::shared_ptr<CuBlas>> opened = attempt(each);
    if (opened.ok()) return opened;
    reasons += (reasons.empty() ? "" : "; ") + opened.status().message();
  }
  return Status(Code::kUnsupported, "cuBLAS is not available: " + reasons);
}

Result<std::shared_ptr<CuBlas>> CuBlas::attempt(const std::string& name) {
  const bool isPath = name.find('/') != std::string::npos;
  const Result<void*> library = isPath ? openLibrary(name) : openSystemLibrary(name.c_str());
  if (!library.ok()) return library.status();
  std::shared_ptr<CuBlas> blas(new CuBlas);
  Create create = nullptr;
  GetVersion getVersion = nullptr;
  std::string missing;
  find(library.value(), "cublasCreate_v2", &create, &missing);
  find(library.value(), "cublasDestroy_v2", &blas->destroy_, &missing);
  find(library.value(), "cublasGetVersion_v2", &getVersion, &missing);
  find(library.value(), "cublasSetStream_v2", &blas->setStream_, &missing);
  find(library.value(), "cublasSetWorkspace_v2", &blas->setWorkspace_, &missing);
  find(library.value(), "cublasGemmEx", &blas->gemmEx_, &missing);
  blas->path_ = name;
  if (!missing.empty())
    return Status(Code::kUnsupported, name + " is no cuBLAS of version 11 or later: it lacks " + missing);
  const std::string folder = folderOf(reinterpret_cast<const void*>(blas->gemmEx_));
  if (!folder.empty()) blas->path_ = folder + "/" + std::filesystem::path(name).filename().string();
  TSQ_RETURN_IF_ERROR(blas->statusOf(create(&blas->handle_), "cublasCreate"));
  TSQ_RETURN_IF_ERROR(blas->statusOf(getVersion(blas->handle_, &blas->version_), "cublasGetVersion"));
  return blas;
}

CuBlas::~CuBlas() {
  if (handle_ != nullptr) destroy_(handle_);
}

Status CuBlas::statusOf(int status, const char* what) const {
  if (status == 0) return {};
  static constexpr std::pair<int, const char*> kNames[] = {
      {1, "NOT_INITIALIZED"},   {3, "ALLOC_FAILED"},    {7, "INVALID_VALUE"},  {8, "ARCH_MISMATCH"},
      {13, "EXECUTION_FAILED"}, {14, "INTERNAL_ERROR"}, {15, "NOT_SUPPORTED"}, {16, "LICENSE_ERROR"}};
  const auto* named =
      std::find_if(std::begin(kNames), std::end(kNames), [=](const auto& e) { return e.first == status; });
  return Status(Code::kUnsupported, path_ + ": " + what + " gives status " + std::to_string(status) +
                                        (named == std::end(kNames) ? "" : std::string(" (") + named->second + ")"));
}

// Its matrices lie in columns, so that rows of ours are its columns: y^T [n][m] = w^T^T x^T.
Status CuBlas::multiply(BlasType type, const void* w, const void* x, void* y, int64_t m, int64_t n, int64_t k,
                        void* stream) {
  if (std::min({m, n, k}) < 1 || std::max({m, n, k}) > INT_MAX)
    return Status(Code::kUnsupported, "cuBLAS: y [" + std::to_string(m) + ", " + std::to_string(n) +
                                          "] over k = " + std::to_string(k) + ", expected sizes from 1 to 2147483647");
  // In this order: to set the stream puts its own workspace back.
  TSQ_RETURN_IF_ERROR(statusOf(setStream_(handle_, stream), "cublasSetStream"));
  if (workspace_ != nullptr)
    TSQ_RETURN_IF_ERROR(
        statusOf(setWorkspace_(handle_, workspace_, static_cast<size_t>(workspaceBytes_)), "cublasSetWorkspace"));
  const bool integers = type == BlasType::kS8;
  const float one = 1, zero = 0;
  const int32_t integerOne = 1, integerZero = 0;
  const int from = integers ? kReal8I : type == BlasType::kBF16 ? kReal16BF : kReal16F;
  const auto rows = static_cast<int>(m), outputs = static_cast<int>(n), terms = static_cast<int>(k);
  return statusOf(gemmEx_(handle_, kTranspose, kNoTranspose, outputs, rows, terms,
                          integers ? static_cast<const void*>(&integerOne) : &one, w, from, terms, x, from, terms,
                          integers ? static_cast<const void*>(&integerZero) : &zero, y, integers ? kReal32I : from,
                          outputs, integers ? kCompute32I : kCompute32F, kDefaultAlgorithm),
                  "cublasGemmEx");
}

}  // namespace tsq
