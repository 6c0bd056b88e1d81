// Prints the devices, or why there are none, and then fails.
#include <cstdio>

#include "cuda/module/runtime.h"

int main() {
  char reason[512] = "";
  const int count = tsq::cuda::module::devices({reason, sizeof(reason)});
  if (count == 0) {
    std::fprintf(stderr, "no CUDA device: %s\n", reason);
    return 1;
  }
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp p;
    if (cudaGetDeviceProperties(&p, i) != cudaSuccess) return 1;
    int driver = 0;
    cudaDriverGetVersion(&driver);
    std::printf("%d: %s, compute capability %d.%d, %d multiprocessors, %.1f GiB, L2 %.0f MiB, driver for CUDA %d.%d\n",
                i, p.name, p.major, p.minor, p.multiProcessorCount, static_cast<double>(p.totalGlobalMem) / 0x1p30,
                p.l2CacheSize / 0x1p20, driver / 1000, driver % 1000 / 10);
  }
  return 0;
}
