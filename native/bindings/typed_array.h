// What a typed array holds, and the names of the kinds of typed arrays.
#pragma once
#include <cstdint>
#include <optional>
#include <type_traits>

#include "bindings/napi_setup.h"
#include "runtime/scalar.h"

namespace tsq {

struct ArrayInfo {
  napi_typedarray_type type;  // -1: a kind that Node-API does not know
  void* data;                 // null where there are no elements
  int64_t length, bytes;
};

// Empty where `value` is no typed array; otherwise type, length and address at once. `buffer`, if given, receives the
// buffer it lies on. This is the C interface: Napi::TypedArray takes a call for each of these (40 ns each, and three
// arrays a product), and takes a Float16Array, whose type some Node versions leave unwritten, for an Int8Array.
std::optional<ArrayInfo> arrayInfo(Napi::Value value, Napi::Value* buffer = nullptr);

// "Float32Array", …
const char* typeName(napi_typedarray_type type);

// Bytes of an element; 0 for a kind that is not known.
int64_t elementBytes(napi_typedarray_type type);

// The kind of array that holds elements of `dtype`; f16 and bf16 travel as Uint16Array.
napi_typedarray_type arrayTypeOf(Dtype dtype);

// The kind of array of a C++ type.
template <typename T>
constexpr napi_typedarray_type arrayType() {
  if constexpr (std::is_same_v<T, float>) return napi_float32_array;
  if constexpr (std::is_same_v<T, double>) return napi_float64_array;
  if constexpr (std::is_same_v<T, uint8_t>) return napi_uint8_array;
  if constexpr (std::is_same_v<T, uint16_t>) return napi_uint16_array;
  if constexpr (std::is_same_v<T, int32_t>) return napi_int32_array;
}

}  // namespace tsq
