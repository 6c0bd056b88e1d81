// Release and accounting of native objects, whatever their kind.
#include "bindings/exports.h"

namespace tsq {
namespace {

napi_value release(Arguments& a) {
  a.environment().handles.release(a.handle(a[0], "handle"));
  return a.undefined();
}

napi_value handleBytes(Arguments& a) {
  const NativeObject& object = a.environment().handles.object(a.handle(a[0], "handle"));
  return a.numberValue(static_cast<double>(objectBytes(object)));
}

napi_value handleCount(Arguments& a) {
  return a.numberValue(static_cast<double>(a.environment().handles.size()));
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
