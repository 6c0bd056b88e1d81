#include "cuda/module/events.h"

#include "cuda/module/runtime.h"

namespace tsq::cuda::module {

int openEvent(void** event, TsqCudaText reason) {
  cudaEvent_t made = nullptr;
  TSQ_TRY(answer(cudaEventCreate(&made), "making an event", reason));
  *event = made;
  return kTsqCudaOk;
}

int closeEvent(void* event, TsqCudaText reason) {
  return answer(cudaEventDestroy(static_cast<cudaEvent_t>(event)), "closing an event", reason);
}

int record(void* event, void* stream, TsqCudaText reason) {
  return answer(cudaEventRecord(static_cast<cudaEvent_t>(event), static_cast<cudaStream_t>(stream)),
                "recording an event", reason);
}

int elapsed(void* begin, void* end, double* microseconds, TsqCudaText reason) {
  TSQ_TRY(answer(cudaEventSynchronize(static_cast<cudaEvent_t>(end)), "waiting for the device", reason));
  float milliseconds = 0;
  TSQ_TRY(answer(cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(begin), static_cast<cudaEvent_t>(end)),
                 "reading an event", reason));
  *microseconds = 1000.0 * milliseconds;
  return kTsqCudaOk;
}

}  // namespace tsq::cuda::module
