#include "cuda/module/graphs.h"

#include "cuda/module/runtime.h"

namespace tsq::cuda::module {

// Relaxed: meanwhile the caller makes memory on other streams, and other threads do what they do.
int beginCapture(void* stream, TsqCudaText reason) {
  return answer(cudaStreamBeginCapture(static_cast<cudaStream_t>(stream), cudaStreamCaptureModeRelaxed),
                "beginning a capture", reason);
}

int endCapture(void* stream, void** graph, TsqCudaText reason) {
  cudaGraph_t captured = nullptr;
  const cudaError_t error = cudaStreamEndCapture(static_cast<cudaStream_t>(stream), &captured);
  if (graph == nullptr || error != cudaSuccess) {
    if (captured != nullptr) cudaGraphDestroy(captured);
    return answer(graph == nullptr ? cudaSuccess : error, "ending a capture", reason);
  }
  cudaGraphExec_t made = nullptr;
  const int outcome = answer(cudaGraphInstantiate(&made, captured, 0), "making a graph", reason);
  cudaGraphDestroy(captured);
  *graph = made;
  return outcome;
}

int launchGraph(void* graph, void* stream, TsqCudaText reason) {
  return answer(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), static_cast<cudaStream_t>(stream)),
                "starting a graph", reason);
}

int closeGraph(void* graph, TsqCudaText reason) {
  return answer(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)), "closing a graph", reason);
}

}  // namespace tsq::cuda::module
