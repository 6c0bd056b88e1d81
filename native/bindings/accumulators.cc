// Statistics over rows of activations, fed by steps (native/program) or directly.
#include <algorithm>
#include <memory>
#include <mutex>
#include <string>

#include "bindings/exports.h"
#include "bindings/work.h"
#include "program/observers.h"

namespace tsq {
namespace {

Napi::Value createAccumulator(Arguments& a) {
  auto shared = std::make_shared<SharedAccumulator>();
  Accumulator& accumulator = shared->accumulator;
  accumulator.kind = static_cast<Reduction>(a.integer(a[0], "kind", 0, static_cast<int64_t>(kLastReduction)));
  accumulator.width = a.integer(a[1], "width", 1);
  accumulator.capacity = a.integer(a[2], "capacity");
  accumulator.seed = static_cast<uint64_t>(a.integer(a[3], "seed"));
  if (accumulator.kind == Reduction::kCopy)
    refuse(Code::kOption, "createAccumulator: a copy (kind 3) needs no accumulator; give the observer an array");
  check(checkAccumulator(accumulator));
  return a.environment().hold(std::move(shared));
}

Napi::Value accumulateRows(Arguments& a) {
  const auto shared = a.object<SharedAccumulator>(a[0], "accumulator");
  const int64_t rows = a.integer(a[2], "rows");
  const float* x = a.view<float>(a[1], "x", product({rows, shared->accumulator.width}, "x")).data;
  const float* reference =
      a.optionalView<float>(a[3], "reference", product({rows, referenceWidth(shared->accumulator)}, "reference")).data;
  if (needsReference(shared->accumulator.kind) && reference == nullptr)
    refuse(Code::kOption,
           "accumulate: the squared error, products and the cross Gram matrix compare with reference rows; found none");
  const uint64_t handle = a.handle(a[0], "accumulator");
  return promise(
      a,
      [=]() -> Status {
        const std::unique_lock lock(shared->mutex);
        const Status status = rows == 0 ? Status() : accumulate(&shared->accumulator, x, rows, reference);
        shared->fed();
        return status;
      },
      [handle](Napi::Env env) {
        Environment::of(env).handles.account(handle);
        return env.Undefined();
      });
}

Napi::Value accumulatorRows(Arguments& a) {
  const auto shared = a.object<SharedAccumulator>(a[0], "accumulator");
  const std::shared_lock lock(shared->mutex);
  return Napi::Number::New(a.env(), shared->accumulator.rows);
}

// Elements that reading gives.
int64_t resultSize(const Accumulator& accumulator) {
  switch (accumulator.kind) {
    case Reduction::kSquaredError:
      return 2;
    case Reduction::kCross:
      return 0;
    case Reduction::kReservoir:
      return std::min(static_cast<int64_t>(accumulator.rows), accumulator.capacity) * accumulator.width;
    default:
      return accumulator.width;
  }
}

template <typename T>
void writeResult(const Accumulator& accumulator, int64_t count, T* out) {
  switch (accumulator.kind) {
    case Reduction::kHessian:
      for (int64_t i = 0; i < count; ++i)
        out[i] = accumulator.hessian ? static_cast<T>(accumulator.hessian->data()[i * (accumulator.width + 1)]) : T{0};
      return;
    case Reduction::kReservoir:
      std::copy_n(accumulator.samples.begin(), count, out);
      return;
    default:
      // Before the first rows there are no values yet: they are zero.
      for (int64_t i = 0; i < count; ++i)
        out[i] = accumulator.values.empty() ? T{0} : static_cast<T>(accumulator.values[static_cast<size_t>(i)]);
  }
}

Napi::Value readAccumulator(Arguments& a) {
  const auto shared = a.object<SharedAccumulator>(a[0], "accumulator");
  const std::shared_lock lock(shared->mutex);  // the diagonal needs no finished Hessian
  const int64_t count = resultSize(shared->accumulator);
  const auto out = arrayInfo(a[1]);
  if (out && out->type == napi_float64_array) {
    writeResult(shared->accumulator, count, a.view<double>(a[1], "out", count).data);
  } else {
    writeResult(shared->accumulator, count, a.view<float>(a[1], "out", count).data);
  }
  return a.env().Undefined();
}

constexpr Export kExports[] = {
    {"createAccumulator", createAccumulator, false},
    {"accumulate", accumulateRows, true},
    {"accumulatorRows", accumulatorRows, false},
    {"readAccumulator", readAccumulator, false},
};

}  // namespace

std::span<const Export> accumulatorExports() {
  return kExports;
}

}  // namespace tsq
