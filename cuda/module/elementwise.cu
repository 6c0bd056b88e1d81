#include "cuda/module/elementwise.h"

#include "cuda/module/launch.h"
#include "cuda/w4a16/scale.cuh"

namespace tsq::cuda::module {

// A kernel is loaded by its first use, which no capture should be.
int loadElementwise(TsqCudaText reason) {
  return answer(cudaFuncSetAttribute(reinterpret_cast<const void*>(w4a16::scaleColumns),
                                     cudaFuncAttributeMaxDynamicSharedMemorySize, 0),
                "preparing the kernels beside W4A16", reason);
}

int scaleColumns(const TsqCudaColumns* c, void* stream, TsqCudaText reason) {
  TSQ_TRY(checkPointer("x", c->x, false, 2, reason));
  TSQ_TRY(checkPointer("the input scale", c->factors, false, 4, reason));
  TSQ_TRY(checkPointer("the scaled x", c->y, false, 2, reason));
  if (c->m <= 0 || c->k <= 0 || c->m > INT64_MAX / 4 / c->k)
    return refuse(kTsqCudaArgument, reason, "W4A16: x is [%lld, %lld], expected positive sizes",
                  static_cast<long long>(c->m), static_cast<long long>(c->k));
  const w4a16::ScaleColumns parameters{
      {static_cast<const uint16_t*>(c->x)}, {c->factors}, {static_cast<uint16_t*>(c->y)}, c->m, c->k, c->isBF16 != 0};
  return enqueue(w4a16::scaleColumns, blocksOver(c->m * c->k, w4a16::kScaleThreads), w4a16::kScaleThreads, 0,
                 parameters, stream, reason, "scaling the columns of x");
}

}  // namespace tsq::cuda::module
