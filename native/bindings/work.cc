#include "bindings/work.h"

namespace tsq {

napi_value Work::start(Arguments& arguments, std::unique_ptr<Work> work) {
  const napi_env env = arguments.env();
  napi_value views = nullptr, name = nullptr, promise = nullptr;
  // One reference to an array of all the views costs less than one for each.
  check(env, napi_create_array_with_length(env, arguments.views().size(), &views), "napi_create_array");
  for (size_t i = 0; i < arguments.views().size(); ++i)
    check(env, napi_set_element(env, views, static_cast<uint32_t>(i), arguments.views()[i]), "napi_set_element");
  check(env, napi_create_string_utf8(env, arguments.target().name, NAPI_AUTO_LENGTH, &name), "napi_create_string_utf8");
  work->objects_ = arguments.takeObjects();
  check(env, napi_create_reference(env, views, 1, &work->views_), "napi_create_reference");
  napi_status status = napi_create_async_work(env, nullptr, name, execute, complete, work.get(), &work->work_);
  if (status == napi_ok) {
    status = napi_create_promise(env, &work->deferred_, &promise);
    if (status == napi_ok) status = napi_queue_async_work(env, work->work_);
    if (status == napi_ok) {
      (void)work.release();  // complete() owns it now
      return promise;
    }
    (void)napi_delete_async_work(env, work->work_);
  }
  (void)napi_delete_reference(env, work->views_);
  check(env, status, "napi_queue_async_work");
  return nullptr;
}

void Work::execute(napi_env, void* data) {
  Work* work = static_cast<Work*>(data);
  try {
    work->status_ = work->run();
  } catch (...) {
    work->status_ = currentException();
  }
}

// Every status is ignored on purpose: calls fail when the environment is being torn down, and then nobody waits for the
// promise.
void Work::complete(napi_env env, napi_status status, void* data) {
  const std::unique_ptr<Work> work(static_cast<Work*>(data));
  if (status == napi_cancelled) work->status_ = Status(Code::kAborted, "the call was cancelled before it began");
  napi_handle_scope scope = nullptr;
  const bool scoped = napi_open_handle_scope(env, &scope) == napi_ok;
  if (scoped) work->settle(env);
  (void)takePendingException(env);
  (void)napi_delete_reference(env, work->views_);
  (void)napi_delete_async_work(env, work->work_);
  if (scoped) (void)napi_close_handle_scope(env, scope);
}

void Work::settle(napi_env env) {
  napi_value error = nullptr;
  try {
    if (status_.ok()) {
      (void)napi_resolve_deferred(env, deferred_, finish(env));
      return;
    }
    error = Environment::of(env).error(status_);
  } catch (const JavaScriptException&) {
    error = takePendingException(env);
  } catch (...) {
    status_ = currentException();
    try {
      error = Environment::of(env).error(status_);
    } catch (...) {
      error = nullptr;  // no state left to make an error from: the environment is gone
    }
  }
  if (error == nullptr && napi_get_undefined(env, &error) != napi_ok) return;
  (void)napi_reject_deferred(env, deferred_, error);
}

}  // namespace tsq
