// GPTQ with its heavy steps on a CUDA device.
#include <algorithm>
#include <vector>

#include "bindings/cuda_rounding.h"
#include "bindings/cuda_work.h"
#include "rounding/gptq_machine.h"

namespace tsq {

using namespace rounding;  // NOLINT: the pieces that this file puts together

namespace {

// Waits, of some milliseconds each, between which an abort is noticed.
constexpr int64_t kStepsTogether = 16, kBlocksTogether = 8;

class CudaMachine final : public GptqMachine {
 public:
  explicit CudaMachine(std::shared_ptr<CudaDevice> device) : work_(std::move(device)) {}

  // Sizes of the module for this layer; before all others.
  Status prepare(int64_t n, int64_t k) {
    return work_.call(
        [&](const TsqCuda& table, void*, TsqCudaText reason) { return table.calibrationSizes(n, k, &sizes_, reason); });
  }

  int64_t blockLimit(int64_t asked) const override { return std::min(asked, sizes_.mostColumns); }

  Result<FactorOutcome> factor(const GptqJob& job, const Hessian& hessian, const std::vector<double>& diagonal,
                               AbortFlag abort) override {
    Result<FactorOutcome> outcome = factorDamped(job, hessian, diagonal, abort);
    work_.settle();
    return outcome;
  }

  Status round(const GptqJob& job, AbortFlag abort) override {
    const Status status = roundBlocks(job, abort);
    work_.settle();  // whatever happened: the job's memory goes
    return status;
  }

  Status objectives(const GptqJob& job, const Hessian& hessian, bool withNearest, double* totals,
                    AbortFlag abort) override {
    const Status status = compare(job, hessian, withNearest, totals, abort);
    work_.settle();
    return status;
  }

 private:
  Result<FactorOutcome> factorDamped(const GptqJob& job, const Hessian& hessian, const std::vector<double>& diagonal,
                                     AbortFlag abort) {
    const int64_t k = job.k;
    TSQ_RETURN_IF_ERROR(uploadHessian(hessian));
    TSQ_RETURN_IF_ERROR(work_.upload(job.visit.columns, &columns_));
    TSQ_RETURN_IF_ERROR(work_.room(k * k, &u_));
    TsqCudaFactor step{};
    step.k = k;
    step.h = h_;
    step.columns = columns_;
    step.u = u_;
    step.unit = 1 / meanDiagonal(diagonal);
    uint8_t* workspace = nullptr;
    TSQ_RETURN_IF_ERROR(work_.room(sizes_.factorBytes, &workspace));
    TSQ_RETURN_IF_ERROR(work_.room(2, &step.failed));
    step.workspace = workspace;
    const auto attempt = [&](double share) -> Result<bool> {
      step.damp = share;
      for (step.begin = 0; step.begin < sizes_.factorSteps; step.begin = step.end) {
        step.end = std::min(sizes_.factorSteps, step.begin + kStepsTogether);
        int32_t failed[2] = {-1, 0};
        TSQ_RETURN_IF_ERROR(work_.call([&](const TsqCuda& table, void* stream, TsqCudaText reason) {
          return table.factorInverse(&step, stream, reason);
        }));
        TSQ_RETURN_IF_ERROR(work_.download(step.failed, 2, failed));
        TSQ_RETURN_IF_ERROR(work_.wait("gptq", abort));
        if (failed[0] >= 0 || failed[1] > 0) return false;
      }
      return true;
    };
    Result<FactorOutcome> outcome = dampUntilDefinite(job.spec.damp, job.spec.dampStep, attempt);
    work_.release(workspace);
    return outcome;
  }

  Status roundBlocks(const GptqJob& job, AbortFlag abort) {
    const int64_t n = job.n, k = job.k, scaleCount = n * job.groups;
    TSQ_RETURN_IF_ERROR(uploadWeight(job));
    TsqCudaGptq gptq{};
    gptq.on = {cudaGrid(job.grid), nullptr, nullptr, nullptr, n, k, job.spec.grid.groupSize};
    gptq.source = w_;
    gptq.dead = dead_;
    gptq.columns = columns_;
    gptq.u = u_;
    float* scales = nullptr;
    uint8_t* zeros = nullptr;
    TSQ_RETURN_IF_ERROR(work_.upload(job.visit.groupOf, &gptq.on.groupIndex));
    TSQ_RETURN_IF_ERROR(work_.room(n * k, &gptq.w));
    TSQ_RETURN_IF_ERROR(work_.room(sizes_.errorBytes / static_cast<int64_t>(sizeof(float)), &gptq.errors));
    TSQ_RETURN_IF_ERROR(work_.room(n * k, &gptq.codes));
    TSQ_RETURN_IF_ERROR(work_.room(scaleCount, &scales));
    if (!job.grid.symmetric) TSQ_RETURN_IF_ERROR(work_.room(scaleCount, &zeros));
    gptq.on.scales = scales;
    gptq.on.zeros = zeros;

    TsqCudaScales fit{};
    fit.grid = gptq.on.grid;
    fit.scales = scales;
    fit.zeros = zeros;
    fit.n = n;
    fit.k = k;
    fit.group = job.spec.grid.groupSize;
    fit.steps = job.spec.search.enabled ? job.spec.search.steps : 0;
    fit.maxShrink = job.spec.search.maxShrink;
    fit.norm = job.spec.search.norm;
    TSQ_RETURN_IF_ERROR(work_.upload(job.importance, &fit.importance));
    if (!job.spec.grid.perTensor) TSQ_RETURN_IF_ERROR(work_.upload(job.spec.clip, scaleCount, &fit.clip));
    const auto fitGroups = [&] {
      return work_.call([&](const TsqCuda& table, void* stream, TsqCudaText reason) {
        return table.fitScales(&fit, stream, reason);
      });
    };
    if (job.spec.grid.perTensor) {
      TSQ_RETURN_IF_ERROR(uploadTensorScale(job, scales, zeros));
    } else if (job.fixedScales()) {
      fit.w = w_;
      fit.dead = dead_;
      fit.end = k;
      fit.count = job.groups;
      TSQ_RETURN_IF_ERROR(fitGroups());
    }
    TSQ_RETURN_IF_ERROR(work_.call([&](const TsqCuda& table, void* stream, TsqCudaText reason) {
      return table.gptqGather(&gptq, stream, reason);
    }));
    fit.w = gptq.w;
    fit.dead = nullptr;  // they were gathered as zeros
    fit.count = 1;
    size_t nextGroup = 0, launched = 0;
    for (const VisitOrder::Block& block : job.visit.blocks) {
      // Scales that depend on updated weights are computed between two launches: a group begins one of its own.
      for (gptq.begin = block.begin; gptq.begin < block.end; gptq.begin = gptq.end) {
        gptq.end = block.end;
        if (nextGroup < job.visit.groups.size() && job.visit.groups[nextGroup].begin == gptq.begin) {
          const VisitOrder::Group& group = job.visit.groups[nextGroup++];
          fit.begin = group.begin;
          fit.end = group.begin + group.size;
          fit.id = group.id;
          TSQ_RETURN_IF_ERROR(fitGroups());
        }
        if (nextGroup < job.visit.groups.size()) gptq.end = std::min(gptq.end, job.visit.groups[nextGroup].begin);
        TSQ_RETURN_IF_ERROR(work_.call([&](const TsqCuda& table, void* stream, TsqCudaText reason) {
          return table.gptqBlock(&gptq, stream, reason);
        }));
        if (++launched % kBlocksTogether == 0) TSQ_RETURN_IF_ERROR(work_.wait("gptq", abort));
      }
    }
    TSQ_RETURN_IF_ERROR(work_.download(gptq.codes, n * k, job.out.codes));
    TSQ_RETURN_IF_ERROR(work_.download(scales, scaleCount, job.out.scales));
    if (zeros != nullptr) TSQ_RETURN_IF_ERROR(work_.download(zeros, scaleCount, job.out.zeros));
    for (const void* done : {static_cast<const void*>(u_), static_cast<const void*>(gptq.w),
                             static_cast<const void*>(gptq.errors), static_cast<const void*>(gptq.codes)})
      work_.release(done);  // the comparison needs their memory
    return work_.wait("gptq", abort);
  }

  Status compare(const GptqJob& job, const Hessian& hessian, bool withNearest, double* totals, AbortFlag abort) {
    const int64_t n = job.n, k = job.k, scaleCount = n * job.groups;
    TSQ_RETURN_IF_ERROR(uploadHessian(hessian));
    TSQ_RETURN_IF_ERROR(uploadWeight(job));
    TsqCudaObjective objective{};
    objective.on = {cudaGrid(job.grid), nullptr, nullptr, nullptr, n, k, job.spec.grid.groupSize};
    objective.w = w_;
    objective.h = h_;
    TSQ_RETURN_IF_ERROR(work_.upload(job.out.codes, n * k, &objective.codes));
    TSQ_RETURN_IF_ERROR(work_.upload(job.out.scales, scaleCount, &objective.on.scales));
    TSQ_RETURN_IF_ERROR(work_.upload(job.grid.symmetric ? nullptr : job.out.zeros, scaleCount, &objective.on.zeros));
    // Kernels index with it, and the caller's may change.
    if (job.groupIndex != nullptr) groupIndex_.assign(job.groupIndex, job.groupIndex + k);
    for (int32_t& group : groupIndex_) group = std::clamp(group, 0, static_cast<int32_t>(job.groups - 1));
    TSQ_RETURN_IF_ERROR(work_.upload(groupIndex_, &objective.on.groupIndex));
    TSQ_RETURN_IF_ERROR(work_.room(n * k, &objective.d));
    TSQ_RETURN_IF_ERROR(work_.room(sizes_.partialBytes / static_cast<int64_t>(sizeof(double)), &objective.partials));
    TSQ_RETURN_IF_ERROR(work_.room(2, &objective.sum));
    const double* sums = objective.sum;
    const auto enqueue = [&] {
      return work_.call([&](const TsqCuda& table, void* stream, TsqCudaText reason) {
        return table.objective(&objective, stream, reason);
      });
    };
    TSQ_RETURN_IF_ERROR(enqueue());
    if (withNearest) {
      uint8_t* nearest = nullptr;
      TSQ_RETURN_IF_ERROR(work_.room(n * k, &nearest));
      TSQ_RETURN_IF_ERROR(work_.call([&](const TsqCuda& table, void* stream, TsqCudaText reason) {
        return table.encodeNearest(&objective.on, w_, dead_, nearest, stream, reason);
      }));
      objective.codes = nearest;
      ++objective.sum;
      TSQ_RETURN_IF_ERROR(enqueue());
    }
    TSQ_RETURN_IF_ERROR(work_.download(sums, withNearest ? 2 : 1, totals));
    return work_.wait("gptq", abort);
  }

  Status uploadHessian(const Hessian& hessian) {
    return h_ != nullptr ? Status() : work_.upload(hessian.data(), hessian.k() * hessian.k(), &h_);
  }
  Status uploadWeight(const GptqJob& job) {
    if (w_ != nullptr) return {};
    TSQ_RETURN_IF_ERROR(work_.upload(job.w, job.n * job.k, &w_));
    return work_.upload(job.dead, &dead_);
  }
  // One scale and zero point for all rows.
  Status uploadTensorScale(const GptqJob& job, float* scales, uint8_t* zeros) {
    tensorScales_.assign(static_cast<size_t>(job.n), job.tensorScale.scale[0]);
    tensorZeros_.assign(static_cast<size_t>(job.n), static_cast<uint8_t>(job.tensorScale.zero[0]));
    return work_.call([&](const TsqCuda& table, void* stream, TsqCudaText reason) {
      const int outcome =
          table.copy(scales, tensorScales_.data(), job.n * static_cast<int64_t>(sizeof(float)), stream, reason);
      if (outcome != kTsqCudaOk || zeros == nullptr) return outcome;
      return table.copy(zeros, tensorZeros_.data(), job.n, stream, reason);
    });
  }

  // Until the end of work_, which waits for what reads them.
  std::vector<float> tensorScales_;
  std::vector<uint8_t> tensorZeros_;
  std::vector<int32_t> groupIndex_;
  CudaWork work_;
  TsqCudaCalibrationSizes sizes_{};
  const float *h_ = nullptr, *w_ = nullptr;
  const uint8_t* dead_ = nullptr;
  const int32_t* columns_ = nullptr;
  float* u_ = nullptr;
};

}  // namespace

Result<GptqReport> gptqOn(const std::shared_ptr<CudaDevice>& device, const float* w, int64_t n, int64_t k,
                          const Hessian& hessian, const GptqSpec& spec, RoundedWeight out, int32_t* groupIndex,
                          AbortFlag abort) {
  CudaMachine machine(device);
  TSQ_RETURN_IF_ERROR(machine.prepare(n, k));
  return gptqOn(&machine, w, n, k, hessian, spec, out, groupIndex, abort);
}

}  // namespace tsq
