#include "bindings/environment.h"

#include <exception>
#include <new>
#include <utility>

namespace tsq {
namespace {

const char* errorCode(Code code) {
  switch (code) {
    case Code::kShape:
      return "ERR_SHAPE";
    case Code::kDtype:
      return "ERR_DTYPE";
    case Code::kFormat:
      return "ERR_FORMAT";
    case Code::kCorrupt:
      return "ERR_CORRUPT";
    case Code::kIo:
      return "ERR_IO";
    case Code::kNumeric:
      return "ERR_NUMERIC";
    case Code::kMemory:
      return "ERR_MEMORY";
    case Code::kDevice:
      return "ERR_DEVICE";
    case Code::kOption:
      return "ERR_OPTION";
    case Code::kAborted:
      return "ERR_ABORTED";
    case Code::kUnsupported:
    case Code::kOk:
      break;
  }
  return "ERR_UNSUPPORTED";
}

}  // namespace

void refuse(Code code, std::string message) {
  throw Refusal{Status(code, std::move(message))};
}

void check(napi_env env, napi_status status, const char* call) {
  if (status == napi_ok) return;
  bool pending = false;
  if (status == napi_pending_exception || (napi_is_exception_pending(env, &pending) == napi_ok && pending))
    throw JavaScriptException{};
  refuse(Code::kUnsupported, std::string("internal error: ") + call + " failed with status " + std::to_string(status));
}

Environment& Environment::of(napi_env env) {
  void* data = nullptr;
  if (napi_get_instance_data(env, &data) != napi_ok || data == nullptr)
    refuse(Code::kUnsupported, "internal error: the addon's state is gone");
  return *static_cast<Environment*>(data);
}

void Environment::setErrorClass(napi_value constructor) {
  napi_ref reference = nullptr;
  check(env_, napi_create_reference(env_, constructor, 1, &reference), "napi_create_reference");
  if (errorClass_ != nullptr) napi_delete_reference(env_, errorClass_);
  errorClass_ = reference;
}

napi_value Environment::error(const Status& status) {
  napi_value arguments[2], constructor = nullptr, error = nullptr;
  const char* code = errorCode(status.code());
  const std::string& message = status.message();
  if (napi_create_string_utf8(env_, code, NAPI_AUTO_LENGTH, &arguments[0]) != napi_ok ||
      napi_create_string_utf8(env_, message.data(), message.size(), &arguments[1]) != napi_ok)
    return takePendingException(env_);
  if (errorClass_ == nullptr) {
    if (napi_create_error(env_, arguments[0], arguments[1], &error) != napi_ok) return takePendingException(env_);
    return error;
  }
  if (napi_get_reference_value(env_, errorClass_, &constructor) != napi_ok || constructor == nullptr ||
      napi_new_instance(env_, constructor, 2, arguments, &error) != napi_ok)
    return takePendingException(env_);
  return error;
}

Status currentException() {
  try {
    throw;
  } catch (const Refusal& refusal) {
    return refusal.status;
  } catch (const std::bad_alloc&) {
    return Status(Code::kMemory, "not enough memory");
  } catch (const std::exception& exception) {
    return Status(Code::kUnsupported, std::string("internal error: ") + exception.what());
  } catch (...) {
    return Status(Code::kUnsupported, "internal error: an exception of unknown type");
  }
}

napi_value takePendingException(napi_env env) {
  bool pending = false;
  napi_value exception = nullptr;
  if (napi_is_exception_pending(env, &pending) != napi_ok || !pending) return nullptr;
  return napi_get_and_clear_last_exception(env, &exception) == napi_ok ? exception : nullptr;
}

}  // namespace tsq
