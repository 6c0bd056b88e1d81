// The CUDA module (cuda/module/module.h): found, opened and checked where something asks for CUDA, never before.
#pragma once
#include <string>

#include "cuda/module/module.h"
#include "runtime/status.h"

namespace tsq {

struct CudaModule {
  const TsqCuda* table = nullptr;
  std::string path;
};

// `path` empty: libtsq_cuda.so in the addon's folder. A failure (kDevice) says in plain words what is missing and what
// to do. Keeps nothing between calls: the system knows what is open.
Result<CudaModule> openCudaModule(const std::string& path);

// Room for the reason of a failed call of the module.
class CudaReason {
 public:
  operator TsqCudaText() { return {text_, sizeof(text_)}; }  // NOLINT: implicit on purpose
  std::string text() const { return text_; }

 private:
  char text_[1024] = "";
};

}  // namespace tsq
