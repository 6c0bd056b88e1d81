#include "bindings/arguments.h"

#include <cmath>
#include <sstream>

namespace tsq {

std::string numberText(double value) {
  std::ostringstream stream;
  stream.precision(17);
  if (std::isnan(value)) return "NaN";
  stream << value;
  return stream.str();
}

int64_t product(std::initializer_list<int64_t> sizes, const char* what) {
  int64_t result = 1;
  bool overflow = false;
  for (const int64_t size : sizes) {
    if (size == 0) return 0;
    overflow = overflow || __builtin_mul_overflow(result, size, &result) || result > kMaxSize;
  }
  if (overflow) refuse(Code::kShape, std::string(what) + " is too large: more than 2^53 elements");
  return result;
}

int64_t groupCount(int64_t k, int64_t groupSize) {
  if (groupSize < 1 || groupSize > k)
    refuse(Code::kOption, "groupSize is " + std::to_string(groupSize) + ", expected 1 to k = " + std::to_string(k));
  return (k + groupSize - 1) / groupSize;
}

std::string Arguments::label(const char* name) const {
  return std::string(target_.name) + ": " + name;
}

std::string Arguments::describe(Napi::Value value) const {
  switch (value.Type()) {
    case napi_undefined:
      return "undefined";
    case napi_null:
      return "null";
    case napi_boolean:
      return "a boolean";
    case napi_number:
      return numberText(value.As<Napi::Number>().DoubleValue());
    case napi_string:
      return "a string";
    case napi_symbol:
      return "a symbol";
    case napi_bigint:
      return "a bigint";
    case napi_function:
      return "a function";
    default:
      break;
  }
  if (const auto found = arrayInfo(value)) return std::string("a ") + typeName(found->type);
  return value.IsArray() ? "an array" : "an object";
}

int64_t Arguments::integer(Napi::Value value, const char* name, int64_t min, int64_t max) const {
  if (value.IsNumber()) {
    const double number = value.As<Napi::Number>().DoubleValue();
    if (number >= static_cast<double>(min) && number <= static_cast<double>(max) && number == std::trunc(number))
      return static_cast<int64_t>(number);
  }
  const std::string upper = max == kMaxSize ? std::string("2^53") : std::to_string(max);
  refuse(Code::kOption,
         label(name) + " is " + describe(value) + ", expected an integer from " + std::to_string(min) + " to " + upper);
}

double Arguments::number(Napi::Value value, const char* name, double min, double max) const {
  if (value.IsNumber()) {
    const double number = value.As<Napi::Number>().DoubleValue();
    if (number >= min && number <= max) return number;
  }
  refuse(Code::kOption, label(name) + " is " + describe(value) + ", expected a number from " + numberText(min) +
                            " to " + numberText(max));
}

bool Arguments::boolean(Napi::Value value, const char* name) const {
  if (!value.IsBoolean()) refuse(Code::kOption, label(name) + " is " + describe(value) + ", expected true or false");
  return value.As<Napi::Boolean>().Value();
}

std::string Arguments::string(Napi::Value value, const char* name) const {
  if (!value.IsString()) refuse(Code::kOption, label(name) + " is " + describe(value) + ", expected a string");
  std::string result = value.As<Napi::String>().Utf8Value();
  if (result.find('\0') != std::string::npos) refuse(Code::kOption, label(name) + " contains a NUL character");
  return result;
}

Dtype Arguments::dtype(Napi::Value value, const char* name, Dtype last) const {
  return static_cast<Dtype>(integer(value, name, 0, static_cast<int64_t>(last)));
}

Napi::Value Arguments::property(Napi::Value object, const char* key, const char* name) const {
  if (object.Type() != napi_object)
    refuse(Code::kOption, label(name) + " is " + describe(object) + ", expected an object");
  return object.As<Napi::Object>().Get(key);
}

ArrayInfo Arguments::array(Napi::Value value, const char* name, bool borrowed) {
  const bool pinned = borrowed && target_.promises;
  Napi::Value buffer;
  const auto found = arrayInfo(value, pinned ? &buffer : nullptr);
  if (!found) refuse(Code::kDtype, label(name) + " is " + describe(value) + ", expected a typed array");
  if (pinned) {
    if (buffer.IsArrayBuffer())
      refuse(Code::kOption,
             label(name) +
                 " lies on an ordinary ArrayBuffer: an asynchronous call needs memory that cannot be detached "
                 "(Tensor.empty or a SharedArrayBuffer)");
    kept_.views.push_back(Napi::Persistent(value));
  }
  return *found;
}

ArrayInfo Arguments::typed(Napi::Value value, const char* name, napi_typedarray_type type, int64_t length,
                           bool borrowed) {
  const ArrayInfo found = array(value, name, borrowed);
  const bool clamped = type == napi_uint8_array && found.type == napi_uint8_clamped_array;
  if (found.type != type && !clamped)
    refuse(Code::kDtype, label(name) + " is a " + typeName(found.type) + ", expected a " + typeName(type));
  if (found.length < length)
    refuse(Code::kShape, label(name) + " has " + std::to_string(found.length) + " elements, expected at least " +
                             std::to_string(length));
  return found;
}

ArrayInfo Arguments::elements(Napi::Value value, const char* name, Dtype dtype, int64_t length) {
  const ArrayInfo found = array(value, name, true);
  const napi_typedarray_type type = arrayTypeOf(dtype);
  if (found.type != type && found.type != napi_uint8_array && found.type != napi_uint8_clamped_array)
    refuse(Code::kDtype, label(name) + " is a " + typeName(found.type) + ", expected a " + typeName(type) +
                             " or bytes in a Uint8Array");
  const int64_t needed = product({length, dtypeBytes(dtype)}, name);
  if (found.bytes < needed)
    refuse(Code::kShape,
           label(name) + " has " + std::to_string(found.bytes) + " bytes, expected at least " + std::to_string(needed));
  return found;
}

void* Arguments::output(Napi::Value value, const char* name, Dtype dtype, int64_t length) {
  return elements(value, name, dtype, length).data;
}

Source Arguments::source(Napi::Value value, const char* name, Dtype dtype, int64_t length) {
  if (value.IsTypedArray()) {
    const ArrayInfo found = elements(value, name, dtype, length);
    return {static_cast<const uint8_t*>(found.data), found.bytes};
  }
  if (value.Type() != napi_object)
    refuse(Code::kDtype,
           label(name) + " is " + describe(value) + ", expected a typed array or a slice of a mapped file");
  const Napi::Value mappingValue = property(value, "mapping", name);
  const int64_t offset = integer(property(value, "offset", name), "offset of the mapped slice");
  const int64_t bytes = integer(property(value, "bytes", name), "bytes of the mapped slice");
  const auto mapping = object<const MappedFile>(mappingValue, "mapping of the mapped slice");
  const auto size = static_cast<int64_t>(mapping->size());
  if (offset > size || bytes > size - offset)
    refuse(Code::kShape, label(name) + " is the slice of " + std::to_string(bytes) + " bytes at " +
                             std::to_string(offset) + " of a mapped file of only " + std::to_string(size) + " bytes");
  const int64_t needed = product({length, dtypeBytes(dtype)}, name);
  if (bytes < needed)
    refuse(Code::kShape,
           label(name) + " has " + std::to_string(bytes) + " bytes, expected at least " + std::to_string(needed));
  return {mapping->data() + offset, bytes};
}

layout::StoredCodes Arguments::storedCodes() {
  layout::StoredCodes stored{};
  stored.layout = static_cast<layout::CodeLayout>(integer((*this)[1], "layout", 0, 6));
  stored.n = integer((*this)[2], "n", 1);
  stored.k = integer((*this)[3], "k", 1);
  stored.bits = static_cast<int>(integer((*this)[4], "bits", 2, 8));
  (void)product({stored.n, stored.k, stored.bits}, "codes");
  check(layout::checkStoredCodes(stored));
  stored.data = source((*this)[0], "codes", Dtype::kU8, layout::storedBytes(stored)).data;
  return stored;
}

void* Arguments::bytes(Napi::Value value, const char* name, int64_t bytes) {
  const ArrayInfo found = array(value, name, true);
  if (found.bytes < bytes)
    refuse(Code::kShape,
           label(name) + " has " + std::to_string(found.bytes) + " bytes, expected at least " + std::to_string(bytes));
  return found.data;
}

AbortFlag Arguments::abortFlag(Napi::Value value) {
  if (isNull(value)) return {};
  return AbortFlag(view<int32_t>(value, "abort flag", 1).data);
}

uint64_t Arguments::handle(Napi::Value value, const char* name) const {
  return static_cast<uint64_t>(integer(value, name, 1));
}

}  // namespace tsq
