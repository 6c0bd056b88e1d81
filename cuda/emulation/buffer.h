// Device memory for tests: a buffer that kernels may touch, with exact bounds.
#pragma once
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <vector>

#include "cuda/device.cuh"

namespace tsq::emulation {

template <typename T>
class Buffer {
 public:
  // Uninitialised, as from cudaMalloc.
  Buffer(std::string name, size_t count)
      : values_(allocate(count), std::free),
        memory_(std::move(name), values_.get(), count * sizeof(T), false),
        count_(count) {
    registerBuffer(&memory_);
  }
  Buffer(std::string name, std::span<const T> values) : Buffer(std::move(name), values.size()) {
    if (!values.empty()) std::memcpy(values_.get(), values.data(), values.size_bytes());
    memory_.setInitialised(true);
  }
  Buffer(std::string name, const std::vector<T>& values) : Buffer(std::move(name), std::span<const T>(values)) {}
  ~Buffer() { unregisterBuffer(&memory_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  size_t size() const { return count_; }
  const T& operator[](size_t i) const { return values_.get()[i]; }
  std::span<const T> values() const { return {values_.get(), count_}; }
  bool written(size_t i) const { return memory_.initialised(i * sizeof(T)); }
  template <typename U = T>
  cuda::Global<U> global() {
    return {reinterpret_cast<U*>(values_.get())};
  }

 private:
  static constexpr size_t kAlign = 256;  // of cudaMalloc
  static T* allocate(size_t count) {
    const size_t bytes =
        (count * sizeof(T) / kAlign + 2) * kAlign;  // a gap between buffers, so that none runs into the next
    void* memory = std::aligned_alloc(kAlign, bytes);
    if (memory == nullptr) throw std::bad_alloc();
    std::memset(memory, 0xff, bytes);
    return static_cast<T*>(memory);
  }

  std::unique_ptr<T, void (*)(void*)> values_;
  Memory memory_;
  size_t count_;
};

}  // namespace tsq::emulation
