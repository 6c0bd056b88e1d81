#include "bindings/typed_array.h"

namespace tsq {

std::optional<ArrayInfo> arrayInfo(Napi::Value value, Napi::Value* buffer) {
  auto type = static_cast<napi_typedarray_type>(-1);
  size_t length = 0;
  void* data = nullptr;
  napi_value memory = nullptr;
  if (napi_get_typedarray_info(value.Env(), value, &type, &length, &data, buffer == nullptr ? nullptr : &memory,
                               nullptr) != napi_ok)
    return std::nullopt;
  if (buffer != nullptr) *buffer = Napi::Value(value.Env(), memory);
  const auto count = static_cast<int64_t>(length);
  return ArrayInfo{type, count == 0 ? nullptr : data, count, count * elementBytes(type)};
}

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

napi_typedarray_type arrayTypeOf(Dtype dtype) {
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

}  // namespace tsq
