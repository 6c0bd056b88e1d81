// A CUDA device as one environment uses it: one stream, in whose order all its work and memory lie. No JavaScript here.
//
// What is on the stream runs later, and a failure of it is told by the next wait. Memory may be let go at any time: it
// is freed in the stream's order, after what uses it.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bindings/cuda_module.h"
#include "runtime/status.h"

namespace tsq {

class CudaDevice;

struct CudaMemory {
  CudaMemory(std::shared_ptr<CudaDevice> on, int64_t size) : device(std::move(on)), bytes(size) {}
  ~CudaMemory();
  CudaMemory(const CudaMemory&) = delete;
  CudaMemory& operator=(const CudaMemory&) = delete;

  std::shared_ptr<CudaDevice> device;
  void* data = nullptr;  // null where there are no bytes
  int64_t bytes;
};

// 4-bit codes as a QuantizedTensor has them. groupIndex empty: groups are consecutive columns.
struct CudaCodes {
  TsqCudaShape shape;
  const uint8_t* codes;  // [n, k]
  const float* scales;   // [n, groups]
  const uint8_t* zeros;  // the same, or null
  std::vector<int32_t> groupIndex;
  bool scalesAreBF16;
};

struct CudaWeight {
  std::shared_ptr<CudaDevice> device;
  TsqCudaShape shape;
  int32_t blocks;
  bool scalesAreBF16, zerosAreIntegers;
  std::shared_ptr<CudaMemory> codes, scales, zeros, order;  // the last two may be null
  uint64_t bytes() const;
};

class CudaDevice : public std::enable_shared_from_this<CudaDevice> {
 public:
  static Result<std::shared_ptr<CudaDevice>> open(const std::string& modulePath, int index);
  CudaDevice(const TsqCuda* table, int index) : table_(table), index_(index) {}
  ~CudaDevice();
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  // Safe in any thread.
  Result<std::shared_ptr<CudaMemory>> allocate(int64_t bytes);
  // Waits until the copy is done.
  Result<std::shared_ptr<CudaMemory>> upload(const void* source, int64_t bytes);
  Status download(const CudaMemory& source, void* target, int64_t bytes);
  // Waits too, as it reads the host's memory.
  Result<std::shared_ptr<const CudaWeight>> pack(const CudaCodes& source);

  // y[m, n] in x's type, enqueued. On one thread at a time: the workspace is the device's.
  Result<std::shared_ptr<CudaMemory>> multiply(const CudaWeight& weight, const CudaMemory& x, bool isBF16, int32_t m,
                                               const CudaMemory* bias);

  void release(void* memory);
  std::string name() const { return "cuda:" + std::to_string(index_); }

  // For those who call the module themselves (cuda_rounding.cc).
  const TsqCuda& table() const { return *table_; }
  void* stream() const { return stream_; }
  // call: int(TsqCudaText), with this device the current one.
  template <typename Call>
  Status ask(Call call) const;
  // Does not wait: the source must stay until something does.
  Result<std::shared_ptr<CudaMemory>> enqueueUpload(const void* source, int64_t bytes);

 private:
  Result<std::shared_ptr<CudaMemory>> packScales(const TsqCudaShape& shape, const std::vector<uint16_t>& values,
                                                 int64_t bytes);
  Status reserve(const TsqCudaSizes& sizes);

  const TsqCuda* table_;
  int index_;
  int multiprocessors_ = 0;
  void* stream_ = nullptr;
  // Left zero by every product. Released when the device is, before its stream; not counted among its owners.
  void *counters_ = nullptr, *partials_ = nullptr;
  int64_t counterBytes_ = 0, partialBytes_ = 0;
};

template <typename Call>
Status CudaDevice::ask(Call call) const {
  CudaReason reason;
  int outcome = table_->use(index_, reason);
  if (outcome == kTsqCudaOk) outcome = call(TsqCudaText(reason));
  if (outcome == kTsqCudaOk) return {};
  std::string text = name() + ": " + reason.text();
  if (outcome == kTsqCudaMemory) text += "; dispose of tensors and weights that are not used any more";
  return Status(outcome == kTsqCudaArgument ? Code::kUnsupported : Code::kDevice, std::move(text));
}

}  // namespace tsq
