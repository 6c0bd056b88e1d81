// Calibration and rounding on a CUDA device: cuda_rounding.h. Each export is the counterpart of one without "cuda".
#include <algorithm>
#include <memory>

#include "bindings/cuda_rounding.h"
#include "bindings/exports.h"
#include "bindings/rounding_arguments.h"
#include "bindings/work.h"

namespace tsq {
namespace {

Napi::Value cudaHessian(Arguments& a) {
  const auto device = a.object<CudaDevice>(a[0], "device");
  const int64_t k = a.integer(a[1], "k", 1, int64_t{1} << 20);
  return promise(
      a, [=] { return CudaHessian::create(device, k); },
      [](Napi::Env env, auto& made) { return Environment::of(env).hold(made); });
}

Napi::Value cudaAccumulate(Arguments& a) {
  const auto hessian = a.object<CudaHessian>(a[0], "hessian");
  const Dtype type = a.dtype(a[2], "dtype", Dtype::kBF16);
  const int64_t rows = a.integer(a[3], "rows");
  const void* x = a.source(a[1], "x", type, product({rows, hessian->k()}, "x")).data;
  return promise(a, [=]() -> Status { return hessian->add(x, type, rows); });
}

Napi::Value cudaFinishHessian(Arguments& a) {
  const auto hessian = a.object<CudaHessian>(a[0], "hessian");
  const auto accumulator = readHessian(a, a[1], hessian->k());
  const uint64_t handle = a.handle(a[1], "accumulator");
  return promise(
      a,
      [=]() -> Status {
        const std::unique_lock lock(accumulator->mutex);
        if (!accumulator->accumulator.hessian) {
          Result<std::unique_ptr<Hessian>> made = Hessian::create(hessian->k());
          if (!made.ok()) return made.status();
          accumulator->accumulator.hessian = std::move(made.value());
        }
        Hessian* to = accumulator->accumulator.hessian.get();
        TSQ_RETURN_IF_ERROR(hessian->into(to));
        accumulator->accumulator.rows = to->rows();
        accumulator->fed();
        return {};
      },
      [handle](Napi::Env env) {
        Environment::of(env).handles.account(handle);
        return env.Undefined();
      });
}

Napi::Value cudaRoundNearest(Arguments& a) {
  const auto device = a.object<CudaDevice>(a[0], "device");
  const int64_t n = a.integer(a[2], "n", 1), k = a.integer(a[3], "k", 1);
  const GridSpec grid = readGrid(a, a[4], k);
  const SearchSpec search = readSearch(a, a[5], k);
  const float* w = a.view<float>(a[1], "w", product({n, k}, "w")).data;
  const float* clip = readClip(a, a[6], n, k, grid);
  const RoundedWeight out = readOutputs(a, a[7], n, k, grid);
  const AbortFlag abort = a.abortFlag(a[8]);
  return promise(a, [=]() -> Status { return roundNearestOn(device, w, n, k, grid, search, clip, out, abort); });
}

Napi::Value cudaGptq(Arguments& a) {
  const auto device = a.object<CudaDevice>(a[0], "device");
  const int64_t n = a.integer(a[2], "n", 1), k = a.integer(a[3], "k", 1);
  const auto hessian = readHessian(a, a[4], k);
  const GptqSpec spec = readGptqOptions(a, a[5], n, k);
  const RoundedWeight out = readOutputs(a, a[6], n, k, spec.grid);
  const float* w = a.view<float>(a[1], "w", product({n, k}, "w")).data;
  int32_t* groupIndex = readGroupIndex(a, a[7], k, spec);
  const AbortFlag abort = a.abortFlag(a[8]);
  return promise(
      a,
      [=]() -> Result<GptqReport> {
        const auto lock = hessian->lockFinished();
        if (!hessian->accumulator.hessian) return noRows();
        return gptqOn(device, w, n, k, *hessian->accumulator.hessian, spec, out, groupIndex, abort);
      },
      [](Napi::Env env, GptqReport& report) { return reportObject(env, report); });
}

Napi::Value cudaLayerError(Arguments& a) {
  const auto device = a.object<CudaDevice>(a[0], "device");
  const int64_t n = a.integer(a[3], "n", 1), k = a.integer(a[4], "k", 1), count = product({n, k}, "w");
  const float* w = a.view<float>(a[1], "w", count).data;
  const float* approx = a.view<float>(a[2], "approx", count).data;
  const auto hessian = readHessian(a, a[5], k);
  return promise(
      a,
      [=]() -> Result<double> {
        const auto lock = hessian->lockFinished();
        if (!hessian->accumulator.hessian) return noRows();
        return layerErrorOn(device, w, approx, n, k, *hessian->accumulator.hessian);
      },
      [](Napi::Env env, double& error) { return Napi::Number::New(env, error); });
}

Napi::Value cudaScaledErrors(Arguments& a) {
  const auto device = a.object<CudaDevice>(a[0], "device");
  const int64_t n = a.integer(a[2], "n", 1), k = a.integer(a[3], "k", 1), count = a.integer(a[7], "count", 1);
  const auto hessian = readHessian(a, a[4], k);
  const GridSpec grid = readGrid(a, a[5], k);
  const float* w = a.view<float>(a[1], "w", product({n, k}, "w")).data;
  const View<float> scales = a.view<float>(a[6], "scales", product({count, k}, "scales"));
  double* errors = a.view<double>(a[8], "errors", count).data;
  const AbortFlag abort = a.abortFlag(a[9]);
  return promise(a, [=]() -> Status {
    const auto lock = hessian->lockFinished();
    if (!hessian->accumulator.hessian) return noRows();
    return scaledErrorsOn(device, w, n, k, *hessian->accumulator.hessian, grid, scales.data, count, errors, abort);
  });
}

constexpr Export kExports[] = {
    {"cudaHessian", cudaHessian, true},
    {"cudaAccumulate", cudaAccumulate, true},
    {"cudaFinishHessian", cudaFinishHessian, true},
    {"cudaRoundNearest", cudaRoundNearest, true},
    {"cudaGptq", cudaGptq, true},
    {"cudaLayerError", cudaLayerError, true},
    {"cudaScaledErrors", cudaScaledErrors, true},
};

}  // namespace

std::span<const Export> cudaCalibrationExports() {
  return kExports;
}

}  // namespace tsq
