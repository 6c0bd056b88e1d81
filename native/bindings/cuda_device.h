// A CUDA device as one environment uses it: one stream, in whose order all its work and memory lie. No JavaScript here.
//
// What is on the stream runs later, and a failure of it is told by the next wait. Memory may be let go at any time: it
// is freed in the stream's order, after what uses it.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bindings/cuda_module.h"
#include "runtime/status.h"

namespace tsq {

class CudaDevice;
class CudaGraph;

struct CudaMemory {
  CudaMemory(std::shared_ptr<CudaDevice> on, int64_t size) : device(std::move(on)), bytes(size) {}
  ~CudaMemory();
  CudaMemory(const CudaMemory&) = delete;
  CudaMemory& operator=(const CudaMemory&) = delete;

  std::shared_ptr<CudaDevice> device;
  void* data = nullptr;  // null where there are no bytes
  int64_t bytes;
};

// Codes of 2 to 8 bits as a QuantizedTensor has them. groupIndex empty: groups are consecutive columns.
struct CudaCodes {
  TsqCudaShape shape;       // bits: as the kernels store them, 4 or 8
  int32_t bits;             // of the codes
  const uint8_t* codes;     // [n, k]
  const float* scales;      // [n, groups]
  const uint8_t* zeros;     // the same, or null: 2^(bits - 1)
  const float* inputScale;  // [k], or null
  std::vector<int32_t> groupIndex;
  bool scalesAreBF16;
};

struct CudaWeight {
  std::shared_ptr<CudaDevice> device;
  TsqCudaShape shape;
  int32_t blocks;
  // isBF16: of 16-bit weights, which x then has to be too.
  bool isBF16, scalesAreBF16, zerosAreIntegers, scalesAreModerate;
  std::shared_ptr<CudaMemory> codes, scales, zeros, order, inputScale;  // all but the first may be null
  uint64_t bytes() const;
};

// y[m, n] = x[m, k] W^T (+ bias), all of x's type.
struct CudaProduct {
  std::shared_ptr<const CudaWeight> weight;
  std::shared_ptr<CudaMemory> x, bias, y;  // no bias: none; no y: memory is made for it
  bool isBF16;
  int32_t m;
  bool batchInvariant = false;  // rows have the same bits for every m
};

// Memory for what products leave to each other. Released before the device is; not counted among its owners.
struct CudaScratch {
  CudaScratch(CudaDevice* on, int64_t size) : device(on), bytes(size) {}
  ~CudaScratch();
  CudaScratch(const CudaScratch&) = delete;
  CudaScratch& operator=(const CudaScratch&) = delete;

  CudaDevice* device;
  void* data = nullptr;
  int64_t bytes;
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
  // Into memory that there is.
  Status write(const CudaMemory& target, const void* source, int64_t bytes);
  // Waits too, as it reads the host's memory.
  Result<std::shared_ptr<const CudaWeight>> pack(const CudaCodes& source);

  // Weights [n, k] of 16 bits, which lie on this device. Waits for what becomes of them.
  Result<std::shared_ptr<const CudaWeight>> packFloats(const CudaMemory& source, bool isBF16, int64_t n, int64_t k);

  // Enqueues a product, or records it where a graph is being recorded, and gives y. On one thread at a time: the
  // workspace is the device's.
  Result<std::shared_ptr<CudaMemory>> multiply(const CudaProduct& product);

  void release(void* memory);
  std::string name() const { return "cuda:" + std::to_string(index_); }

  // For graphs, benchmarks and calibration, which call the module themselves.
  const TsqCuda& table() const { return *table_; }
  int multiprocessors() const { return multiprocessors_; }
  int64_t memoryBytes() const { return memoryBytes_; }
  // The device's own, whether or not a graph is being recorded.
  void* ownStream() const { return stream_; }
  // Where products go: to the device, or to the graph that is being recorded, which then keeps what they use.
  void* stream() const;
  void keepRecorded(std::initializer_list<std::shared_ptr<const void>> used);
  CudaGraph* recording() const { return recording_; }
  void setRecording(CudaGraph* graph) { recording_ = graph; }
  // In the order of the device, whether or not a graph is being recorded; in any thread.
  Status launch(void* graph);
  Status stamp(void* event);
  // call: int(TsqCudaText), with this device the current one.
  template <typename Call>
  Status ask(Call call) const {
    CudaReason reason;
    int outcome = table_->use(index_, reason);
    if (outcome == kTsqCudaOk) outcome = call(TsqCudaText(reason));
    return statusOf(outcome, reason.text());
  }
  // Makes this device the calling thread's current one, for libraries that take that.
  Status use() const {
    return ask([](TsqCudaText) { return int{kTsqCudaOk}; });
  }
  // Does not wait: the source must stay until something does.
  Result<std::shared_ptr<CudaMemory>> enqueueUpload(const void* source, int64_t bytes);

 private:
  Status statusOf(int outcome, const std::string& reason) const;
  Result<std::shared_ptr<CudaMemory>> packScales(const TsqCudaShape& shape, const std::vector<uint16_t>& values,
                                                 int64_t bytes);
  // Scratch of at least so many bytes; `fresh`, if given, tells whether it is new.
  Status reserve(std::shared_ptr<CudaScratch>* scratch, int64_t bytes, bool* fresh = nullptr);

  const TsqCuda* table_;
  int index_;
  int multiprocessors_ = 0;
  int64_t memoryBytes_ = 0;
  void* stream_ = nullptr;
  CudaGraph* recording_ = nullptr;
  // The counters are left zero by every product. scaled_: x times an input scale.
  std::shared_ptr<CudaScratch> counters_, partials_, scaled_;
};

}  // namespace tsq
