// The part of the CUDA runtime that the module calls, for a machine without a GPU: kernels run in the emulation, each
// stream has a thread that does its work in order, and memory is the host's. A device forgets nothing that the real one
// would hold against a caller: shared memory that was not allowed, memory of another device, memory never written.
//   TSQ_EMULATED_DEVICES  how many there are (2): by turns of compute capability 9.0 and 8.0
//   TSQ_EMULATED_MEMORY   bytes of each (64 MiB)
//   TSQ_EMULATED_FAILURE  what a kernel that runs while it is set fails with
//   TSQ_EMULATED_LAUNCH   what a launch while it is set is refused with, if it has at least so many bytes of shared
//   memory TSQ_EMULATED_LAUNCH_BYTES  (0) TSQ_EMULATED_SLEEP    milliseconds that a kernel takes at least (0)
//   TSQ_EMULATED_DRIVER   the version of the driver (12040, which is that of the runtime)
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>

enum cudaError_t {
  cudaSuccess,
  cudaErrorInvalidValue,
  cudaErrorMemoryAllocation,
  cudaErrorInsufficientDriver,
  cudaErrorNoDevice,
  cudaErrorInvalidDevice,
  cudaErrorLaunchFailure,
  cudaErrorStreamCaptureUnsupported,
  cudaErrorStreamCaptureInvalidated,
};
struct Stream;
using cudaStream_t = Stream*;
using cudaMemPool_t = void*;
struct Graph;
using cudaGraph_t = Graph*;
using cudaGraphExec_t = Graph*;
struct Event;
using cudaEvent_t = Event*;
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor };
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold };
enum cudaMemcpyKind { cudaMemcpyDefault };
enum cudaStreamCaptureMode { cudaStreamCaptureModeRelaxed };
constexpr unsigned cudaStreamNonBlocking = 1;

struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount;
  size_t totalGlobalMem;
  int l2CacheSize;
};
struct dim3 {
  explicit dim3(unsigned x) : x(x) {}
  unsigned x;
};

cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);
const char* cudaGetErrorName(cudaError_t error);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);

cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int index);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int index);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int index);
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int index);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t stream);
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);

cudaError_t cudaEventCreate(cudaEvent_t* event);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end);

// Exported for test/native/cuda_modules/cublas.cc, which stands for a library of NVIDIA's. The second: a function of
// the host in the stream's order, which captures hold too.
#define TSQ_EMULATED_EXPORT extern "C" __attribute__((visibility("default")))
TSQ_EMULATED_EXPORT cudaError_t cudaGetDevice(int* index);
TSQ_EMULATED_EXPORT cudaError_t cudaLaunchHostFunc(cudaStream_t stream, void (*function)(void*), void* data);

cudaError_t enqueueKernel(const void* kernel, int blocks, int threads, size_t sharedBytes, cudaStream_t stream,
                          std::function<void()> body);

template <typename Parameters>
cudaError_t cudaLaunchKernel(void (*kernel)(Parameters), dim3 blocks, dim3 threads, void** arguments,
                             size_t sharedBytes, cudaStream_t stream) {
  const Parameters parameters = *static_cast<const Parameters*>(arguments[0]);
  return enqueueKernel(reinterpret_cast<const void*>(kernel), static_cast<int>(blocks.x), static_cast<int>(threads.x),
                       sharedBytes, stream, [=] { kernel(parameters); });
}
