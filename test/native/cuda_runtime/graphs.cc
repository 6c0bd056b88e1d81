// Captures and graphs of the emulated CUDA runtime: tasks that were recorded in place of being done.
#include <memory>
#include <utility>
#include <vector>

#include "state.h"

using namespace emulated;  // NOLINT

struct Graph {
  std::shared_ptr<const std::vector<Task>> tasks;
};

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (const cudaError_t error = checkOutsideCapture(stream, "a capture"); error != cudaSuccess) return error;
  const std::lock_guard lock(stream->tasksMutex);
  stream->recording = std::make_unique<std::vector<Task>>();
  stream->invalid = false;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  const std::lock_guard lock(stream->tasksMutex);
  if (stream->recording == nullptr) return fails(cudaErrorInvalidValue, "the stream is not being captured");
  const auto tasks = std::make_shared<const std::vector<Task>>(std::move(*stream->recording));
  stream->recording = nullptr;
  if (stream->invalid)
    return fails(cudaErrorStreamCaptureInvalidated, "operation failed due to a previous error during capture");
  *graph = new Graph{tasks};
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
  *made = new Graph{graph->tasks};
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
// What of it is on a stream is done all the same.
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  if (const cudaError_t error = checkStream(stream); error != cudaSuccess) return error;
  stream->enqueue([tasks = graph->tasks](Device& on, Lock& lock) {
    for (const Task& task : *tasks) task(on, lock);
  });
  return cudaSuccess;
}
