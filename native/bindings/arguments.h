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
#include <utility>
#include <vector>

#include "bindings/environment.h"
#include "bindings/napi_setup.h"
#include "bindings/typed_array.h"
#include "layout/stored_codes.h"
#include "runtime/scalar.h"
#include "runtime/thread_pool.h"

namespace tsq {

class Arguments;

// An exported function. `promises`: it returns a promise, and refusals reject it.
struct Export {
  const char* name;
  Napi::Value (*function)(Arguments&);
  bool promises;
};

// What running work needs: JavaScript views and native objects. Destroyed on the JavaScript thread.
struct Kept {
  std::vector<Napi::Reference<Napi::Value>> views;
  std::vector<std::shared_ptr<const void>> objects;
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
  explicit Arguments(const Napi::CallbackInfo& info) : info_(info), target_(*static_cast<const Export*>(info.Data())) {}

  Napi::Env env() const { return info_.Env(); }
  Environment& environment() const { return Environment::of(env()); }
  const Export& target() const { return target_; }
  // undefined where fewer were given.
  Napi::Value operator[](size_t index) const { return info_[index]; }

  // A number that is an integer in [min, max].
  int64_t integer(Napi::Value value, const char* name, int64_t min = 0, int64_t max = kMaxSize) const;
  // A number in [min, max]; never NaN.
  double number(Napi::Value value, const char* name, double min, double max) const;
  bool boolean(Napi::Value value, const char* name) const;
  // UTF-8, without NUL.
  std::string string(Napi::Value value, const char* name) const;
  // One of the element types up to `last`.
  Dtype dtype(Napi::Value value, const char* name, Dtype last = Dtype::kI32) const;

  static bool isNull(Napi::Value value) {  // null or undefined
    const napi_valuetype type = value.Type();
    return type == napi_undefined || type == napi_null;
  }
  // A property of an object, which may be a getter that throws.
  Napi::Value property(Napi::Value object, const char* key, const char* name) const;

  // At least `length` elements of T (float, double, uint8_t, uint16_t, int32_t).
  template <typename T>
  View<T> view(Napi::Value value, const char* name, int64_t length);
  // Null and undefined give an empty view.
  template <typename T>
  View<T> optionalView(Napi::Value value, const char* name, int64_t length) {
    return isNull(value) ? View<T>{} : view<T>(value, name, length);
  }
  // A copy of a small array that indexes memory: taken on this thread, so it cannot change once it was checked. May lie
  // anywhere.
  template <typename T>
  std::vector<T> copy(Napi::Value value, const char* name) const;
  // `length` elements of `dtype` to be written, as a typed array of that type or as bytes.
  void* output(Napi::Value value, const char* name, Dtype dtype, int64_t length);
  // `length` elements of `dtype` to be read: the same, or a slice of a mapped file. Reads properties, so call it before
  // views.
  Source source(Napi::Value value, const char* name, Dtype dtype, int64_t length);
  // Arguments 0 … 4: codes as bytes or a slice of a mapped file, layout, n, k, bits.
  layout::StoredCodes storedCodes();
  // Any typed array of at least `bytes` bytes.
  void* bytes(Napi::Value value, const char* name, int64_t bytes);
  AbortFlag abortFlag(Napi::Value value);

  uint64_t handle(Napi::Value value, const char* name) const;
  template <typename T>
  std::shared_ptr<T> object(Napi::Value value, const char* name) {
    const std::shared_ptr<T>& found = environment().handles.get<T>(handle(value, name));
    if (target_.promises) kept_.objects.push_back(found);
    return found;
  }

  // Everything that was read so far and must outlive this call.
  Kept takeKept() { return std::move(kept_); }

 private:
  // `borrowed`: the memory is used after this call returns, so in a promise-returning export it must not be detachable.
  ArrayInfo array(Napi::Value value, const char* name, bool borrowed);
  ArrayInfo typed(Napi::Value value, const char* name, napi_typedarray_type type, int64_t length, bool borrowed);
  ArrayInfo elements(Napi::Value value, const char* name, Dtype dtype, int64_t length);
  std::string describe(Napi::Value value) const;
  std::string label(const char* name) const;

  const Napi::CallbackInfo& info_;
  const Export& target_;
  Kept kept_;
};

template <typename T>
View<T> Arguments::view(Napi::Value value, const char* name, int64_t length) {
  const ArrayInfo found = typed(value, name, arrayType<T>(), length, true);
  return {static_cast<T*>(found.data), found.length};
}

template <typename T>
std::vector<T> Arguments::copy(Napi::Value value, const char* name) const {
  // Nothing runs between reading the address and copying, so any memory will do.
  const ArrayInfo found = const_cast<Arguments*>(this)->typed(value, name, arrayType<T>(), 0, false);
  const T* data = static_cast<const T*>(found.data);
  return std::vector<T>(data, data + found.length);
}

}  // namespace tsq
