#include "cuda/module/elementwise.h"

#include "cuda/module/launch.h"
#include "cuda/w4a16/decode.cuh"
#include "cuda/w4a16/read.cuh"
#include "cuda/w4a16/scale.cuh"

namespace tsq::cuda::module {

// A kernel is loaded by its first use, which no capture should be.
int loadElementwise(TsqCudaText reason) {
  const void* kernels[] = {reinterpret_cast<const void*>(w4a16::scaleColumns),
                           reinterpret_cast<const void*>(w4a16::decodeCodes),
                           reinterpret_cast<const void*>(w4a16::readAll)};
  for (const void* kernel : kernels)
    TSQ_TRY(answer(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 0),
                   "preparing the kernels beside W4A16", reason));
  return kTsqCudaOk;
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
  return enqueue(w4a16::scaleColumns, blocksOf(c->m * c->k, w4a16::kScaleThreads), w4a16::kScaleThreads, 0, parameters,
                 stream, reason, "scaling the columns of x");
}

int decodeCodes(const TsqCudaDecode* d, void* stream, TsqCudaText reason) {
  TSQ_TRY(checkShape(d->shape, reason));
  if (d->shape.bits == 16) return refuse(kTsqCudaArgument, reason, "decoding: the weight has 16 bits already");
  if (d->shape.book != 0) return refuse(kTsqCudaArgument, reason, "decoding: the weight has a code book");
  TSQ_TRY(checkPointer("the weight", d->weights, false, 16, reason));
  TSQ_TRY(checkPointer("the scales", d->scales, false, 16, reason));
  TSQ_TRY(checkPointer("the zero points", d->zeros, true, 16, reason));
  TSQ_TRY(checkPointer("the decoded weight", d->decoded, false, 16, reason));
  const w4a16::Shape shape = shapeOf(d->shape);
  const w4a16::DecodeCodes parameters{shape,
                                      {static_cast<const uint32_t*>(d->weights)},
                                      {static_cast<const uint32_t*>(d->scales)},
                                      {static_cast<const uint32_t*>(d->zeros)},
                                      {static_cast<Words*>(d->decoded)},
                                      d->isBF16 != 0,
                                      d->scalesAreBF16 != 0};
  return enqueue(w4a16::decodeCodes, blocksOf(w4a16::decodedShape(shape).weightWords(), w4a16::kDecodeThreads),
                 w4a16::kDecodeThreads, 0, parameters, stream, reason, "decoding a weight");
}

int readAll(const void* memory, int64_t bytes, void* sink, int multiprocessors, void* stream, TsqCudaText reason) {
  TSQ_TRY(checkPointer("the memory to read", memory, false, 16, reason));
  TSQ_TRY(checkPointer("the sink", sink, false, 4, reason));
  const w4a16::ReadAll parameters{{static_cast<const Words*>(memory)}, bytes / 16, {static_cast<uint32_t*>(sink)}};
  return enqueue(w4a16::readAll, int64_t{8} * multiprocessors, w4a16::kReadThreads, 0, parameters, stream, reason,
                 "reading memory");
}

}  // namespace tsq::cuda::module
