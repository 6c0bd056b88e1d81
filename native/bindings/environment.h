// What the addon keeps for each environment (the main thread and every worker thread load it separately), and its
// errors.
#pragma once
#include <string>
#include <utility>

#include "bindings/handles.h"
#include "bindings/napi_setup.h"
#include "runtime/status.h"

namespace tsq {

// A call that is refused. Needs no JavaScript, so it may be thrown in any thread; invoke() (addon.cc) and Work turn it
// into an error. Exceptions stay within native/bindings; everything below it returns Status.
struct Refusal {
  Status status;
};

[[noreturn]] void refuse(Code code, std::string message);

// Throws Refusal where `status` is a failure.
inline void check(const Status& status) {
  if (!status.ok()) throw Refusal{status};
}

// The value; throws Refusal where there is none.
template <typename T>
T take(Result<T> result) {
  check(result.status());
  return std::move(result.value());
}

class Environment {
 public:
  explicit Environment(Napi::Env env) : handles(env), env_(env) {}
  // Lives as long as JavaScript can call: Node waits for running work before it deletes the environment's data.
  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  // Class constructed as new E(code, message) for every later error of this environment.
  void setErrorClass(Napi::Function constructor) { errorClass_ = Napi::Persistent(constructor); }
  // The error for a failed status. Where the class itself throws: what it threw.
  Napi::Error error(const Status& status) const;

  // Keeps a native object, and gives the handle by which JavaScript names it.
  Napi::Number hold(NativeObject object) {
    return Napi::Number::New(env_, static_cast<double>(handles.add(std::move(object))));
  }

  HandleTable handles;

 private:
  Napi::Env env_;
  Napi::FunctionReference errorClass_;
};

// All for the exception being handled: call only within a catch block.
// In a worker; Napi::Error is not among the exceptions there.
Status currentStatus();
// On the JavaScript thread. A Napi::Error, which a getter or the class of errors threw, stays what it is.
Napi::Error currentError(Napi::Env env);
void rejectWithCurrentError(const Napi::Promise::Deferred& deferred);

}  // namespace tsq
