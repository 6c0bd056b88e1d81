#include "bindings/work.h"

namespace tsq {

Work::Work(Arguments& arguments)
    : AsyncWorker(arguments.env(), arguments.target().name),
      deferred_(Napi::Promise::Deferred::New(arguments.env())),
      kept_(arguments.takeKept()) {}

Napi::Value Work::start(std::unique_ptr<Work> work) {
  const Napi::Value promise = work->deferred_.Promise();
  work->Queue();
  (void)work.release();  // AsyncWorker deletes it after OnOK()
  return promise;
}

void Work::Execute() {
  try {
    status_ = run();
  } catch (...) {
    status_ = currentStatus();
  }
}

// Called also where run() failed: SetError() would keep its message only.
void Work::OnOK() {
  Napi::Value value;
  try {
    check(status_);
    value = finish(Env());
  } catch (...) {
    rejectWithCurrentError(deferred_);
    return;
  }
  try {
    deferred_.Resolve(value);
  } catch (const Napi::Error&) {
    return;  // settled all the same: a getter of `then` on a prototype threw, and its error rejects the promise
  }
}

}  // namespace tsq
