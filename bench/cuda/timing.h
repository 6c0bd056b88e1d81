// Device time of launches: CUDA events around replays of a graph, so that the host's part is outside.
#pragma once
#include <cuda_runtime_api.h>

#include <functional>

namespace bench {

struct Timing {
  double median, least, most;  // microseconds of one launch
  int samples, launches;       // replays, launches in each
};

// launch(copy) enqueues one product with the given of `copies` weights. The graph goes around all of them, so that none
// is in the second-level cache when its turn comes.
Timing measure(cudaStream_t stream, int copies, int samples, const std::function<void(int)>& launch);

// How many copies of so many bytes exceed the second-level cache several times.
int coldCopies(int64_t bytes, int64_t cacheBytes);

}  // namespace bench
