// What one call enqueues on a device's stream: memory that it holds there, copies, calls of the module's table.
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/cuda_device.h"
#include "runtime/thread_pool.h"

namespace tsq {

class CudaWork {
 public:
  explicit CudaWork(std::shared_ptr<CudaDevice> device) : device_(std::move(device)) {}
  // The stream may still read, or write, memory of the caller.
  ~CudaWork() { settle(); }
  CudaWork(const CudaWork&) = delete;
  CudaWork& operator=(const CudaWork&) = delete;

  // Memory of the device for `count` elements, until release() or the end of this object.
  template <typename T>
  Status room(int64_t count, T** out) {
    Result<std::shared_ptr<CudaMemory>> memory = device_->allocate(count * static_cast<int64_t>(sizeof(T)));
    return keep(memory, out);
  }
  // A copy there; null stays null. The source must stay until the next wait.
  template <typename T>
  Status upload(const T* source, int64_t count, const T** out) {
    *out = nullptr;
    if (source == nullptr) return {};
    open_ = true;
    Result<std::shared_ptr<CudaMemory>> memory =
        device_->enqueueUpload(source, count * static_cast<int64_t>(sizeof(T)));
    return keep(memory, out);
  }
  template <typename T>
  Status upload(const std::vector<T>& source, const T** out) {
    return upload(source.empty() ? nullptr : source.data(), static_cast<int64_t>(source.size()), out);
  }
  // `target` has its values after the next wait.
  template <typename T>
  Status download(const T* source, int64_t count, T* target) {
    return call([&](const TsqCuda& table, void* stream, TsqCudaText reason) {
      return table.copy(target, source, count * static_cast<int64_t>(sizeof(T)), stream, reason);
    });
  }
  // enqueue: int(const TsqCuda&, void* stream, TsqCudaText reason).
  template <typename Enqueue>
  Status call(Enqueue enqueue) {
    open_ = true;
    return device_->ask([&](TsqCudaText reason) { return enqueue(device_->table(), device_->ownStream(), reason); });
  }
  Status wait() {
    open_ = false;
    return device_->ask([&](TsqCudaText reason) { return device_->table().wait(device_->ownStream(), reason); });
  }
  // After a failure: waits where something may still be under way, for memory of the caller that is about to go.
  void settle() {
    if (open_) (void)wait();
  }
  // Waits, and tells of an abort.
  Status wait(const char* operation, AbortFlag abort) {
    TSQ_RETURN_IF_ERROR(wait());
    return abort.raised() ? Status(Code::kAborted, std::string(operation) + ": aborted") : Status();
  }
  // In the stream's order: what is enqueued may use it.
  void release(const void* memory) {
    std::erase_if(held_, [&](const auto& one) { return one->data == memory; });
  }

 private:
  template <typename T>
  Status keep(Result<std::shared_ptr<CudaMemory>>& memory, T** out) {
    TSQ_RETURN_IF_ERROR(memory.status());
    *out = static_cast<T*>(memory.value()->data);
    held_.push_back(std::move(memory.value()));
    return {};
  }

  std::shared_ptr<CudaDevice> device_;
  std::vector<std::shared_ptr<CudaMemory>> held_;
  bool open_ = false;
};

}  // namespace tsq
