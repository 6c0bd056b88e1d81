// The module's table: devices, and launches on the caller's stream. Nothing here waits or allocates; memory.cu does.
#include "cuda/module/module.h"

#include <cuda_runtime_api.h>

#include <algorithm>

#include "cuda/module/arguments.h"
#include "cuda/module/calibration.h"
#include "cuda/module/elementwise.h"
#include "cuda/module/events.h"
#include "cuda/module/graphs.h"
#include "cuda/module/launch.h"
#include "cuda/module/memory.h"
#include "cuda/module/variants.h"
#include "cuda/module/w8a8.h"
#include "cuda/w4a16/book.h"
#include "cuda/w4a16/pack.cuh"

namespace tsq::cuda::module {
namespace {

int device(int index, TsqCudaDevice* out, TsqCudaText reason) {
  cudaDeviceProp properties;
  TSQ_TRY(answer(cudaGetDeviceProperties(&properties, index), "asking for a CUDA device", reason));
  *out = {};
  std::snprintf(out->name, sizeof(out->name), "%s", properties.name);
  out->major = properties.major;
  out->minor = properties.minor;
  out->multiprocessors = properties.multiProcessorCount;
  out->memoryBytes = static_cast<int64_t>(properties.totalGlobalMem);
  out->cacheBytes = properties.l2CacheSize;
  return kTsqCudaOk;
}

int prepare(int index, TsqCudaText reason) {
  TSQ_TRY(use(index, reason));
  using w4a16::Kind;
  int capability = 0;
  TSQ_TRY(capabilityOf(&capability, reason));
  for (const Kind kind : {Kind::kInt4, Kind::kBook4, Kind::kInt8, Kind::kFloat16}) {
    for (const bool bf16 : {false, true}) {
      const w4a16::Kernels kernels = w4a16::compiled(bf16, kind, capability == kHopper);
      TSQ_TRY(allowShared(kernels.few, reason));
      TSQ_TRY(allowShared(kernels.many, reason));
    }
  }
  TSQ_TRY(loadElementwise(reason));
  return w8a8Prepare(capability, reason);
}

int blocksFor(const TsqCudaShape* /*shape*/, int multiprocessors) {
  return multiprocessors;
}

int sizes(const TsqCudaShape* shape, int32_t m, int blocks, TsqCudaSizes* out, TsqCudaText reason) {
  TSQ_TRY(checkShape(*shape, reason));
  TSQ_TRY(checkTokens(m, blocks, reason));
  const w4a16::Shape s = shapeOf(*shape);
  *out = {s.weightWords() * 16, s.scaleWords() * 16, 0, 0};
  // Whichever kernel a device chooses: sm_90 has more of them, and the others the same sizes.
  const w4a16::Kernels kernels = w4a16::compiled(false, s.kind(), true);
  for (const w4a16::Variant* one : {&w4a16::choose(kernels.few, s, m), w4a16::chooseWide(kernels.many, s, m)}) {
    if (one == nullptr) continue;
    out->counterBytes = std::max(out->counterBytes, w4a16::counterCount(*one, s, m, blocks) * 4);
    out->partialBytes = std::max(out->partialBytes, w4a16::partialCount(*one, s, m, blocks) * 16);
  }
  return kTsqCudaOk;
}

int packCodes(const TsqCudaPack* pack, void* stream, TsqCudaText reason) {
  TSQ_TRY(checkPack(*pack, pack->shape.bits == 16 ? 2 : 1, reason));
  const w4a16::Shape shape = shapeOf(pack->shape);
  const w4a16::PackCodes parameters{
      shape, {static_cast<const uint8_t*>(pack->source)}, {pack->order}, {static_cast<Words*>(pack->packed)}};
  return enqueue(w4a16::packCodes, blocksOf(shape.weightWords(), w4a16::kPackThreads), w4a16::kPackThreads, 0,
                 parameters, stream, reason);
}

int packScales(const TsqCudaPack* pack, void* stream, TsqCudaText reason) {
  TSQ_TRY(checkPack(*pack, 2, reason));
  if (pack->shape.bits == 16) return refuse(kTsqCudaArgument, reason, "W4A16: weights of 16 bits have no scales");
  const w4a16::Shape shape = shapeOf(pack->shape);
  const w4a16::PackScales parameters{
      shape, {static_cast<const uint16_t*>(pack->source)}, {static_cast<uint16_t*>(pack->packed)}};
  return enqueue(w4a16::packScales, blocksOf(shape.scaleWords() * 8, w4a16::kPackThreads), w4a16::kPackThreads, 0,
                 parameters, stream, reason);
}

w4a16::Book bookOf(const TsqCudaBook& from) {
  w4a16::Book book{{}, {}, from.scale};
  std::copy_n(from.low, 4, book.low);
  std::copy_n(from.high, 4, book.high);
  return book;
}

int makeBook(const float* values, int32_t isBF16, TsqCudaBook* out, TsqCudaText reason) {
  float book[16];
  std::copy_n(values, 16, book);
  TSQ_TRY(checkBook(book, reason));
  const w4a16::Book made = isBF16 != 0 ? w4a16::makeBook<Type::kBF16>(book) : w4a16::makeBook<Type::kF16>(book);
  std::copy_n(made.low, 4, out->low);
  std::copy_n(made.high, 4, out->high);
  out->scale = made.scale;
  return kTsqCudaOk;
}

int gemm(const TsqCudaW4A16* g, void* stream, TsqCudaText reason) {
  TSQ_TRY(checkGemm(*g, reason));
  const w4a16::Shape shape = shapeOf(g->shape);
  const bool vectorX = g->order == nullptr && reinterpret_cast<uintptr_t>(g->x) % 16 == 0 && g->strideX % 8 == 0;
  w4a16::Gemm parameters{shape,
                         {static_cast<const Words*>(g->weights)},
                         {static_cast<const Words*>(g->scales)},
                         {static_cast<const Words*>(g->zeros)},
                         {static_cast<const uint16_t*>(g->x)},
                         {g->order},
                         {static_cast<const uint16_t*>(g->bias)},
                         {static_cast<uint16_t*>(g->y)},
                         {static_cast<Floats*>(g->partials)},
                         {static_cast<int*>(g->counters)},
                         g->strideX,
                         g->strideY,
                         g->m,
                         g->blocks,
                         g->scalesAreBF16 != 0,
                         vectorX,
                         bookOf(g->book)};
  int capability = 0;
  TSQ_TRY(capabilityOf(&capability, reason));
  const w4a16::Kernels kernels = w4a16::compiled(g->isBF16 != 0, shape.kind(), capability == kHopper);
  const bool exact = (g->zeros == nullptr || g->zerosAreIntegers != 0) &&
                     (g->scales == nullptr || g->scalesAreBF16 == 0 || g->scalesAreModerate != 0);
  const w4a16::Variant* many = exact && g->batchInvariant == 0 ? w4a16::chooseWide(kernels.many, shape, g->m) : nullptr;
  const w4a16::Variant& variant = many != nullptr ? *many : w4a16::choose(kernels.few, shape, g->m);
  const w4a16::Plan plan = w4a16::planOf(variant, shape, g->m, g->blocks);
  parameters.blocks = plan.blocks;
  return enqueue(variant.kernel, plan.grid(), variant.threads, variant.sharedBytes, parameters, stream, reason);
}

}  // namespace
}  // namespace tsq::cuda::module

extern "C" __attribute__((visibility("default"))) const TsqCuda* tsqCuda() {
  using namespace tsq::cuda::module;  // NOLINT
  static constexpr TsqCuda table{
      kTsqCudaVersion, devices,       device,        prepare,      use,           openStream,  closeStream,
      allocate,        release,       clear,         copy,         wait,          blocksFor,   sizes,
      packCodes,       packScales,    gemm,          makeBook,     w8a8BlocksFor, w8a8Sizes,   w8a8Pack,
      w8a8Quantize,    w8a8Gemm,      scaleColumns,  beginCapture, endCapture,    launchGraph, closeGraph,
      decodeCodes,     readAll,       openEvent,     closeEvent,   record,        elapsed,     calibrationSizes,
      addToHessian,    mirrorHessian, factorInverse, fitScales,    encodeNearest, gptqGather,  gptqBlock,
      objective};
  return &table;
}
