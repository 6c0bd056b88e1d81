// The module's table: devices, and launches on the caller's stream. Nothing here waits or allocates; memory.cu does.
#include "cuda/module/module.h"

#include <cuda_runtime_api.h>

#include <algorithm>

#include "cuda/module/arguments.h"
#include "cuda/module/calibration.h"
#include "cuda/module/memory.h"
#include "cuda/module/runtime.h"
#include "cuda/module/variants.h"
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
  return kTsqCudaOk;
}

// Whether the current device runs sm_90a code, which no other compute capability does.
int isHopper(bool* is, TsqCudaText reason) {
  int index = 0, major = 0, minor = 0;
  TSQ_TRY(answer(cudaGetDevice(&index), "asking for the current CUDA device", reason));
  TSQ_TRY(
      answer(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index), "asking a CUDA device", reason));
  TSQ_TRY(
      answer(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index), "asking a CUDA device", reason));
  *is = major == 9 && minor == 0;
  return kTsqCudaOk;
}

// More shared memory than 48 KiB is for those who ask.
template <typename All>
int allowShared(const All& all, TsqCudaText reason) {
  for (const w4a16::Variant& one : all) {
    const auto* kernel = reinterpret_cast<const void*>(one.kernel);
    TSQ_TRY(answer(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(one.sharedBytes)),
        "preparing the W4A16 kernels", reason));
  }
  return kTsqCudaOk;
}

int prepare(int index, TsqCudaText reason) {
  TSQ_TRY(use(index, reason));
  for (const int bits : {4, 8, 16}) {
    for (const bool bf16 : {false, true}) TSQ_TRY(allowShared(w4a16::compiled(bf16, bits), reason));
  }
  bool hopper = false;
  TSQ_TRY(isHopper(&hopper, reason));
  if (!hopper) return kTsqCudaOk;
  TSQ_TRY(allowShared(w4a16::wideVariantsF16(), reason));
  return allowShared(w4a16::wideVariantsBF16(), reason);
}

int blocksFor(const TsqCudaShape* shape, int multiprocessors) {
  // One for each multiprocessor, and no block for less than two steps.
  const w4a16::Work all = w4a16::workOf(w4a16::compiled(false, shape->bits)[0], shapeOf(*shape), 1);
  return std::max(1, std::min(multiprocessors, all.columns * all.steps / 2));
}

int sizes(const TsqCudaShape* shape, int32_t m, int blocks, TsqCudaSizes* out, TsqCudaText reason) {
  TSQ_TRY(checkShape(*shape, reason));
  TSQ_TRY(checkTokens(m, blocks, reason));
  const w4a16::Shape s = shapeOf(*shape);
  *out = {s.weightWords() * 16, s.scaleWords() * 16, 0, 0};
  // Whichever kernel a device chooses.
  for (const w4a16::Variant* one :
       {&w4a16::choose(w4a16::compiled(false, s.bits), s, m), w4a16::chooseWide(w4a16::wideVariantsF16(), s, m)}) {
    if (one == nullptr) continue;
    out->counterBytes = std::max(out->counterBytes, w4a16::counterCount(*one, s, m) * 4);
    out->partialBytes = std::max(out->partialBytes, w4a16::partialCount(*one, s, m, blocks) * 16);
  }
  return kTsqCudaOk;
}

template <typename Kernel, typename Parameters>
int enqueue(Kernel* kernel, int64_t blocks, int threads, size_t sharedBytes, Parameters parameters, void* stream,
            TsqCudaText reason) {
  void* arguments[] = {&parameters};
  return answer(cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)),
                                 arguments, sharedBytes, static_cast<cudaStream_t>(stream)),
                "starting a W4A16 kernel", reason);
}

int64_t packBlocks(int64_t values) {
  return std::min<int64_t>((values + w4a16::kPackThreads - 1) / w4a16::kPackThreads, 4096);
}

int packCodes(const TsqCudaPack* pack, void* stream, TsqCudaText reason) {
  TSQ_TRY(checkPack(*pack, pack->shape.bits == 16 ? 2 : 1, reason));
  const w4a16::Shape shape = shapeOf(pack->shape);
  const w4a16::PackCodes parameters{
      shape, {static_cast<const uint8_t*>(pack->source)}, {pack->order}, {static_cast<Words*>(pack->packed)}};
  return enqueue(w4a16::packCodes, packBlocks(shape.weightWords()), w4a16::kPackThreads, 0, parameters, stream, reason);
}

int packScales(const TsqCudaPack* pack, void* stream, TsqCudaText reason) {
  TSQ_TRY(checkPack(*pack, 2, reason));
  if (pack->shape.bits == 16) return refuse(kTsqCudaArgument, reason, "W4A16: weights of 16 bits have no scales");
  const w4a16::Shape shape = shapeOf(pack->shape);
  const w4a16::PackScales parameters{
      shape, {static_cast<const uint16_t*>(pack->source)}, {static_cast<uint16_t*>(pack->packed)}};
  return enqueue(w4a16::packScales, packBlocks(shape.scaleWords() * 8), w4a16::kPackThreads, 0, parameters, stream,
                 reason);
}

int gemm(const TsqCudaW4A16* g, void* stream, TsqCudaText reason) {
  TSQ_TRY(checkGemm(*g, reason));
  const w4a16::Shape shape = shapeOf(g->shape);
  const bool vectorX = g->order == nullptr && reinterpret_cast<uintptr_t>(g->x) % 16 == 0 && g->strideX % 8 == 0;
  const w4a16::Gemm parameters{shape,
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
                               vectorX};
  bool hopper = false;
  TSQ_TRY(isHopper(&hopper, reason));
  const bool exact = g->zeros == nullptr || g->zerosAreIntegers != 0;
  const auto& wide = g->isBF16 != 0 ? w4a16::wideVariantsBF16() : w4a16::wideVariantsF16();
  const w4a16::Variant* chosen = hopper && exact ? w4a16::chooseWide(wide, shape, g->m) : nullptr;
  const w4a16::Variant& variant =
      chosen != nullptr ? *chosen : w4a16::choose(w4a16::compiled(g->isBF16 != 0, shape.bits), shape, g->m);
  const int64_t blocks = w4a16::slabs(variant, g->m) * w4a16::workOf(variant, shape, g->blocks).blocks;
  return enqueue(variant.kernel, blocks, variant.threads, variant.sharedBytes, parameters, stream, reason);
}

}  // namespace
}  // namespace tsq::cuda::module

extern "C" __attribute__((visibility("default"))) const TsqCuda* tsqCuda() {
  using namespace tsq::cuda::module;  // NOLINT
  static constexpr TsqCuda table{
      kTsqCudaVersion, devices,       device,        prepare,    use,           openStream,
      closeStream,     allocate,      release,       clear,      copy,          wait,
      blocksFor,       sizes,         packCodes,     packScales, gemm,          calibrationSizes,
      addToHessian,    mirrorHessian, factorInverse, fitScales,  encodeNearest, gptqGather,
      gptqBlock,       objective};
  return &table;
}
