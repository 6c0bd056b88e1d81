#include "bindings/arguments.h"

#include <cmath>
#include <sstream>

namespace tsq {
namespace {

const char* typeName(napi_typedarray_type type) {
  switch (static_cast<int>(type)) {
    case napi_int8_array:
      return "Int8Array";
    case napi_uint8_array:
      return "Uint8Array";
    case napi_uint8_clamped_array:
      return "Uint8ClampedArray";
    case napi_int16_array:
      return "Int16Array";
    case napi_uint16_array:
      return "Uint16Array";
    case napi_int32_array:
      return "Int32Array";
    case napi_uint32_array:
      return "Uint32Array";
    case napi_float32_array:
      return "Float32Array";
    case napi_float64_array:
      return "Float64Array";
    case napi_bigint64_array:
      return "BigInt64Array";
    case napi_biguint64_array:
      return "BigUint64Array";
    default:
      return "typed array of another type";  // Float16Array, where Node has it: view it as Uint16Array
  }
}

int64_t elementBytes(napi_typedarray_type type) {
  switch (static_cast<int>(type)) {
    case napi_int8_array:
    case napi_uint8_array:
    case napi_uint8_clamped_array:
      return 1;
    case napi_int16_array:
    case napi_uint16_array:
      return 2;
    case napi_int32_array:
    case napi_uint32_array:
    case napi_float32_array:
      return 4;
    case napi_float64_array:
    case napi_bigint64_array:
    case napi_biguint64_array:
      return 8;
    default:
      return 0;  // unknown: holds no usable bytes
  }
}

napi_typedarray_type dtypeArray(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
      return napi_float32_array;
    case Dtype::kF16:
    case Dtype::kBF16:
      return napi_uint16_array;
    case Dtype::kI8:
      return napi_int8_array;
    case Dtype::kU8:
      return napi_uint8_array;
    case Dtype::kI32:
      return napi_int32_array;
  }
  return napi_uint8_array;
}

}  // namespace

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

Arguments::Arguments(napi_env env, napi_callback_info info) : env_(env) {
  size_t count = kMax;
  void* data = nullptr;
  check(env, napi_get_cb_info(env, info, &count, values_, nullptr, &data), "napi_get_cb_info");
  target_ = static_cast<const Export*>(data);
  environment_ = &Environment::of(env);
}

std::string Arguments::label(const char* name) const {
  return std::string(target_->name) + ": " + name;
}

std::string Arguments::describe(napi_value value) const {
  napi_valuetype type = napi_undefined;
  bool is = false;
  if (napi_typeof(env_, value, &type) != napi_ok) return "a value of unknown type";
  switch (type) {
    case napi_undefined:
      return "undefined";
    case napi_null:
      return "null";
    case napi_boolean:
      return "a boolean";
    case napi_number: {
      double number = 0;
      (void)napi_get_value_double(env_, value, &number);
      return numberText(number);
    }
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
  if (napi_is_typedarray(env_, value, &is) == napi_ok && is) {
    auto kind = static_cast<napi_typedarray_type>(-1);
    (void)napi_get_typedarray_info(env_, value, &kind, nullptr, nullptr, nullptr, nullptr);
    return std::string("a ") + typeName(kind);
  }
  if (napi_is_array(env_, value, &is) == napi_ok && is) return "an array";
  return "an object";
}

int64_t Arguments::integer(napi_value value, const char* name, int64_t min, int64_t max) const {
  double number = 0;
  if (napi_get_value_double(env_, value, &number) == napi_ok && number >= static_cast<double>(min) &&
      number <= static_cast<double>(max) && number == std::trunc(number))
    return static_cast<int64_t>(number);
  const std::string upper = max == kMaxSize ? std::string("2^53") : std::to_string(max);
  refuse(Code::kOption,
         label(name) + " is " + describe(value) + ", expected an integer from " + std::to_string(min) + " to " + upper);
}

double Arguments::number(napi_value value, const char* name, double min, double max) const {
  double number = 0;
  if (napi_get_value_double(env_, value, &number) == napi_ok && number >= min && number <= max) return number;
  refuse(Code::kOption, label(name) + " is " + describe(value) + ", expected a number from " + numberText(min) +
                            " to " + numberText(max));
}

bool Arguments::boolean(napi_value value, const char* name) const {
  bool result = false;
  if (napi_get_value_bool(env_, value, &result) == napi_ok) return result;
  refuse(Code::kOption, label(name) + " is " + describe(value) + ", expected true or false");
}

std::string Arguments::string(napi_value value, const char* name) const {
  size_t length = 0, written = 0;
  if (napi_get_value_string_utf8(env_, value, nullptr, 0, &length) != napi_ok)
    refuse(Code::kOption, label(name) + " is " + describe(value) + ", expected a string");
  std::string result(length, '\0');
  check(env_, napi_get_value_string_utf8(env_, value, result.data(), length + 1, &written),
        "napi_get_value_string_utf8");
  result.resize(written);
  if (result.find('\0') != std::string::npos) refuse(Code::kOption, label(name) + " contains a NUL character");
  return result;
}

Dtype Arguments::dtype(napi_value value, const char* name, Dtype last) const {
  return static_cast<Dtype>(integer(value, name, 0, static_cast<int64_t>(last)));
}

bool Arguments::isNull(napi_value value) const {
  napi_valuetype type = napi_undefined;
  check(env_, napi_typeof(env_, value, &type), "napi_typeof");
  return type == napi_undefined || type == napi_null;
}

bool Arguments::isFloat64Array(napi_value value) const {
  auto type = static_cast<napi_typedarray_type>(-1);
  return napi_get_typedarray_info(env_, value, &type, nullptr, nullptr, nullptr, nullptr) == napi_ok &&
         type == napi_float64_array;
}

napi_value Arguments::property(napi_value object, const char* key, const char* name) const {
  napi_valuetype type = napi_undefined;
  napi_value result = nullptr;
  check(env_, napi_typeof(env_, object, &type), "napi_typeof");
  if (type != napi_object) refuse(Code::kOption, label(name) + " is " + describe(object) + ", expected an object");
  check(env_, napi_get_named_property(env_, object, key, &result), "napi_get_named_property");
  return result;
}

Arguments::Array Arguments::array(napi_value value, const char* name, bool borrowed) {
  // Some Node versions leave the type of a Float16Array unwritten.
  auto type = static_cast<napi_typedarray_type>(-1);
  size_t length = 0;
  void* data = nullptr;
  napi_value buffer = nullptr;
  const bool pinned = borrowed && target_->promises;
  if (napi_get_typedarray_info(env_, value, &type, &length, &data, pinned ? &buffer : nullptr, nullptr) != napi_ok)
    refuse(Code::kDtype, label(name) + " is " + describe(value) + ", expected a typed array");
  if (pinned) {
    bool detachable = true;  // an ArrayBuffer, not a SharedArrayBuffer
    check(env_, napi_is_arraybuffer(env_, buffer, &detachable), "napi_is_arraybuffer");
    if (detachable)
      refuse(Code::kOption,
             label(name) +
                 " lies on an ordinary ArrayBuffer: an asynchronous call needs memory that cannot be detached "
                 "(Tensor.empty or a SharedArrayBuffer)");
    views_.push_back(value);
  }
  const auto count = static_cast<int64_t>(length);
  return {type, count == 0 ? nullptr : data, count, count * elementBytes(type)};
}

Arguments::Array Arguments::typed(napi_value value, const char* name, napi_typedarray_type type, const char* expected,
                                  int64_t length, bool borrowed) {
  const Array found = array(value, name, borrowed);
  const bool clamped = type == napi_uint8_array && found.type == napi_uint8_clamped_array;
  if (found.type != type && !clamped)
    refuse(Code::kDtype, label(name) + " is a " + typeName(found.type) + ", expected a " + expected);
  if (found.length < length)
    refuse(Code::kShape, label(name) + " has " + std::to_string(found.length) + " elements, expected at least " +
                             std::to_string(length));
  return found;
}

Arguments::Array Arguments::elements(napi_value value, const char* name, Dtype dtype, int64_t length) {
  const Array found = array(value, name, true);
  const napi_typedarray_type type = dtypeArray(dtype);
  if (found.type != type && found.type != napi_uint8_array && found.type != napi_uint8_clamped_array)
    refuse(Code::kDtype, label(name) + " is a " + typeName(found.type) + ", expected a " + typeName(type) +
                             " or bytes in a Uint8Array");
  const int64_t needed = product({length, dtypeBytes(dtype)}, name);
  if (found.bytes < needed)
    refuse(Code::kShape,
           label(name) + " has " + std::to_string(found.bytes) + " bytes, expected at least " + std::to_string(needed));
  return found;
}

void* Arguments::output(napi_value value, const char* name, Dtype dtype, int64_t length) {
  return elements(value, name, dtype, length).data;
}

Source Arguments::source(napi_value value, const char* name, Dtype dtype, int64_t length) {
  bool isArray = false;
  check(env_, napi_is_typedarray(env_, value, &isArray), "napi_is_typedarray");
  if (isArray) {
    const Array found = elements(value, name, dtype, length);
    return {static_cast<const uint8_t*>(found.data), found.bytes};
  }
  napi_valuetype type = napi_undefined;
  check(env_, napi_typeof(env_, value, &type), "napi_typeof");
  if (type != napi_object)
    refuse(Code::kDtype,
           label(name) + " is " + describe(value) + ", expected a typed array or a slice of a mapped file");
  const napi_value mappingValue = property(value, "mapping", name);
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

void* Arguments::bytes(napi_value value, const char* name, int64_t bytes) {
  const Array found = array(value, name, true);
  if (found.bytes < bytes)
    refuse(Code::kShape,
           label(name) + " has " + std::to_string(found.bytes) + " bytes, expected at least " + std::to_string(bytes));
  return found.data;
}

AbortFlag Arguments::abortFlag(napi_value value) {
  if (isNull(value)) return {};
  return AbortFlag(view<int32_t>(value, "abort flag", 1).data);
}

uint64_t Arguments::handle(napi_value value, const char* name) const {
  return static_cast<uint64_t>(integer(value, name, 1));
}

napi_value Arguments::undefined() const {
  napi_value result = nullptr;
  check(env_, napi_get_undefined(env_, &result), "napi_get_undefined");
  return result;
}

napi_value Arguments::numberValue(double value) const {
  napi_value result = nullptr;
  check(env_, napi_create_double(env_, value, &result), "napi_create_double");
  return result;
}

}  // namespace tsq
