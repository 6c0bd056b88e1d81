// The machine: kernel tables, instruction-set features, threads.
#include <string>
#include <vector>

#include "bindings/exports.h"
#include "kernels/kernels.h"
#include "runtime/cpu_features.h"
#include "runtime/thread_pool.h"

namespace tsq {
namespace {

Napi::Array stringArray(Napi::Env env, const std::vector<std::string>& texts) {
  auto array = Napi::Array::New(env, texts.size());
  for (uint32_t i = 0; i < texts.size(); ++i) array.Set(i, texts[i]);
  return array;
}

Napi::Value cpu(Arguments& a) {
  int count = 0;
  const KernelTable* const* tables = supportedKernels(&count);
  std::vector<std::string> supported;
  for (int i = 0; i < count; ++i) supported.emplace_back(tables[i]->name);
  auto info = Napi::Object::New(a.env());
  info.Set("kernels", kernels().name);
  info.Set("supported", stringArray(a.env(), supported));
  info.Set("features", stringArray(a.env(), cpuFeatures().names()));
  info.Set("threads", ThreadPool::instance().threads());
  return info;
}

Napi::Value selectKernelsByName(Arguments& a) {
  const bool byDefault = a.isNull(a[0]);
  const std::string name = byDefault ? std::string() : a.string(a[0], "name");
  check(selectKernels(byDefault ? nullptr : name.c_str()));
  return a.env().Undefined();
}

Napi::Value setThreads(Arguments& a) {
  ThreadPool::instance().setThreads(static_cast<int>(a.integer(a[0], "threads", 1, ThreadPool::kMaxThreads)));
  return a.env().Undefined();
}

Napi::Value threads(Arguments& a) {
  return Napi::Number::New(a.env(), ThreadPool::instance().threads());
}

constexpr Export kExports[] = {
    {"cpu", cpu, false},
    {"selectKernels", selectKernelsByName, false},
    {"setThreads", setThreads, false},
    {"threads", threads, false},
};

}  // namespace

std::span<const Export> cpuExports() {
  return kExports;
}

}  // namespace tsq
