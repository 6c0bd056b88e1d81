// The module: one entry for every export, which turns refusals into errors or rejected promises.
#include <span>

#include "bindings/arguments.h"
#include "bindings/environment.h"
#include "bindings/exports.h"
#include "bindings/napi_setup.h"

namespace tsq {
namespace {

Napi::Value registerError(Arguments& a) {
  if (!a[0].IsFunction()) refuse(Code::kOption, "registerError: expected the class of errors");
  a.environment().setErrorClass(a[0].As<Napi::Function>());
  return a.env().Undefined();
}

constexpr Export kRegisterError[] = {{"registerError", registerError, false}};

Napi::Value invoke(const Napi::CallbackInfo& info) {
  Arguments arguments(info);
  try {
    return arguments.target().function(arguments);
  } catch (...) {
    if (!arguments.target().promises) throw currentError(info.Env());
    const auto deferred = Napi::Promise::Deferred::New(info.Env());
    rejectWithCurrentError(deferred);
    return deferred.Promise();
  }
}

Napi::Object defineAddon(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new Environment(env));  // NOLINT: Node deletes it with the environment
  for (const auto& group :
       {std::span<const Export>(kRegisterError), cpuExports(), cudaExports(), cudaBenchExports(),
        cudaCalibrationExports(), handleExports(), mappingExports(), elementExports(), matrixExports(), bitExports(),
        ggufExports(), weightExports(), roundingExports(), codebookExports(), learnedRoundingExports(),
        accumulatorExports(), programExports(), benchExports(), packFileExports()})
    for (const Export& each : group)
      exports.Set(each.name, Napi::Function::New<invoke>(env, each.name, const_cast<Export*>(&each)));
  return exports;
}

}  // namespace
}  // namespace tsq

using tsq::defineAddon;
NODE_API_MODULE(tsq_native, defineAddon)
