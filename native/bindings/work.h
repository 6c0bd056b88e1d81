// Work off the event loop: one promise, one libuv worker. Parallelism inside comes from the thread pool.
#pragma once
#include <memory>
#include <utility>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/environment.h"
#include "bindings/napi_setup.h"
#include "runtime/status.h"

namespace tsq {

// One promise-returning call. run() in a worker, then finish() on the JavaScript thread. Made, finished and destroyed
// there.
class Work {
 public:
  Work() = default;
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;
  virtual ~Work() = default;

  // Queues the work and gives its promise. Until it is settled, everything that `arguments` read stays alive.
  static napi_value start(Arguments& arguments, std::unique_ptr<Work> work);

 protected:
  // No JavaScript here. A failed status, or an exception, rejects.
  virtual Status run() = 0;
  // What the promise resolves to. Refusal and pending JavaScript exceptions reject.
  virtual napi_value finish(napi_env env) = 0;

 private:
  static void execute(napi_env env, void* data);
  static void complete(napi_env env, napi_status status, void* data);
  void settle(napi_env env);

  Status status_;
  napi_async_work work_ = nullptr;
  napi_deferred deferred_ = nullptr;
  napi_ref views_ = nullptr;
  std::vector<std::shared_ptr<const void>> objects_;
};

// run: Result<T>(); finish: napi_value(napi_env, T&).
template <typename T, typename Run, typename Finish>
napi_value promise(Arguments& arguments, Run run, Finish finish) {
  class Task final : public Work {
   public:
    Task(Run run, Finish finish) : run_(std::move(run)), finish_(std::move(finish)) {}

   protected:
    Status run() override {
      Result<T> result = run_();
      if (!result.ok()) return result.status();
      value_ = std::move(result.value());
      return {};
    }
    napi_value finish(napi_env env) override { return finish_(env, value_); }

   private:
    Run run_;
    Finish finish_;
    T value_{};
  };
  return Work::start(arguments, std::make_unique<Task>(std::move(run), std::move(finish)));
}

// run: Status(). Resolves to undefined.
template <typename Run>
napi_value promise(Arguments& arguments, Run run) {
  class Task final : public Work {
   public:
    explicit Task(Run run) : run_(std::move(run)) {}

   protected:
    Status run() override { return run_(); }
    napi_value finish(napi_env env) override {
      napi_value undefined = nullptr;
      check(env, napi_get_undefined(env, &undefined), "napi_get_undefined");
      return undefined;
    }

   private:
    Run run_;
  };
  return Work::start(arguments, std::make_unique<Task>(std::move(run)));
}

}  // namespace tsq
