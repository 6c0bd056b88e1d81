// Work off the event loop: one promise, one libuv worker. Parallelism inside comes from the thread pool.
#pragma once
#include <memory>
#include <type_traits>
#include <utility>

#include "bindings/arguments.h"
#include "bindings/environment.h"
#include "bindings/napi_setup.h"
#include "runtime/status.h"

namespace tsq {

// One promise-returning call: run() in a worker, then finish() on the JavaScript thread, where it is also made and
// destroyed. Until it is settled, everything that the arguments read stays alive.
class Work : public Napi::AsyncWorker {
 public:
  // Queues the work and gives its promise.
  static Napi::Value start(std::unique_ptr<Work> work);

 protected:
  explicit Work(Arguments& arguments);

  // No JavaScript here. A failed status, or an exception, rejects.
  virtual Status run() = 0;
  // What the promise resolves to. An exception rejects.
  virtual Napi::Value finish(Napi::Env env) = 0;

 private:
  void Execute() final;
  void OnOK() final;

  Status status_;
  Napi::Promise::Deferred deferred_;
  Kept kept_;
};

// run: Result<T>(), finish: Napi::Value(Napi::Env, T&); or run: Status(), finish: Napi::Value(Napi::Env).
template <typename Run, typename Finish>
Napi::Value promise(Arguments& arguments, Run run, Finish finish) {
  using Outcome = std::invoke_result_t<Run>;
  constexpr bool kStatusOnly = std::is_same_v<Outcome, Status>;
  class Task final : public Work {
   public:
    Task(Arguments& arguments, Run run, Finish finish)
        : Work(arguments), run_(std::move(run)), finish_(std::move(finish)) {}

   protected:
    Status run() override {
      outcome_ = run_();
      if constexpr (kStatusOnly) {
        return outcome_;
      } else {
        return outcome_.status();
      }
    }
    Napi::Value finish(Napi::Env env) override {
      if constexpr (kStatusOnly) {
        return finish_(env);
      } else {
        return finish_(env, outcome_.value());
      }
    }

   private:
    Run run_;
    Finish finish_;
    Outcome outcome_{Status()};
  };
  return Work::start(std::make_unique<Task>(arguments, std::move(run), std::move(finish)));
}

// run: Status(). Resolves to undefined.
template <typename Run>
Napi::Value promise(Arguments& arguments, Run run) {
  return promise(arguments, std::move(run), [](Napi::Env env) { return env.Undefined(); });
}

}  // namespace tsq
