#include "cuda_runtime_api.h"

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "cuda/emulation/machine.h"
#include "cuda/emulation/memory.h"

using tsq::emulation::Memory;

namespace {

constexpr size_t kAlign = 256;
constexpr size_t kSharedDefault = 48 * 1024, kSharedMost = 227 * 1024;

size_t setting(const char* name, size_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

struct Allocation {
  explicit Allocation(size_t count)
      : bytes(std::aligned_alloc(kAlign, (count / kAlign + 2) * kAlign)), memory("memory", bytes, count, false) {}
  ~Allocation() { std::free(bytes); }
  Allocation(const Allocation&) = delete;
  Allocation& operator=(const Allocation&) = delete;
  void* bytes;
  Memory memory;
};

struct Device {
  size_t used = 0;
  std::map<uintptr_t, std::unique_ptr<Allocation>> memory;
  std::map<const void*, size_t> allowed;  // shared memory, by kernel
  std::string failure;                    // for good, as a context is lost with the first kernel that fails

  // The allocation that [address, address + bytes) begins in; null where there is none or it ends too early.
  Allocation* find(const void* address, size_t bytes) {
    auto next = memory.upper_bound(reinterpret_cast<uintptr_t>(address));
    if (next == memory.begin()) return nullptr;
    const auto& [begin, found] = *std::prev(next);
    const size_t offset = reinterpret_cast<uintptr_t>(address) - begin;
    return offset <= found->memory.size() && bytes <= found->memory.size() - offset ? found.get() : nullptr;
  }
};

// One for all devices and the emulation, which runs one launch at a time. Never destroyed: threads may hold it at exit.
std::mutex& mutex() {
  static auto* all = new std::mutex;
  return *all;
}
std::vector<Device>& devices() {
  static auto* all = new std::vector<Device>(setting("TSQ_EMULATED_DEVICES", 2));
  return *all;
}
size_t memoryOfEach() {
  return setting("TSQ_EMULATED_MEMORY", size_t{64} << 20);
}
thread_local int current = 0;
thread_local std::string failure;  // of the last call of this thread

Device& device() {
  return devices()[static_cast<size_t>(current)];
}

}  // namespace

// Does its tasks in order on a thread of its own.
struct Stream {
  Stream() : index(current), thread([this] { work(); }) { thread.detach(); }

  void enqueue(std::function<void(Device&)> task) {
    const std::lock_guard lock(tasksMutex);
    tasks.push_back(std::move(task));
    changed.notify_all();
  }
  void wait() {
    std::unique_lock lock(tasksMutex);
    changed.wait(lock, [this] { return tasks.empty(); });
  }
  void work() {
    for (;;) {
      std::unique_lock lock(tasksMutex);
      changed.wait(lock, [this] { return !tasks.empty(); });
      const std::function<void(Device&)> task = tasks.front();
      lock.unlock();
      if (!task) return;
      {
        const std::lock_guard all(mutex());
        task(devices()[static_cast<size_t>(index)]);
      }
      lock.lock();
      tasks.pop_front();
      if (tasks.empty()) changed.notify_all();
    }
  }

  int index;
  std::mutex tasksMutex;
  std::condition_variable changed;
  std::deque<std::function<void(Device&)>> tasks;
  std::thread thread;
};

namespace {

cudaError_t fails(cudaError_t error, std::string text) {
  failure = std::move(text);
  return error;
}

// A stream is of the device that was current, and that must be so again.
cudaError_t checkStream(cudaStream_t stream) {
  if (stream == nullptr) return fails(cudaErrorInvalidValue, "there is no stream");
  if (stream->index != current) return fails(cudaErrorInvalidValue, "the stream is of another device");
  const std::lock_guard lock(mutex());
  return device().failure.empty() ? cudaSuccess : fails(cudaErrorLaunchFailure, device().failure);
}

}  // namespace

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
  *version = 12040;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 12040;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int* count) {
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
  if (const cudaError_t error = checkStream(stream); error != cudaSuccess) return error;
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
  stream->enqueue([=](Device& on) {
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
  stream->enqueue([=](Device& on) {
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
  if (const cudaError_t error = checkStream(stream); error != cudaSuccess) return error;
  stream->enqueue([=](Device& on) {
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

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new Stream;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream == nullptr) return fails(cudaErrorInvalidValue, "there is no stream");
  stream->enqueue({});  // ends its thread; a few bytes stay
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream == nullptr) return fails(cudaErrorInvalidValue, "there is no stream");
  stream->wait();
  return checkStream(stream);
}

cudaError_t enqueueKernel(const void* kernel, int blocks, int threads, size_t sharedBytes, cudaStream_t stream,
                          std::function<void()> body) {
  if (const cudaError_t error = checkStream(stream); error != cudaSuccess) return error;
  {
    const std::lock_guard lock(mutex());
    const auto allowed = device().allowed.find(kernel);
    if (sharedBytes > (allowed == device().allowed.end() ? kSharedDefault : allowed->second))
      return fails(cudaErrorInvalidValue, "the kernel may not have that much shared memory");
  }
  stream->enqueue([=, body = std::move(body)](Device& on) {
    if (!on.failure.empty()) return;
    for (const auto& [begin, allocation] : on.memory) tsq::emulation::registerBuffer(&allocation->memory);
    tsq::emulation::Launch how;
    how.blocks = blocks;
    how.threads = threads;
    how.sharedBytes = sharedBytes;
    how.order = tsq::emulation::Order::kRandom;
    const tsq::emulation::Outcome outcome = tsq::emulation::run(how, body);
    on.failure = outcome.error;
    if (const char* planned = std::getenv("TSQ_EMULATED_FAILURE"); planned != nullptr) on.failure = planned;
    for (const auto& [begin, allocation] : on.memory) tsq::emulation::unregisterBuffer(&allocation->memory);
  });
  return cudaSuccess;
}
