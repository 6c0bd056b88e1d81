#include "cuda/module/w8a8.h"

#include "cuda/module/arguments_w8a8.h"
#include "cuda/module/launch.h"
#include "cuda/w8a8/pack.cuh"
#include "cuda/w8a8/quantize.cuh"

namespace tsq::cuda::module {
namespace {

w4a16::Shape pairsOf(const TsqCudaW8A8Shape& shape) {
  return w8a8::pairsOf(shape.n, shape.k);
}
const w8a8::Variants& variantsOf(const TsqCudaW8A8Shape& shape) {
  return shape.type == kTsqCudaS8 ? w8a8::variantsS8() : w8a8::variantsE4M3();
}

const w8a8::Variants& wideVariantsOf(const TsqCudaW8A8Shape& shape) {
  return shape.type == kTsqCudaS8 ? w8a8::wideVariantsS8() : w8a8::wideVariantsE4M3();
}

}  // namespace

int w8a8Prepare(int capability, TsqCudaText reason) {
  TSQ_TRY(allowShared(w8a8::variantsS8(), reason));
  if (capability >= 89) TSQ_TRY(allowShared(w8a8::variantsE4M3(), reason));
  if (capability != kHopper) return kTsqCudaOk;
  TSQ_TRY(allowShared(w8a8::wideVariantsS8(), reason));
  return allowShared(w8a8::wideVariantsE4M3(), reason);
}

int w8a8BlocksFor(const TsqCudaW8A8Shape* shape, int multiprocessors) {
  // One for each multiprocessor, and no block for less than two steps.
  const w4a16::Work all = w4a16::workOf(variantsOf(*shape)[0], pairsOf(*shape), 1);
  return std::max(1, std::min(multiprocessors, all.columns * all.steps / 2));
}

int w8a8Sizes(const TsqCudaW8A8Shape* shape, int32_t m, int blocks, TsqCudaW8A8Sizes* out, TsqCudaText reason) {
  TSQ_TRY(checkShape(*shape, reason));
  TSQ_TRY(checkTokens(*shape, m, blocks, reason));
  const w4a16::Shape pairs = pairsOf(*shape);
  const int64_t rows = w8a8::rowsOf(m), tiles = shape->blockScales != 0 ? pairs.tiles() : 1;
  *out = {};
  out->weightBytes = pairs.weightWords() * 16;
  out->scaleBytes = shape->blockScales != 0 ? w8a8::blockScaleWords(pairs) * 16 : pairs.n * 4;
  out->sumBytes = shape->type == kTsqCudaS8 ? pairs.n * 4 : 0;
  out->activationBytes = w8a8::activationWords(pairs, static_cast<int>(rows)) * 16;
  out->activationScaleBytes = rows * tiles * 4;
  out->zeroBytes = shape->type == kTsqCudaS8 ? rows * 4 : 0;
  // Whichever kernel a device chooses.
  for (const w8a8::Choice& one :
       {w8a8::few(variantsOf(*shape), m, blocks), w8a8::many(wideVariantsOf(*shape), pairs, m, blocks)}) {
    if (one.variant == nullptr) continue;
    out->counterBytes = std::max(out->counterBytes, w8a8::counterCount(*one.variant, pairs, m) * 4);
    out->partialBytes = std::max(out->partialBytes, w8a8::partialCount(*one.variant, pairs, m, one.blocks) * 16);
  }
  return kTsqCudaOk;
}

int w8a8Pack(const TsqCudaW8A8Pack* pack, void* stream, TsqCudaText reason) {
  TSQ_TRY(checkPack(*pack, reason));
  const w4a16::Shape pairs = pairsOf(pack->shape);
  const w8a8::PackCodes codes{pairs,
                              pack->shape.k,
                              {static_cast<const uint8_t*>(pack->codes)},
                              pack->isUnsigned != 0 ? 0x80u : 0u,
                              {static_cast<Words*>(pack->weights)}};
  constexpr int kThreads = w8a8::kPackThreads;
  TSQ_TRY(enqueue(w8a8::packCodes, blocksOf(pairs.weightWords(), kThreads), kThreads, 0, codes, stream, reason));
  if (pack->sums != nullptr) {
    const w8a8::SumCodes sums{codes, {static_cast<int32_t*>(pack->sums)}};
    TSQ_TRY(enqueue(w8a8::sumCodes, blocksOf(pairs.n * 32, kThreads), kThreads, 0, sums, stream, reason));
  }
  const bool blocks = pack->shape.blockScales != 0;
  const w8a8::PackScales scales{pairs,
                                static_cast<w8a8::Scales>(pack->scaleType),
                                pack->oneScale != 0,
                                {static_cast<const uint8_t*>(pack->scales)},
                                {blocks ? nullptr : static_cast<float*>(pack->packedScales)},
                                {blocks ? static_cast<Floats*>(pack->packedScales) : nullptr}};
  return enqueue(w8a8::packScales, blocksOf(blocks ? w8a8::blockScaleWords(pairs) : pairs.n, kThreads), kThreads, 0,
                 scales, stream, reason);
}

int w8a8Quantize(const TsqCudaW8A8Quantize* q, void* stream, TsqCudaText reason) {
  TSQ_TRY(checkQuantize(*q, reason));
  const int rows = w8a8::rowsOf(q->m);
  const w8a8::Quantize parameters{{static_cast<const uint16_t*>(q->x)},
                                  {static_cast<const float*>(q->given)},
                                  {static_cast<Words*>(q->codes)},
                                  {static_cast<float*>(q->scales)},
                                  {static_cast<int32_t*>(q->zeros)},
                                  pairsOf(q->shape),
                                  q->shape.k,
                                  q->strideX,
                                  q->m,
                                  rows,
                                  q->isBF16 != 0,
                                  reinterpret_cast<uintptr_t>(q->x) % 16 == 0 && q->strideX % 8 == 0};
  constexpr int kThreads = w8a8::kQuantizeThreads;
  if (q->shape.blockScales != 0) {
    const int64_t chunks = w8a8::activationWords(parameters.shape, rows);
    return enqueue(w8a8::quantizeBlocks, blocksOf(chunks, kThreads), kThreads, 0, parameters, stream, reason);
  }
  const auto kernel = q->shape.type == kTsqCudaS8 ? w8a8::quantizeTokens<Type::kS8> : w8a8::quantizeTokens<Type::kE4M3>;
  return enqueue(kernel, rows, kThreads, kThreads / 32 * sizeof(Words), parameters, stream, reason);
}

int w8a8Gemm(const TsqCudaW8A8* g, void* stream, TsqCudaText reason) {
  TSQ_TRY(checkGemm(*g, reason));
  int capability = 0;
  TSQ_TRY(capabilityOf(&capability, reason));
  TSQ_TRY(checkCapability(g->shape, capability, reason));
  const w4a16::Shape pairs = pairsOf(g->shape);
  const w8a8::Choice many = w8a8::many(wideVariantsOf(g->shape), pairs, g->m, g->blocks);
  const w8a8::Choice chosen =
      capability == kHopper && many.variant != nullptr ? many : w8a8::few(variantsOf(g->shape), g->m, g->blocks);
  const bool blocks = g->shape.blockScales != 0;
  const w8a8::Gemm parameters{pairs,
                              {static_cast<const Words*>(g->weights)},
                              {static_cast<const Words*>(g->codes)},
                              {static_cast<const float*>(g->activationScales)},
                              {blocks ? nullptr : static_cast<const float*>(g->scales)},
                              {blocks ? static_cast<const Floats*>(g->scales) : nullptr},
                              {static_cast<const int32_t*>(g->zeros)},
                              {static_cast<const int32_t*>(g->sums)},
                              {static_cast<const uint16_t*>(g->bias)},
                              {static_cast<uint16_t*>(g->y)},
                              {static_cast<Words*>(g->partials)},
                              {static_cast<int*>(g->counters)},
                              g->strideY,
                              g->m,
                              w8a8::rowsOf(g->m),
                              chosen.blocks,
                              g->isBF16 != 0,
                              reinterpret_cast<uintptr_t>(g->y) % 8 == 0 && g->strideY % 4 == 0};
  const w8a8::Variant& variant = *chosen.variant;
  const int64_t grid = w4a16::slabs(variant, g->m) * w4a16::workOf(variant, pairs, chosen.blocks).blocks;
  return enqueue(variant.kernel, grid, variant.threads, variant.sharedBytes, parameters, stream, reason);
}

}  // namespace tsq::cuda::module
