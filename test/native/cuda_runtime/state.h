// What the emulated CUDA runtime keeps: devices with their memory, and streams that work on them.
#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda/emulation/memory.h"
#include "cuda_runtime_api.h"

namespace emulated {

struct Allocation {
  explicit Allocation(size_t count);
  ~Allocation();
  Allocation(const Allocation&) = delete;
  Allocation& operator=(const Allocation&) = delete;
  void* bytes;
  tsq::emulation::Memory memory;
};

struct Device {
  size_t used = 0;
  std::map<uintptr_t, std::unique_ptr<Allocation>> memory;
  std::map<const void*, size_t> allowed;  // shared memory, by kernel
  std::string failure;                    // for good, as a context is lost with the first kernel that fails

  // The allocation that [address, address + bytes) begins in; null where there is none or it ends too early.
  Allocation* find(const void* address, size_t bytes);
};

using Lock = std::unique_lock<std::mutex>;
// Done with the lock of the devices held, and with that of the machine, which runs one task at a time; a kernel lets go
// of the former while it runs. Memory is let go by tasks only.
using Task = std::function<void(Device&, Lock&)>;

// Of all devices; held for moments, so that enqueuing does not wait for kernels. Never destroyed: threads may hold it
// at exit.
std::mutex& mutex();
std::vector<Device>& devices();
size_t setting(const char* name, size_t otherwise);
extern thread_local int current;

// The error with the words that cudaGetErrorString then gives in this thread.
cudaError_t fails(cudaError_t error, std::string text);
// Whether a stream may get work: it is of the current device, which has not failed.
cudaError_t checkStream(cudaStream_t stream);
// The same for work that no capture can hold. A capture that meets it is invalid.
cudaError_t checkOutsideCapture(cudaStream_t stream, const char* what);

}  // namespace emulated

// Does its tasks in order on a thread of its own, or records them.
struct Stream {
  Stream();
  void enqueue(emulated::Task task);
  void wait();

  int index;  // of the device
  std::mutex tasksMutex;
  std::condition_variable changed;
  std::deque<emulated::Task> tasks;
  std::unique_ptr<std::vector<emulated::Task>> recording;
  bool invalid = false;  // of the capture

 private:
  void work();
};
