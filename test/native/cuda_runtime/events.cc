// Events of the emulated CUDA runtime: the host's clock when a stream comes to them.
#include <chrono>
#include <memory>

#include "state.h"

using namespace emulated;  // NOLINT

struct Event {
  struct Stamp {
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;
    std::chrono::steady_clock::time_point at;
  };
  std::shared_ptr<Stamp> latest;
};

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new Event;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (const cudaError_t error = checkOutsideCapture(stream, "an event that is timed"); error != cudaSuccess)
    return error;
  event->latest = std::make_shared<Event::Stamp>();
  stream->enqueue([stamp = event->latest](Device&, Lock&) {
    const std::lock_guard lock(stamp->mutex);
    stamp->at = std::chrono::steady_clock::now();
    stamp->done = true;
    stamp->changed.notify_all();
  });
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->latest == nullptr) return cudaSuccess;
  {
    Lock lock(event->latest->mutex);
    event->latest->changed.wait(lock, [&] { return event->latest->done; });
  }
  const std::lock_guard lock(mutex());
  const std::string& lost = devices()[static_cast<size_t>(current)].failure;
  return lost.empty() ? cudaSuccess : fails(cudaErrorLaunchFailure, lost);
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  if (begin->latest == nullptr || end->latest == nullptr)
    return fails(cudaErrorInvalidValue, "an event was never recorded");
  const std::chrono::duration<float, std::milli> between = end->latest->at - begin->latest->at;
  *milliseconds = between.count();
  return cudaSuccess;
}
