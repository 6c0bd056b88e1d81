// Outcome of a native operation. A failed Status becomes a TsqError with code ERR_<name> in JavaScript.
#pragma once
#include <string>
#include <utility>

namespace tsq {

enum class Code {
  kOk,
  kShape,
  kDtype,
  kFormat,
  kCorrupt,
  kUnsupported,
  kIo,
  kNumeric,
  kMemory,
  kDevice,
  kOption,
  kAborted
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}
  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

// Either a value or the Status that says why there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}          // NOLINT: implicit on purpose
  Result(Status status) : status_(std::move(status)) {}  // NOLINT
  bool ok() const { return status_.ok(); }
  const Status& status() const { return status_; }
  T& value() { return value_; }
  const T& value() const { return value_; }

 private:
  T value_{};
  Status status_;
};

#define TSQ_RETURN_IF_ERROR(expression)   \
  do {                                    \
    ::tsq::Status status_ = (expression); \
    if (!status_.ok()) return status_;    \
  } while (false)

}  // namespace tsq
