// The machine: kernel tables, instruction-set features, threads.
#include <string>
#include <vector>

#include "bindings/exports.h"
#include "kernels/kernels.h"
#include "runtime/cpu_features.h"
#include "runtime/thread_pool.h"

namespace tsq {
namespace {

napi_value stringValue(napi_env env, const std::string& text) {
  napi_value value = nullptr;
  check(env, napi_create_string_utf8(env, text.data(), text.size(), &value), "napi_create_string_utf8");
  return value;
}

napi_value stringArray(napi_env env, const std::vector<std::string>& texts) {
  napi_value array = nullptr;
  check(env, napi_create_array_with_length(env, texts.size(), &array), "napi_create_array");
  for (size_t i = 0; i < texts.size(); ++i)
    check(env, napi_set_element(env, array, static_cast<uint32_t>(i), stringValue(env, texts[i])), "napi_set_element");
  return array;
}

napi_value cpu(Arguments& a) {
  const napi_env env = a.env();
  napi_value info = nullptr;
  check(env, napi_create_object(env, &info), "napi_create_object");
  int count = 0;
  const KernelTable* const* tables = supportedKernels(&count);
  std::vector<std::string> supported;
  for (int i = 0; i < count; ++i) supported.emplace_back(tables[i]->name);
  const auto set = [&](const char* key, napi_value value) {
    check(env, napi_set_named_property(env, info, key, value), "napi_set_named_property");
  };
  set("kernels", stringValue(env, kernels().name));
  set("supported", stringArray(env, supported));
  set("features", stringArray(env, cpuFeatures().names()));
  set("threads", a.numberValue(ThreadPool::instance().threads()));
  return info;
}

napi_value selectKernelsByName(Arguments& a) {
  const bool byDefault = a.isNull(a[0]);
  const std::string name = byDefault ? std::string() : a.string(a[0], "name");
  const Status status = selectKernels(byDefault ? nullptr : name.c_str());
  if (!status.ok()) throw Refusal{status};
  return a.undefined();
}

napi_value setThreads(Arguments& a) {
  ThreadPool::instance().setThreads(static_cast<int>(a.integer(a[0], "threads", 1, ThreadPool::kMaxThreads)));
  return a.undefined();
}

napi_value threads(Arguments& a) {
  return a.numberValue(ThreadPool::instance().threads());
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
