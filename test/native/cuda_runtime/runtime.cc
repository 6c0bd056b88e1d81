// Devices, memory and launches of the emulated CUDA runtime.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "cuda/emulation/machine.h"
#include "state.h"

namespace emulated {
namespace {

constexpr size_t kAlign = 256;
constexpr size_t kSharedDefault = 48 * 1024, kSharedMost = 227 * 1024;
constexpr int kVersion = 12040;

thread_local std::string failure;  // of the last call of this thread

Device& device() {
  return devices()[static_cast<size_t>(current)];
}
size_t memoryOfEach() {
  return setting("TSQ_EMULATED_MEMORY", size_t{64} << 20);
}

}  // namespace

thread_local int current = 0;

size_t setting(const char* name, size_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

Allocation::Allocation(size_t count)
    : bytes(std::aligned_alloc(kAlign, (count / kAlign + 2) * kAlign)), memory("memory", bytes, count, false) {}
Allocation::~Allocation() {
  std::free(bytes);
}

Allocation* Device::find(const void* address, size_t bytes) {
  auto next = memory.upper_bound(reinterpret_cast<uintptr_t>(address));
  if (next == memory.begin()) return nullptr;
  const auto& [begin, found] = *std::prev(next);
  const size_t offset = reinterpret_cast<uintptr_t>(address) - begin;
  return offset <= found->memory.size() && bytes <= found->memory.size() - offset ? found.get() : nullptr;
}

std::mutex& mutex() {
  static auto* all = new std::mutex;
  return *all;
}
std::vector<Device>& devices() {
  static auto* all = new std::vector<Device>(setting("TSQ_EMULATED_DEVICES", 2));
  return *all;
}

cudaError_t fails(cudaError_t error, std::string text) {
  failure = std::move(text);
  return error;
}

cudaError_t checkStream(cudaStream_t stream) {
  if (stream == nullptr) return fails(cudaErrorInvalidValue, "there is no stream");
  if (stream->index != current) return fails(cudaErrorInvalidValue, "the stream is of another device");
  const std::lock_guard lock(mutex());
  return device().failure.empty() ? cudaSuccess : fails(cudaErrorLaunchFailure, device().failure);
}

}  // namespace emulated

using namespace emulated;  // NOLINT

cudaError_t cudaGetLastError() {
  return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t) {
  return failure.c_str();
}
const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorLaunchFailure ? "cudaErrorLaunchFailure" : "cudaErrorInvalidValue";
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = static_cast<int>(setting("TSQ_EMULATED_DRIVER", kVersion));
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = kVersion;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
  if (setting("TSQ_EMULATED_DRIVER", kVersion) < kVersion)
    return fails(cudaErrorInsufficientDriver, "the driver is older than the runtime");  // the count is left alone
  *count = static_cast<int>(devices().size());
  return *count > 0 ? cudaSuccess : fails(cudaErrorNoDevice, "no device");
}
cudaError_t cudaGetDevice(int* index) {
  *index = current;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int index) {
  if (index < 0 || static_cast<size_t>(index) >= devices().size())
    return fails(cudaErrorInvalidDevice, "invalid device ordinal");
  current = index;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int index) {
  if (index < 0 || static_cast<size_t>(index) >= devices().size())
    return fails(cudaErrorInvalidDevice, "invalid device ordinal");
  *properties = {};
  std::snprintf(properties->name, sizeof(properties->name), "emulated %d", index);
  properties->major = index % 2 == 0 ? 9 : 8;
  properties->multiProcessorCount = 2;
  properties->totalGlobalMem = memoryOfEach();
  properties->l2CacheSize = 1 << 12;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int index) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, index);
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? properties.major : properties.minor;
  return error;
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  if (static_cast<size_t>(value) > kSharedMost) return fails(cudaErrorInvalidValue, "too much shared memory");
  const std::lock_guard lock(mutex());
  device().allowed[kernel] = static_cast<size_t>(value);
  return cudaSuccess;
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
  *pool = nullptr;
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) {
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const std::lock_guard lock(mutex());
  *total = memoryOfEach();
  *free = *total - std::min(*total, device().used);
  return cudaSuccess;
}
// Memory counts as used from here until the stream has come to its release.
cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t stream) {
  if (const cudaError_t error = checkOutsideCapture(stream, "an allocation"); error != cudaSuccess) return error;
  const auto fits = [&] { return bytes <= memoryOfEach() && device().used <= memoryOfEach() - bytes; };
  std::unique_lock lock(mutex());
  if (!fits()) {  // what is being released will be free when its turn has come
    lock.unlock();
    stream->wait();
    lock.lock();
  }
  if (!fits()) return cudaErrorMemoryAllocation;
  auto allocation = std::make_unique<Allocation>(bytes);
  *memory = allocation->bytes;
  device().used += bytes;
  device().memory[reinterpret_cast<uintptr_t>(*memory)] = std::move(allocation);
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) {
  if (stream == nullptr || stream->index != current)
    return fails(cudaErrorInvalidValue, "the stream is of another device");
  stream->enqueue([=](Device& on, Lock&) {
    const auto found = on.memory.find(reinterpret_cast<uintptr_t>(memory));
    if (found == on.memory.end()) {
      on.failure = "memory is released twice, or on another device";
      return;
    }
    on.used -= found->second->memory.size();
    on.memory.erase(found);
  });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  if (const cudaError_t error = checkStream(stream); error != cudaSuccess) return error;
  stream->enqueue([=](Device& on, Lock&) {
    Allocation* found = on.find(memory, bytes);
    if (found == nullptr) {
      on.failure = "a memset goes beyond its memory";
      return;
    }
    std::memset(memory, value, bytes);
    found->memory.setInitialised(true);
  });
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  if (const cudaError_t error = checkOutsideCapture(stream, "a copy"); error != cudaSuccess) return error;
  stream->enqueue([=](Device& on, Lock&) {
    if (!on.failure.empty()) return;
    Allocation* target = on.find(to, bytes);
    Allocation* source = on.find(from, bytes);
    if ((target == nullptr) == (source == nullptr)) {
      on.failure = "a copy is not between the host and memory of the stream's device";
      return;
    }
    for (size_t i = 0; source != nullptr && i < bytes; ++i) {
      if (!source->memory.initialised(i)) on.failure = "a copy reads memory that was never written";
    }
    std::memcpy(to, from, bytes);
    if (target != nullptr) target->memory.setInitialised(true);
  });
  return cudaSuccess;
}

cudaError_t enqueueKernel(const void* kernel, int blocks, int threads, size_t sharedBytes, cudaStream_t stream,
                          std::function<void()> body) {
  if (const cudaError_t error = checkStream(stream); error != cudaSuccess) return error;
  if (const char* planned = std::getenv("TSQ_EMULATED_LAUNCH");
      planned != nullptr && sharedBytes >= setting("TSQ_EMULATED_LAUNCH_BYTES", 0))
    return fails(cudaErrorInvalidValue, planned);
  {
    const std::lock_guard lock(mutex());
    const auto allowed = device().allowed.find(kernel);
    if (sharedBytes > (allowed == device().allowed.end() ? kSharedDefault : allowed->second))
      return fails(cudaErrorInvalidValue, "the kernel may not have that much shared memory");
  }
  stream->enqueue([=, body = std::move(body)](Device& on, Lock& lock) {
    if (!on.failure.empty()) return;
    std::vector<tsq::emulation::Memory*> seen;
    for (const auto& [begin, allocation] : on.memory) seen.push_back(&allocation->memory);
    lock.unlock();
    std::this_thread::sleep_for(std::chrono::milliseconds(setting("TSQ_EMULATED_SLEEP", 0)));
    for (tsq::emulation::Memory* each : seen) tsq::emulation::registerBuffer(each);
    tsq::emulation::Launch how;
    how.blocks = blocks;
    how.threads = threads;
    how.sharedBytes = sharedBytes;
    how.order = tsq::emulation::Order::kRandom;
    const tsq::emulation::Outcome outcome = tsq::emulation::run(how, body);
    for (tsq::emulation::Memory* each : seen) tsq::emulation::unregisterBuffer(each);
    lock.lock();
    on.failure = outcome.error;
    if (const char* planned = std::getenv("TSQ_EMULATED_FAILURE"); planned != nullptr) on.failure = planned;
  });
  return cudaSuccess;
}
