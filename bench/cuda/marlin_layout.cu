#include "bench/cuda/marlin_layout.h"

namespace bench {
namespace {

constexpr int kThreads = 256, kBlocks = 4096;

__global__ void packKernel(const uint8_t* codes, uint32_t* to, int64_t n, int64_t k) {
  const int64_t words = k / 16 * 2 * n;
  for (int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x; at < words; at += int64_t{kBlocks} * kThreads) {
    uint32_t word = 0;
    for (int i = 0; i < 8; ++i) {
      const MarlinPlace place = marlinPlace(at / (2 * n), at % (2 * n), i);
      word |= static_cast<uint32_t>(codes[place.n * k + place.k]) << 4 * i;
    }
    to[at] = word;
  }
}

__global__ void scalesKernel(const uint16_t* scales, uint16_t* to, int64_t n, int64_t groups) {
  for (int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x; at < n * groups; at += int64_t{kBlocks} * kThreads) {
    to[at] = scales[marlinScale(at % n, groups > 1) * groups + at / n];
  }
}

}  // namespace

void packMarlin(const uint8_t* codes, uint32_t* to, int64_t n, int64_t k, cudaStream_t stream) {
  packKernel<<<kBlocks, kThreads, 0, stream>>>(codes, to, n, k);
}
void packMarlinScales(const uint16_t* scales, uint16_t* to, int64_t n, int64_t groups, cudaStream_t stream) {
  scalesKernel<<<kBlocks, kThreads, 0, stream>>>(scales, to, n, groups);
}

}  // namespace bench
