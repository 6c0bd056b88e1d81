// W8A8 in the sweep: a weight in s8 or e4m3, and its products.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "bench/cuda/device.h"

namespace bench {

// A packed weight in copies at other addresses, so that none is in the second-level cache when its turn comes.
struct EightWeight {
  std::string name;
  TsqCudaW8A8Shape shape;
  std::vector<DeviceBuffer<uint8_t>> weights, scales;
  size_t bytes;

  // From weights in bf16 [n][k], by the largest magnitude of each output; with blockScales, of all for all blocks.
  EightWeight(Module& module, const char* name, const TsqCudaW8A8Shape& shape, const uint16_t* rows, int cacheBytes,
              cudaStream_t stream);
};

// What a product of m tokens in bf16 needs, and its two launches.
class EightProduct {
 public:
  EightProduct(Module& module, const EightWeight& weight, const uint16_t* x, uint16_t* y, int m, cudaStream_t stream);
  void quantize();
  void multiply(int copy);

 private:
  Module& module_;
  const EightWeight& weight_;
  cudaStream_t stream_;
  DeviceBuffer<uint8_t> codes_, scales_, partials_;
  DeviceBuffer<int> counters_;
  TsqCudaW8A8Quantize quantize_{};
  TsqCudaW8A8 gemm_{};
};

// What the device multiplies: s8, e4m3, and e4m3 with scales of blocks.
std::vector<EightWeight> eightWeights(Module& module, int64_t n, int64_t k, const uint16_t* rows, int cacheBytes,
                                      cudaStream_t stream);
// Each with activations that are quantized already, and ("+q") quantizing them every time.
void forEachProduct(Module& module, const std::vector<EightWeight>& weights, const uint16_t* x, uint16_t* y, int m,
                    cudaStream_t stream,
                    const std::function<void(const std::string& name, const EightWeight& weight,
                                             const std::function<void(int)>& launch)>& measured);

}  // namespace bench
