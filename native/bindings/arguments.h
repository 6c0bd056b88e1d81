// The arguments of one call, read and checked.
//
// Readers take a value and the name that messages use, and throw Refusal. A typed array is read with one call that
// gives its type, length and address. An export that returns a promise only gets memory that cannot go away under the
// worker: views of a SharedArrayBuffer and mapped files; everything such a call reads is remembered here and kept alive
// until its work is done.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "bindings/environment.h"
#include "bindings/napi_setup.h"
#include "runtime/scalar.h"
#include "runtime/thread_pool.h"

namespace tsq {

class Arguments;

// An exported function. `promises`: it returns a promise, and refusals reject it.
struct Export {
  const char* name;
  napi_value (*function)(Arguments&);
  bool promises;
};

// Elements of a typed array; data is null where there are none, and for null given as an optional array.
template <typename T>
struct View {
  T* data = nullptr;
  int64_t length = 0;
};

// Bytes of a typed array or of a mapped file.
struct Source {
  const uint8_t* data = nullptr;
  int64_t bytes = 0;
};

// Largest length, size or count in a call: what a JavaScript number holds exactly.
constexpr int64_t kMaxSize = int64_t{1} << 53;

// The product of non-negative sizes; refused where it exceeds kMaxSize, naming `what`.
int64_t product(std::initializer_list<int64_t> sizes, const char* what);

// A number as people write it in JavaScript: 3, 0.5, NaN.
std::string numberText(double value);

// ceil(k / groupSize), refusing a group size outside 1 … k.
int64_t groupCount(int64_t k, int64_t groupSize);

class Arguments {
 public:
  static constexpr size_t kMax = 10;

  Arguments(napi_env env, napi_callback_info info);

  napi_env env() const { return env_; }
  Environment& environment() const { return *environment_; }
  const Export& target() const { return *target_; }
  // undefined where fewer were given.
  napi_value operator[](size_t index) const { return values_[index]; }

  // A number that is an integer in [min, max].
  int64_t integer(napi_value value, const char* name, int64_t min = 0, int64_t max = kMaxSize) const;
  // A number in [min, max]; never NaN.
  double number(napi_value value, const char* name, double min, double max) const;
  bool boolean(napi_value value, const char* name) const;
  // UTF-8, without NUL.
  std::string string(napi_value value, const char* name) const;
  // One of the element types up to `last`.
  Dtype dtype(napi_value value, const char* name, Dtype last = Dtype::kI32) const;

  bool isNull(napi_value value) const;  // null or undefined
  bool isFloat64Array(napi_value value) const;
  // A property of an object, which may be a getter that throws.
  napi_value property(napi_value object, const char* key, const char* name) const;

  // At least `length` elements of T (float, double, uint8_t, uint16_t, int32_t).
  template <typename T>
  View<T> view(napi_value value, const char* name, int64_t length);
  // Null and undefined give an empty view.
  template <typename T>
  View<T> optionalView(napi_value value, const char* name, int64_t length) {
    return isNull(value) ? View<T>{} : view<T>(value, name, length);
  }
  // A copy of a small array that indexes memory: taken on this thread, so it cannot change once it was checked. May lie
  // anywhere.
  template <typename T>
  std::vector<T> copy(napi_value value, const char* name) const;
  // `length` elements of `dtype` to be written, as a typed array of that type or as bytes.
  void* output(napi_value value, const char* name, Dtype dtype, int64_t length);
  // `length` elements of `dtype` to be read: the same, or a slice of a mapped file. Reads properties, so call it before
  // views.
  Source source(napi_value value, const char* name, Dtype dtype, int64_t length);
  // Any typed array of at least `bytes` bytes.
  void* bytes(napi_value value, const char* name, int64_t bytes);
  AbortFlag abortFlag(napi_value value);

  uint64_t handle(napi_value value, const char* name) const;
  template <typename T>
  std::shared_ptr<T> object(napi_value value, const char* name) {
    const std::shared_ptr<T>& found = environment_->handles.get<T>(handle(value, name));
    if (target_->promises) objects_.push_back(found);
    return found;
  }

  napi_value undefined() const;
  napi_value numberValue(double value) const;

  // What running work needs kept alive: JavaScript views, native objects.
  const std::vector<napi_value>& views() const { return views_; }
  std::vector<std::shared_ptr<const void>> takeObjects() { return std::move(objects_); }

 private:
  struct Array {
    napi_typedarray_type type;
    void* data;
    int64_t length, bytes;
  };
  // `borrowed`: the memory is used after this call returns, so in a promise-returning export it must not be detachable.
  Array array(napi_value value, const char* name, bool borrowed);
  Array typed(napi_value value, const char* name, napi_typedarray_type type, const char* typeName, int64_t length,
              bool borrowed);
  Array elements(napi_value value, const char* name, Dtype dtype, int64_t length);
  std::string describe(napi_value value) const;
  std::string label(const char* name) const;

  napi_env env_;
  Environment* environment_ = nullptr;
  const Export* target_ = nullptr;
  napi_value values_[kMax];
  std::vector<napi_value> views_;
  std::vector<std::shared_ptr<const void>> objects_;
};

// The typed array of a C++ type.
template <typename T>
constexpr napi_typedarray_type arrayType() {
  if constexpr (std::is_same_v<T, float>) return napi_float32_array;
  if constexpr (std::is_same_v<T, double>) return napi_float64_array;
  if constexpr (std::is_same_v<T, uint8_t>) return napi_uint8_array;
  if constexpr (std::is_same_v<T, uint16_t>) return napi_uint16_array;
  if constexpr (std::is_same_v<T, int32_t>) return napi_int32_array;
}
template <typename T>
constexpr const char* arrayName() {
  if constexpr (std::is_same_v<T, float>) return "Float32Array";
  if constexpr (std::is_same_v<T, double>) return "Float64Array";
  if constexpr (std::is_same_v<T, uint8_t>) return "Uint8Array";
  if constexpr (std::is_same_v<T, uint16_t>) return "Uint16Array";
  if constexpr (std::is_same_v<T, int32_t>) return "Int32Array";
}

template <typename T>
View<T> Arguments::view(napi_value value, const char* name, int64_t length) {
  const Array found = typed(value, name, arrayType<T>(), arrayName<T>(), length, true);
  return {static_cast<T*>(found.data), found.length};
}

template <typename T>
std::vector<T> Arguments::copy(napi_value value, const char* name) const {
  // Nothing runs between reading the address and copying, so any memory will do.
  const Array found = const_cast<Arguments*>(this)->typed(value, name, arrayType<T>(), arrayName<T>(), 0, false);
  const T* data = static_cast<const T*>(found.data);
  return std::vector<T>(data, data + found.length);
}

}  // namespace tsq
