// Release and accounting of native objects, whatever their kind.
#include "bindings/exports.h"

namespace tsq {
namespace {

Napi::Value release(Arguments& a) {
  a.environment().handles.release(a.handle(a[0], "handle"));
  return a.env().Undefined();
}

Napi::Value handleBytes(Arguments& a) {
  const NativeObject& object = a.environment().handles.object(a.handle(a[0], "handle"));
  return Napi::Number::New(a.env(), static_cast<double>(objectBytes(object)));
}

Napi::Value handleCount(Arguments& a) {
  return Napi::Number::New(a.env(), static_cast<double>(a.environment().handles.size()));
}

constexpr Export kExports[] = {
    {"release", release, false},
    {"handleBytes", handleBytes, false},
    {"handleCount", handleCount, false},
};

}  // namespace

std::span<const Export> handleExports() {
  return kExports;
}

}  // namespace tsq
