// Streams of the emulated CUDA runtime: a thread each.
#include <thread>

#include "state.h"

using namespace emulated;  // NOLINT

namespace {

// The emulation runs one launch at a time. Never destroyed either.
std::mutex& machine() {
  static auto* all = new std::mutex;
  return *all;
}

}  // namespace

Stream::Stream() : index(current) {
  std::thread([this] { work(); }).detach();
}

void Stream::enqueue(Task task) {
  const std::lock_guard lock(tasksMutex);
  if (recording != nullptr) {
    recording->push_back(std::move(task));
    return;
  }
  tasks.push_back(std::move(task));
  changed.notify_all();
}

void Stream::wait() {
  Lock lock(tasksMutex);
  changed.wait(lock, [this] { return tasks.empty(); });
}

void Stream::work() {
  for (;;) {
    Lock lock(tasksMutex);
    changed.wait(lock, [this] { return !tasks.empty(); });
    const Task task = tasks.front();
    lock.unlock();
    if (!task) return;
    {
      const std::lock_guard alone(machine());
      Lock all(mutex());
      task(devices()[static_cast<size_t>(index)], all);
    }
    lock.lock();
    tasks.pop_front();
    if (tasks.empty()) changed.notify_all();
  }
}

namespace emulated {

cudaError_t checkOutsideCapture(cudaStream_t stream, const char* what) {
  if (const cudaError_t error = checkStream(stream); error != cudaSuccess) return error;
  const std::lock_guard lock(stream->tasksMutex);
  if (stream->recording == nullptr) return cudaSuccess;
  stream->invalid = true;
  return fails(cudaErrorStreamCaptureUnsupported, std::string(what) + " cannot be captured");
}

}  // namespace emulated

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new Stream;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream == nullptr) return fails(cudaErrorInvalidValue, "there is no stream");
  stream->recording = nullptr;
  stream->enqueue({});  // ends its thread; a few bytes stay
  return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, void (*function)(void*), void* data) {
  if (const cudaError_t error = checkStream(stream); error != cudaSuccess) return error;
  stream->enqueue([=](Device& on, Lock&) {
    if (on.failure.empty()) function(data);
  });
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream == nullptr) return fails(cudaErrorInvalidValue, "there is no stream");
  stream->wait();
  return checkOutsideCapture(stream, "a wait");
}
