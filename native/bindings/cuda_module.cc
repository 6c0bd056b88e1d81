#include "bindings/cuda_module.h"

#include <filesystem>

#include "runtime/shared_library.h"

namespace tsq {
namespace {

constexpr const char* kName = "libtsq_cuda.so";
constexpr const char* kRebuild =
    "with nvcc of the CUDA toolkit 12.4 or later installed, `npm rebuild tsq-native --build-from-source` builds it";

// What the machine's driver says, asked without the module. Empty where it answers and has a device.
std::string driverTrouble() {
  const Result<void*> driver = openSystemLibrary("libcuda.so.1");
  if (!driver.ok()) return "no NVIDIA driver is installed";
  const auto start = reinterpret_cast<int (*)(unsigned)>(findSymbol(driver.value(), "cuInit"));
  if (start == nullptr) return "libcuda.so.1 of this machine is no NVIDIA driver";
  constexpr int kNoDevice = 100;
  const int error = start(0);
  if (error == kNoDevice) return "the NVIDIA driver finds no device (is CUDA_VISIBLE_DEVICES set?)";
  if (error != 0) return "the NVIDIA driver does not start: CUDA error " + std::to_string(error);
  return "";
}

Status noModule(const std::string& path) {
#ifndef __linux__
  return Status(Code::kDevice, "the CUDA module is for Linux");
#endif
  const std::string trouble = driverTrouble();
  if (!trouble.empty()) return Status(Code::kDevice, trouble);
  return Status(Code::kDevice,
                "an NVIDIA driver answers, but this build has no CUDA module (" + path + "): " + kRebuild);
}

}  // namespace

Result<CudaModule> openCudaModule(const std::string& path) {
  CudaModule module;
  module.path = path;
  if (path.empty()) {
    module.path = folderOf(reinterpret_cast<const void*>(&openCudaModule)) + "/" + kName;
    std::error_code error;
    if (!std::filesystem::exists(module.path, error)) return noModule(module.path);
  }
  const Result<void*> library = openLibrary(module.path);
  const std::string what = path.empty() ? "the CUDA module " : "TSQ_CUDA_MODULE: ";
  if (!library.ok()) return Status(Code::kDevice, what + library.status().message());
  const auto entry = reinterpret_cast<TsqCudaEntry>(findSymbol(library.value(), "tsqCuda"));
  module.table = entry == nullptr ? nullptr : entry();
  if (module.table == nullptr)
    return Status(Code::kDevice, what + module.path + " is a shared library, but no CUDA module of tsq-native");
  if (module.table->version != kTsqCudaVersion)
    return Status(Code::kDevice, what + module.path + " has version " + std::to_string(module.table->version) +
                                     " of the module's interface, and this addon needs version " +
                                     std::to_string(kTsqCudaVersion) + ": " + kRebuild);
  return module;
}

}  // namespace tsq
