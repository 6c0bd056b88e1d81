#include "bench/cuda/ceilings.h"

#include "bench/cuda/kernels.h"
#include "bench/cuda/timing.h"

namespace bench {

Ceilings measureCeilings(const TsqCudaDevice& device, int samples, cudaStream_t stream) {
  Ceilings c;
  c.device = device.name;
  c.major = device.major;
  c.minor = device.minor;
  c.multiprocessors = device.multiprocessors;
  int cacheBytes = 0;
  check(cudaDeviceGetAttribute(&cacheBytes, cudaDevAttrL2CacheSize, 0), "asking for the size of the cache");
  c.cacheBytes = cacheBytes;
  const size_t words = (size_t{2} << 30) / 16;
  DeviceBuffer<uint8_t> memory(words * 16);
  DeviceBuffer<uint32_t> sink(1);
  memory.fill(1);
  const Timing t = measure(stream, 1, samples, [&](int) {
    readAll(memory.data(), static_cast<int64_t>(words), sink.data(), device.multiprocessors, stream);
  });
  c.bytesPerSecond = static_cast<double>(memory.bytes()) / t.median * 1e6;
  c.emptyMicroseconds = measure(stream, 200, samples, [&](int) { doNothing(stream); }).median;
  return c;
}

}  // namespace bench
