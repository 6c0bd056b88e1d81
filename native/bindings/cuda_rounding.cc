#include "bindings/cuda_rounding.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "bindings/cuda_work.h"
#include "rounding/group_grid.h"

namespace tsq {

using namespace rounding;  // NOLINT: the pieces that this file puts together

TsqCudaGrid cudaGrid(const LaneGrid& grid) {
  return {grid.maxCode,        grid.symmetricZero, grid.minZero,  grid.minScale,
          grid.subnormalBelow, grid.maxScale,      grid.dropBits, grid.symmetric ? 1 : 0};
}

Result<std::shared_ptr<CudaHessian>> CudaHessian::create(std::shared_ptr<CudaDevice> device, int64_t k) {
  const int64_t bytes = k * k * static_cast<int64_t>(sizeof(float));
  auto memory = device->allocate(bytes);
  if (!memory.ok()) return memory.status();
  TSQ_RETURN_IF_ERROR(device->ask([&](TsqCudaText reason) {
    return device->table().clear(memory.value()->data, bytes, device->ownStream(), reason);
  }));
  return std::make_shared<CudaHessian>(std::move(memory.value()), k);
}

Status CudaHessian::add(const void* x, Dtype type, int64_t rows) {
  if (rows == 0) return {};
  const std::lock_guard lock(mutex_);
  CudaWork work(h_->device);
  const uint8_t* values = nullptr;
  TSQ_RETURN_IF_ERROR(work.upload(static_cast<const uint8_t*>(x), rows * k_ * dtypeBytes(type), &values));
  const TsqCudaHessian sum{values, rows, k_, k_, static_cast<float*>(h_->data), static_cast<int32_t>(type)};
  TSQ_RETURN_IF_ERROR(work.call([&](const TsqCuda& table, void* stream, TsqCudaText reason) {
    return table.addToHessian(&sum, stream, reason);
  }));
  TSQ_RETURN_IF_ERROR(work.wait());
  rows_ += static_cast<double>(rows);
  return {};
}

Status CudaHessian::into(Hessian* to) {
  const std::lock_guard lock(mutex_);
  CudaWork work(h_->device);
  auto* h = static_cast<float*>(h_->data);
  TSQ_RETURN_IF_ERROR(work.call([&](const TsqCuda& table, void* stream, TsqCudaText reason) {
    return table.mirrorHessian(h, k_, stream, reason);
  }));
  TSQ_RETURN_IF_ERROR(work.download(h, k_ * k_, to->mutableData()));
  TSQ_RETURN_IF_ERROR(work.wait());
  to->setRows(rows_);
  return {};
}

Status roundNearestOn(const std::shared_ptr<CudaDevice>& device, const float* w, int64_t n, int64_t k,
                      const GridSpec& grid, const SearchSpec& search, const float* clip, RoundedWeight out,
                      AbortFlag abort) {
  if (grid.perTensor) return roundNearest(w, n, k, grid, search, clip, out, abort);
  TSQ_RETURN_IF_ERROR(checkGrid("nearest rounding", n, k, grid, &search));
  TSQ_RETURN_IF_ERROR(checkFinite("nearest rounding", w, n, k));
  const int64_t groups = groupsOf(k, grid);
  TsqCudaScales fit{};
  fit.grid = cudaGrid(makeLaneGrid(grid));
  fit.n = n;
  fit.k = fit.end = k;
  fit.group = grid.groupSize;
  fit.count = groups;
  fit.steps = search.enabled ? search.steps : 0;
  fit.maxShrink = search.maxShrink;
  fit.norm = search.norm;
  uint8_t* codes = nullptr;
  CudaWork work(device);
  TSQ_RETURN_IF_ERROR(work.upload(w, n * k, &fit.w));
  TSQ_RETURN_IF_ERROR(work.upload(search.enabled ? search.importance : nullptr, k, &fit.importance));
  TSQ_RETURN_IF_ERROR(work.upload(clip, n * groups, &fit.clip));
  TSQ_RETURN_IF_ERROR(work.room(n * groups, &fit.scales));
  if (!grid.symmetric) TSQ_RETURN_IF_ERROR(work.room(n * groups, &fit.zeros));
  TSQ_RETURN_IF_ERROR(work.room(n * k, &codes));
  TSQ_RETURN_IF_ERROR(work.call(
      [&](const TsqCuda& table, void* stream, TsqCudaText reason) { return table.fitScales(&fit, stream, reason); }));
  const TsqCudaCodes on{fit.grid, fit.scales, fit.zeros, nullptr, n, k, grid.groupSize};
  TSQ_RETURN_IF_ERROR(work.call([&](const TsqCuda& table, void* stream, TsqCudaText reason) {
    return table.encodeNearest(&on, fit.w, nullptr, codes, stream, reason);
  }));
  TSQ_RETURN_IF_ERROR(work.download(codes, n * k, out.codes));
  TSQ_RETURN_IF_ERROR(work.download(fit.scales, n * groups, out.scales));
  if (!grid.symmetric) TSQ_RETURN_IF_ERROR(work.download(fit.zeros, n * groups, out.zeros));
  return work.wait("nearest rounding", abort);
}

namespace {

// A layer whose weight and Hessian are on the device, for objectives.
Status prepareObjective(CudaWork* work, const float* w, int64_t n, int64_t k, const Hessian& hessian,
                        TsqCudaObjective* objective) {
  TsqCudaCalibrationSizes sizes{};
  TSQ_RETURN_IF_ERROR(work->call(
      [&](const TsqCuda& table, void*, TsqCudaText reason) { return table.calibrationSizes(n, k, &sizes, reason); }));
  objective->on.n = n;
  objective->on.k = k;
  TSQ_RETURN_IF_ERROR(work->upload(w, n * k, &objective->w));
  TSQ_RETURN_IF_ERROR(work->upload(hessian.data(), k * k, &objective->h));
  TSQ_RETURN_IF_ERROR(work->room(n * k, &objective->d));
  return work->room(sizes.partialBytes / static_cast<int64_t>(sizeof(double)), &objective->partials);
}

Status enqueueObjective(CudaWork* work, const TsqCudaObjective& objective) {
  return work->call([&](const TsqCuda& table, void* stream, TsqCudaText reason) {
    return table.objective(&objective, stream, reason);
  });
}

Status checkLayer(int64_t n, int64_t k, const Hessian& hessian) {
  if (n < 1 || k != hessian.k()) {
    return {Code::kShape, "layer error: weight is [" + std::to_string(n) + ", " + std::to_string(k) +
                              "], expected at least one row and k = " + std::to_string(hessian.k()) +
                              " as in the Hessian"};
  }
  if (!(hessian.rows() > 0)) return {Code::kOption, "layer error: the Hessian has seen no rows; run calibration first"};
  return {};
}

}  // namespace

Result<double> layerErrorOn(const std::shared_ptr<CudaDevice>& device, const float* w, const float* approx, int64_t n,
                            int64_t k, const Hessian& hessian) {
  TSQ_RETURN_IF_ERROR(checkLayer(n, k, hessian));
  TsqCudaObjective objective{};
  double total = 0;
  CudaWork work(device);
  TSQ_RETURN_IF_ERROR(prepareObjective(&work, w, n, k, hessian, &objective));
  objective.on.group = k;
  TSQ_RETURN_IF_ERROR(work.upload(approx, n * k, &objective.approx));
  TSQ_RETURN_IF_ERROR(work.room(1, &objective.sum));
  TSQ_RETURN_IF_ERROR(enqueueObjective(&work, objective));
  TSQ_RETURN_IF_ERROR(work.download(objective.sum, 1, &total));
  TSQ_RETURN_IF_ERROR(work.wait());
  return total / hessian.rows();
}

Status scaledErrorsOn(const std::shared_ptr<CudaDevice>& device, const float* w, int64_t n, int64_t k,
                      const Hessian& hessian, const GridSpec& grid, const float* scales, int64_t count, double* errors,
                      AbortFlag abort) {
  constexpr int64_t kTogether = 4;  // candidates between two looks at the abort flag
  TSQ_RETURN_IF_ERROR(checkLayer(n, k, hessian));
  TSQ_RETURN_IF_ERROR(checkGrid("AWQ search", n, k, grid, nullptr));
  TSQ_RETURN_IF_ERROR(checkFinite("AWQ search", w, n, k));
  if (grid.perTensor)
    return {Code::kUnsupported, "AWQ search: one scale for the whole weight is not searched on a device"};
  TsqCudaObjective objective{};
  const float* all = nullptr;
  double* sums = nullptr;
  CudaWork work(device);
  TSQ_RETURN_IF_ERROR(prepareObjective(&work, w, n, k, hessian, &objective));
  objective.on.grid = cudaGrid(makeLaneGrid(grid));
  objective.on.group = grid.groupSize;
  TSQ_RETURN_IF_ERROR(work.upload(scales, count * k, &all));
  TSQ_RETURN_IF_ERROR(work.room(count, &sums));
  for (int64_t i = 0; i < count; ++i) {
    objective.scale = all + i * k;
    objective.sum = sums + i;
    TSQ_RETURN_IF_ERROR(enqueueObjective(&work, objective));
    if (i % kTogether == kTogether - 1) TSQ_RETURN_IF_ERROR(work.wait("AWQ search", abort));
  }
  TSQ_RETURN_IF_ERROR(work.download(sums, count, errors));
  TSQ_RETURN_IF_ERROR(work.wait("AWQ search", abort));
  for (int64_t i = 0; i < count; ++i) errors[i] /= hessian.rows();
  return {};
}

}  // namespace tsq
