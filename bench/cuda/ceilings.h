// What the device gives in a run, apart from libraries.
#pragma once
#include "bench/cuda/device.h"
#include "bench/cuda/report.h"

namespace bench {

// The device's description, the bandwidth of reading and the time of an empty launch.
Ceilings measureCeilings(const TsqCudaDevice& device, int samples, cudaStream_t stream);

}  // namespace bench
