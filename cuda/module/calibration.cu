// Launches of calibration on the caller's stream. Compiled without contraction, as native/rounding/grid_math.h asks.
#include "cuda/module/calibration.h"

#include <cmath>

#include "cuda/calibration/steps.cuh"
#include "cuda/module/calibration_arguments.h"
#include "cuda/module/runtime.h"

namespace tsq::cuda::module {
namespace {

namespace kernels = tsq::cuda::calibration;

// Enqueues the kernels of cuda/calibration/steps.cuh.
struct Enqueue {
  void* stream;
  TsqCudaText reason;
  template <typename Kernel, typename Parameters>
  int operator()(Kernel kernel, int64_t blocks, size_t sharedBytes, Parameters parameters) const {
    void* arguments[] = {&parameters};
    return answer(cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kernels::kThreads), arguments,
                                   sharedBytes, static_cast<cudaStream_t>(stream)),
                  "starting a kernel of calibration", reason);
  }
};

kernels::LaneGrid gridOf(const TsqCudaGrid& grid) {
  return {grid.symmetric != 0, grid.maxCode,        grid.symmetricZero, grid.minZero,
          grid.minScale,       grid.subnormalBelow, grid.maxScale,      grid.dropBits};
}

kernels::Codes codesOf(const TsqCudaCodes& on) {
  return {gridOf(on.grid),
          {on.scales},
          {on.zeros},
          {on.groupIndex},
          on.n,
          on.k,
          on.group,
          kernels::tilesOf(on.k, on.group)};
}

bool aligned(const void* pointer, int64_t elements, int64_t together) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && elements % together == 0;
}

kernels::Gptq gptqOf(const TsqCudaGptq& p) {
  const kernels::Codes on = codesOf(p.on);
  return {on.grid,
          {p.source},
          {p.dead},
          {p.columns},
          on.groupIndex,
          {p.u},
          {p.w},
          {p.errors},
          on.scales,
          on.zeros,
          {p.codes},
          on.n,
          on.k,
          on.groups,
          p.begin,
          p.end,
          aligned(p.w, p.on.k, 4) && p.end % 4 == 0};
}

}  // namespace

int calibrationSizes(int64_t n, int64_t k, TsqCudaCalibrationSizes* out, TsqCudaText reason) {
  TSQ_TRY(checkSizes(n, k, reason));
  *out = {kernels::factorDoubles(k) * 8, kernels::factorSteps(k), kernels::kMostColumns, kernels::kMostColumns * n * 4,
          kernels::objectiveBlocks(n, k) * 8};
  return kTsqCudaOk;
}

int addToHessian(const TsqCudaHessian* p, void* stream, TsqCudaText reason) {
  TSQ_TRY(checkHessian(*p, reason));
  const int64_t together = p->type == 0 ? 4 : 8;
  const kernels::HessianRows rows{{p->x}, p->rows, p->stride,
                                  p->k,   {p->h},  aligned(p->x, p->stride, together) && aligned(p->h, p->k, together)};
  return kernels::addRows(Enqueue{stream, reason}, static_cast<kernels::Rows>(p->type), rows);
}

int mirrorHessian(float* h, int64_t k, void* stream, TsqCudaText reason) {
  TSQ_TRY(checkSizes(1, k, reason));
  TSQ_TRY(checkOperands({{"the Hessian", h, 4}}, reason));
  return kernels::completeHessian(Enqueue{stream, reason}, {{h}, k});
}

int factorInverse(const TsqCudaFactor* p, void* stream, TsqCudaText reason) {
  TSQ_TRY(checkFactor(*p, kernels::factorSteps(p->k), reason));
  const int64_t padded = kernels::paddedSize(p->k);
  auto* matrix = static_cast<double*>(p->workspace);
  double* inverses = matrix + padded * padded;
  // The error of a pivot, a diagonal element less a sum of squares, grows as the root of the terms.
  const double noise = 0x1p-52 * std::sqrt(static_cast<double>(p->k));
  const kernels::Factor factor{
      p->k,   {p->h},      {p->columns}, {matrix}, {inverses}, {inverses + kernels::kFactorTile * kernels::kFactorTile},
      {p->u}, {p->failed}, p->unit,      p->damp,  noise,      0};
  return kernels::factorInverse(Enqueue{stream, reason}, factor, p->begin, p->end);
}

int fitScales(const TsqCudaScales* p, void* stream, TsqCudaText reason) {
  TSQ_TRY(checkScales(*p, reason));
  const kernels::Fit fit{gridOf(p->grid),
                         {p->w},
                         {p->dead},
                         {p->importance},
                         {p->clip},
                         {p->scales},
                         {p->zeros},
                         p->n,
                         p->k,
                         p->group,
                         kernels::tilesOf(p->k, p->group),
                         p->begin,
                         p->end,
                         p->id,
                         p->count,
                         p->steps,
                         static_cast<float>(p->norm),
                         p->maxShrink};
  return kernels::fit(Enqueue{stream, reason}, fit);
}

int encodeNearest(const TsqCudaCodes* on, const float* w, const uint8_t* dead, uint8_t* codes, void* stream,
                  TsqCudaText reason) {
  TSQ_TRY(checkCodes(*on, reason));
  TSQ_TRY(checkOperands({{"the weight", w, 4}, {"the dead columns", dead, 1, true}, {"the codes", codes, 1}}, reason));
  return kernels::encode(Enqueue{stream, reason}, {codesOf(*on), {w}, {dead}, {codes}});
}

int gptqGather(const TsqCudaGptq* p, void* stream, TsqCudaText reason) {
  TSQ_TRY(checkGptq(*p, reason));
  return kernels::gather(Enqueue{stream, reason}, gptqOf(*p));
}

int gptqBlock(const TsqCudaGptq* p, void* stream, TsqCudaText reason) {
  TSQ_TRY(checkGptq(*p, reason));
  TSQ_TRY(checkRange("columns", p->begin, p->end, p->on.k, reason));
  if (p->end - p->begin > kernels::kMostColumns) {
    return refuse(kTsqCudaArgument, reason, "calibration: a block of %lld columns, expected at most %d",
                  static_cast<long long>(p->end - p->begin), kernels::kMostColumns);
  }
  return kernels::roundBlock(Enqueue{stream, reason}, gptqOf(*p));
}

int objective(const TsqCudaObjective* p, void* stream, TsqCudaText reason) {
  TSQ_TRY(checkObjective(*p, reason));
  const Enqueue run{stream, reason};
  if (p->scale != nullptr) {
    kernels::ScaledResidual scaled{};
    scaled.fit.grid = gridOf(p->on.grid);
    scaled.fit.w = {p->w};
    scaled.fit.n = p->on.n;
    scaled.fit.k = p->on.k;
    scaled.fit.size = p->on.group;
    scaled.fit.groups = kernels::tilesOf(p->on.k, p->on.group);
    scaled.scale = {p->scale};
    scaled.d = {p->d};
    TSQ_TRY(kernels::lostScaled(run, scaled));
  } else {
    TSQ_TRY(kernels::lost(run, {codesOf(p->on), {p->codes}, {p->w}, {p->approx}, {p->d}}));
  }
  return kernels::objective(run, {{p->d}, {p->h}, {p->partials}, {p->sum}, p->on.n, p->on.k});
}

}  // namespace tsq::cuda::module
