// What the CUDA module tells of the machine.
#include "bindings/cuda_module.h"
#include "bindings/exports.h"

namespace tsq {
namespace {

Napi::Object describe(Napi::Env env, const TsqCudaDevice& device) {
  auto object = Napi::Object::New(env);
  object.Set("name", device.name);
  object.Set("major", device.major);
  object.Set("minor", device.minor);
  object.Set("multiprocessors", device.multiprocessors);
  object.Set("memoryBytes", static_cast<double>(device.memoryBytes));
  return object;
}

Napi::Value cuda(Arguments& a) {
  const auto info = Napi::Object::New(a.env());
  const auto devices = Napi::Array::New(a.env());
  info.Set("module", a.env().Null());
  info.Set("devices", devices);
  info.Set("reason", "");
  const Result<CudaModule> module = openCudaModule(a.isNull(a[0]) ? std::string() : a.string(a[0], "module"));
  if (!module.ok()) {
    info.Set("reason", module.status().message());
    return info;
  }
  const TsqCuda& table = *module.value().table;
  info.Set("module", module.value().path);
  CudaReason reason;
  const int count = table.devices(reason);
  for (int i = 0; i < count; ++i) {
    TsqCudaDevice device{};
    if (table.device(i, &device, reason) != kTsqCudaOk)
      break;  // a device that was lost: all are, and the reason says so
    devices.Set(static_cast<uint32_t>(i), describe(a.env(), device));
  }
  info.Set("reason", reason.text());
  return info;
}

constexpr Export kExports[] = {{"cuda", cuda, false}};

}  // namespace

std::span<const Export> cudaExports() {
  return kExports;
}

}  // namespace tsq
