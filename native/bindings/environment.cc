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

Napi::Error Environment::error(const Status& status) const {
  try {
    const auto code = Napi::String::New(env_, errorCode(status.code()));
    if (!errorClass_.IsEmpty())
      return Napi::Error(env_, errorClass_.New({code, Napi::String::New(env_, status.message())}));
    Napi::Error error = Napi::Error::New(env_, status.message());
    error.Set("code", code);
    return error;
  } catch (const Napi::Error& thrown) {
    return thrown;
  }
}

Status currentStatus() {
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

Napi::Error currentError(Napi::Env env) {
  try {
    throw;
  } catch (const Napi::Error& error) {
    return error;
  } catch (...) {
    return Environment::of(env).error(currentStatus());
  }
}

void rejectWithCurrentError(const Napi::Promise::Deferred& deferred) {
  const Napi::Env env = deferred.Env();
  const Napi::Value error = currentError(env).Value();
  // Value() looks for a mark of its own on what was thrown; what a proxy throws at that is left pending.
  if (env.IsExceptionPending()) (void)env.GetAndClearPendingException();
  deferred.Reject(error);
}

}  // namespace tsq
