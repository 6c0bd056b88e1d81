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

Napi::Value deferReports(Arguments& a) {
  a.environment().handles.deferReports(a.boolean(a[0], "defer"));
  return a.env().Undefined();
}

constexpr Export kExports[] = {
    {"release", release, false},
    {"deferReports", deferReports, false},
    {"handleBytes", handleBytes, false},
    {"handleCount", handleCount, false},
};

}  // namespace

std::span<const Export> handleExports() {
  return kExports;
}

}  // namespace tsq
