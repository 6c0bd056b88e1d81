// What programs of this folder need of CUDA's runtime: errors as exceptions, owned memory, the module.
#pragma once
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda/module/module.h"

namespace bench {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")");
}

template <typename T>
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(size_t count) : count_(count) {
    if (count == 0) return;
    check(cudaMalloc(reinterpret_cast<void**>(&data_), bytes()),
          ("allocating " + std::to_string(bytes()) + " bytes").c_str());
  }
  // From memory of the host.
  explicit DeviceBuffer(std::span<const T> values) : DeviceBuffer(values.size()) {
    if (count_ == 0) return;
    check(cudaMemcpy(data_, values.data(), bytes(), cudaMemcpyHostToDevice), "copying to the device");
    // The copy may still be under way, and streams of this folder do not wait for the default one.
    check(cudaDeviceSynchronize(), "copying to the device");
  }
  explicit DeviceBuffer(const std::vector<T>& values) : DeviceBuffer(std::span<const T>(values)) {}
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), count_(std::exchange(other.count_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }
  ~DeviceBuffer() { cudaFree(data_); }

  T* data() const { return data_; }  // null where empty
  size_t size() const { return count_; }
  size_t bytes() const { return count_ * sizeof(T); }
  void fill(int byte) {
    check(cudaMemset(data_, byte, bytes()), "filling memory of the device");
    check(cudaDeviceSynchronize(), "filling memory of the device");
  }
  std::vector<T> read(size_t count) const {
    std::vector<T> values(count);
    check(cudaDeviceSynchronize(), "running kernels");
    if (count > 0) check(cudaMemcpy(values.data(), data_, count * sizeof(T), cudaMemcpyDeviceToHost), "copying back");
    return values;
  }
  std::vector<T> read() const { return read(count_); }

 private:
  T* data_ = nullptr;
  size_t count_ = 0;
};

class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream"); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// The module, prepared for the first device.
class Module {
 public:
  explicit Module(const char* path) {
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) throw std::runtime_error(dlerror());
    const auto entry = reinterpret_cast<TsqCudaEntry>(dlsym(library, "tsqCuda"));
    if (entry == nullptr) throw std::runtime_error(std::string(path) + " is no module of tsq-native");
    table_ = entry();
    if (table_->version != kTsqCudaVersion) throw std::runtime_error(std::string(path) + " has another version");
    if (table_->devices(reason()) == 0) throw std::runtime_error("no CUDA device: " + std::string(text_));
    call(table_->device(0, &device_, reason()));
    call(table_->prepare(0, reason()));
    check(cudaSetDevice(0), "choosing the device");
  }

  const TsqCuda* operator->() const { return table_; }
  const TsqCudaDevice& device() const { return device_; }
  TsqCudaText reason() { return {text_, sizeof(text_)}; }
  // Throws the reason of a call of the table that failed.
  void call(int outcome) const {
    if (outcome != kTsqCudaOk) throw std::runtime_error(text_);
  }

 private:
  const TsqCuda* table_ = nullptr;
  TsqCudaDevice device_{};
  char text_[512] = "";
};

// A W4A16 weight in memory of the device, packed.
struct PackedWeight {
  DeviceBuffer<uint8_t> weights, scales, zeros;

  // Everything from memory of the device, in rows; zeros may be null, and weights of 16 bits have no scales.
  PackedWeight(Module& module, const TsqCudaShape& shape, const void* codes, const int32_t* order,
               const uint16_t* scaleRows, const uint16_t* zeroRows, cudaStream_t stream) {
    TsqCudaSizes sizes{};
    module.call(module->sizes(&shape, 1, 1, &sizes, module.reason()));
    weights = DeviceBuffer<uint8_t>(static_cast<size_t>(sizes.weightBytes));
    scales = DeviceBuffer<uint8_t>(static_cast<size_t>(sizes.scaleBytes));
    TsqCudaPack pack{shape, codes, order, weights.data()};
    module.call(module->packCodes(&pack, stream, module.reason()));
    if (shape.bits == 16) return;
    pack = {shape, scaleRows, nullptr, scales.data()};
    module.call(module->packScales(&pack, stream, module.reason()));
    if (zeroRows == nullptr) return;
    zeros = DeviceBuffer<uint8_t>(static_cast<size_t>(sizes.scaleBytes));
    pack = {shape, zeroRows, nullptr, zeros.data()};
    module.call(module->packScales(&pack, stream, module.reason()));
  }
};

// Counters, which begin as zero, and partial sums: of one stream at a time.
struct Workspace {
  DeviceBuffer<int> counters;
  DeviceBuffer<uint8_t> partials;

  Workspace(Module& module, const TsqCudaShape& shape, int m, int blocks) {
    TsqCudaSizes sizes{};
    module.call(module->sizes(&shape, m, blocks, &sizes, module.reason()));
    counters = DeviceBuffer<int>(static_cast<size_t>(sizes.counterBytes) / sizeof(int));
    partials = DeviceBuffer<uint8_t>(static_cast<size_t>(sizes.partialBytes));
    counters.fill(0);
    partials.fill(0xff);  // NaN: nothing may be read before it was written
  }
};

}  // namespace bench
