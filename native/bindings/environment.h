// What the addon keeps for each environment (the main thread and every worker thread load it separately), and its
// errors.
#pragma once
#include <string>

#include "bindings/handles.h"
#include "bindings/napi_setup.h"
#include "runtime/status.h"

namespace tsq {

// Thrown by the readers of arguments and caught in invoke() (addon.cc): a call that is refused. Exceptions stay within
// native/bindings; everything below it returns Status.
struct Refusal {
  Status status;
};

// Thrown where a JavaScript exception is pending: a getter or the error class itself threw.
struct JavaScriptException {};

[[noreturn]] void refuse(Code code, std::string message);

// Throws JavaScriptException, or Refusal("internal error") with the call's name where `status` is neither napi_ok nor
// that.
void check(napi_env env, napi_status status, const char* call);

class Environment {
 public:
  explicit Environment(napi_env env) : handles(env), env_(env) {}
  static Environment& of(napi_env env);

  // Class constructed as new E(code, message) for every later error of this environment.
  void setErrorClass(napi_value constructor);
  // The error for a failed status. Where the class itself throws: what it threw. Null when no JavaScript can run any
  // more.
  napi_value error(const Status& status);

  HandleTable handles;

 private:
  napi_env env_;
  napi_ref errorClass_ = nullptr;  // freed by Node with the environment
};

// The status of the exception being handled; call only within a catch block. JavaScriptException is not among them.
Status currentException();

// Clears the pending JavaScript exception and returns it; null where there is none.
napi_value takePendingException(napi_env env);

}  // namespace tsq
