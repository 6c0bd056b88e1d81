#include "bench/cuda/eight.h"

#include "bench/cuda/kernels.h"
#include "bench/cuda/timing.h"

namespace bench {
namespace {

TsqCudaW8A8Sizes sizesOf(Module& module, const TsqCudaW8A8Shape& shape, int m, int blocks) {
  TsqCudaW8A8Sizes sizes{};
  module.call(module->w8a8Sizes(&shape, m, blocks, &sizes, module.reason()));
  return sizes;
}

}  // namespace

EightWeight::EightWeight(Module& module, const char* called, const TsqCudaW8A8Shape& what, const uint16_t* rows,
                         int cacheBytes, cudaStream_t stream)
    : name(called), shape(what) {
  const TsqCudaW8A8Sizes sizes = sizesOf(module, shape, 1, 1);
  bytes = static_cast<size_t>(sizes.weightBytes + sizes.scaleBytes);
  DeviceBuffer<uint8_t> codes(static_cast<size_t>(shape.n * shape.k));
  DeviceBuffer<float> rowScales(static_cast<size_t>(shape.n));
  const bool one = shape.blockScales != 0;
  quantizeRows(rows, codes.data(), rowScales.data(), one ? 1 : shape.n, one ? shape.n * shape.k : shape.k,
               shape.type == kTsqCudaE4M3, stream);
  const int copies = coldCopies(static_cast<int64_t>(bytes), cacheBytes);
  for (int i = 0; i < copies; ++i) {
    weights.emplace_back(static_cast<size_t>(sizes.weightBytes));
    scales.emplace_back(static_cast<size_t>(sizes.scaleBytes));
    TsqCudaW8A8Pack pack{};
    pack.shape = shape;
    pack.codes = codes.data();
    pack.scaleType = kTsqCudaF32;
    pack.scales = rowScales.data();
    pack.oneScale = one;
    pack.weights = weights.back().data();
    pack.packedScales = scales.back().data();
    module.call(module->w8a8Pack(&pack, stream, module.reason()));
  }
  check(cudaStreamSynchronize(stream), "packing weights of 8 bits");
}

EightProduct::EightProduct(Module& module, const EightWeight& weight, const uint16_t* x, uint16_t* y, int m,
                           cudaStream_t stream)
    : module_(module), weight_(weight), stream_(stream) {
  const TsqCudaW8A8Shape& shape = weight.shape;
  const int blocks = module->w8a8BlocksFor(&shape, module.device().multiprocessors);
  const TsqCudaW8A8Sizes sizes = sizesOf(module, shape, m, blocks);
  codes_ = DeviceBuffer<uint8_t>(static_cast<size_t>(sizes.activationBytes));
  scales_ = DeviceBuffer<uint8_t>(static_cast<size_t>(sizes.activationScaleBytes));
  partials_ = DeviceBuffer<uint8_t>(static_cast<size_t>(sizes.partialBytes));
  counters_ = DeviceBuffer<int>(static_cast<size_t>(sizes.counterBytes) / sizeof(int));
  counters_.fill(0);
  quantize_.shape = shape;
  quantize_.x = x;
  quantize_.codes = codes_.data();
  quantize_.scales = scales_.data();
  quantize_.strideX = shape.k;
  quantize_.m = m;
  quantize_.isBF16 = 1;
  gemm_.shape = shape;
  gemm_.codes = codes_.data();
  gemm_.activationScales = scales_.data();
  gemm_.y = y;
  gemm_.counters = counters_.data();
  gemm_.partials = partials_.data();
  gemm_.strideY = shape.n;
  gemm_.m = m;
  gemm_.blocks = blocks;
  gemm_.isBF16 = 1;
}

void EightProduct::quantize() {
  module_.call(module_->w8a8Quantize(&quantize_, stream_, module_.reason()));
}

void EightProduct::multiply(int copy) {
  gemm_.weights = weight_.weights[static_cast<size_t>(copy)].data();
  gemm_.scales = weight_.scales[static_cast<size_t>(copy)].data();
  module_.call(module_->w8a8(&gemm_, stream_, module_.reason()));
}

std::vector<EightWeight> eightWeights(Module& module, int64_t n, int64_t k, const uint16_t* rows, int cacheBytes,
                                      cudaStream_t stream) {
  std::vector<EightWeight> all;
  const auto add = [&](const char* name, TsqCudaEight type, int blockScales) {
    all.emplace_back(module, name, TsqCudaW8A8Shape{n, k, type, blockScales}, rows, cacheBytes, stream);
  };
  add("tsq-s8", kTsqCudaS8, 0);
  if (module.device().major * 10 + module.device().minor < 89) return all;
  add("tsq-e4m3", kTsqCudaE4M3, 0);
  add("tsq-e4m3b", kTsqCudaE4M3, 1);
  return all;
}

void forEachProduct(
    Module& module, const std::vector<EightWeight>& weights, const uint16_t* x, uint16_t* y, int m, cudaStream_t stream,
    const std::function<void(const std::string&, const EightWeight&, const std::function<void(int)>&)>& measured) {
  for (const EightWeight& weight : weights) {
    EightProduct product(module, weight, x, y, m, stream);
    product.quantize();
    measured(weight.name, weight, [&](int copy) { product.multiply(copy); });
    measured(weight.name + "+q", weight, [&](int copy) {
      product.quantize();
      product.multiply(copy);
    });
  }
}

}  // namespace bench
