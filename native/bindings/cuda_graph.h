// Products of a device that were recorded once and are enqueued again as one, with everything that they read and write.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "bindings/cuda_device.h"
#include "runtime/status.h"

namespace tsq {

// Recorded on the JavaScript thread; launched on one thread at a time. Recording goes to a stream of its own, so that
// copies which workers have under way meanwhile are no part of it; memory is still made on the device's stream, in
// whose order the graph runs later.
class CudaGraph {
 public:
  // Until end(), or until it is destroyed, products of the device are recorded in place of being enqueued.
  static Result<std::shared_ptr<CudaGraph>> record(std::shared_ptr<CudaDevice> device);
  explicit CudaGraph(std::shared_ptr<CudaDevice> device) : device_(std::move(device)) {}
  ~CudaGraph();
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;

  Status end();
  Status launch();

  const std::shared_ptr<CudaDevice>& device() const { return device_; }
  void* stream() const { return stream_; }
  // What a recorded product uses stays as long as the graph.
  void keep(std::shared_ptr<const void> used) { kept_.push_back(std::move(used)); }

 private:
  void stopRecording();

  std::shared_ptr<CudaDevice> device_;
  std::vector<std::shared_ptr<const void>> kept_;
  void* stream_ = nullptr;  // while recording
  void* graph_ = nullptr;
};

}  // namespace tsq
