// The module: one entry for every export, which turns refusals into errors or rejected promises.
#include <span>

#include "bindings/arguments.h"
#include "bindings/environment.h"
#include "bindings/exports.h"
#include "bindings/napi_setup.h"

namespace tsq {
namespace {

napi_value registerError(Arguments& a) {
  napi_valuetype type = napi_undefined;
  check(a.env(), napi_typeof(a.env(), a[0], &type), "napi_typeof");
  if (type != napi_function) refuse(Code::kOption, "registerError: expected the class of errors");
  a.environment().setErrorClass(a[0]);
  return a.undefined();
}

constexpr Export kRegisterError[] = {{"registerError", registerError, false}};

// The value to throw or reject with for the exception being handled; null when no JavaScript can run any more.
napi_value errorOfException(napi_env env) {
  try {
    throw;
  } catch (const JavaScriptException&) {
    return takePendingException(env);
  } catch (...) {
    const Status status = currentException();
    try {
      return Environment::of(env).error(status);
    } catch (...) {
      return takePendingException(env);
    }
  }
}

napi_value rejected(napi_env env, napi_value error) {
  napi_deferred deferred = nullptr;
  napi_value promise = nullptr;
  if (napi_create_promise(env, &deferred, &promise) != napi_ok) return nullptr;
  return napi_reject_deferred(env, deferred, error) == napi_ok ? promise : nullptr;
}

napi_value invoke(napi_env env, napi_callback_info info) {
  bool promises = false;
  try {
    Arguments arguments(env, info);
    promises = arguments.target().promises;
    return arguments.target().function(arguments);
  } catch (...) {
    const napi_value error = errorOfException(env);
    if (error == nullptr) return nullptr;
    if (promises) return rejected(env, error);
    (void)napi_throw(env, error);
    return nullptr;
  }
}

bool define(napi_env env, napi_value exports, std::span<const Export> functions) {
  for (const Export& function : functions) {
    napi_value value = nullptr;
    if (napi_create_function(env, function.name, NAPI_AUTO_LENGTH, invoke, const_cast<Export*>(&function), &value) !=
            napi_ok ||
        napi_set_named_property(env, exports, function.name, value) != napi_ok)
      return false;
  }
  return true;
}

void destroyEnvironment(napi_env, void* data, void*) {
  delete static_cast<Environment*>(data);
}

}  // namespace
}  // namespace tsq

NAPI_MODULE_INIT() {
  using namespace tsq;
  // NOLINTNEXTLINE: Node owns it and calls destroyEnvironment
  auto* environment = new (std::nothrow) Environment(env);
  if (environment == nullptr || napi_set_instance_data(env, environment, destroyEnvironment, nullptr) != napi_ok) {
    delete environment;
    (void)napi_throw_error(env, "ERR_MEMORY", "the addon of tsq-native cannot allocate its state");
    return nullptr;
  }
  for (const auto& group :
       {std::span<const Export>(kRegisterError), cpuExports(), handleExports(), mappingExports(), elementExports(),
        bitExports(), weightExports(), roundingExports(), accumulatorExports(), programExports()})
    if (!define(env, exports, group)) return nullptr;
  return exports;
}
