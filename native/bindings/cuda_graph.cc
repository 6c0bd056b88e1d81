#include "bindings/cuda_graph.h"

#include <utility>

namespace tsq {

Result<std::shared_ptr<CudaGraph>> CudaGraph::record(std::shared_ptr<CudaDevice> device) {
  if (device->recording() != nullptr)
    return Status(Code::kDevice, device->name() + ": a graph is being recorded already");
  auto graph = std::make_shared<CudaGraph>(std::move(device));
  CudaDevice& on = *graph->device_;
  TSQ_RETURN_IF_ERROR(on.ask([&](TsqCudaText reason) { return on.table().openStream(&graph->stream_, reason); }));
  on.setRecording(graph.get());
  const Status begun = on.ask([&](TsqCudaText reason) { return on.table().beginCapture(graph->stream_, reason); });
  TSQ_RETURN_IF_ERROR(begun);
  return graph;
}

CudaGraph::~CudaGraph() {
  const TsqCuda& table = device_->table();
  if (stream_ != nullptr) {
    (void)device_->ask([&](TsqCudaText reason) { return table.endCapture(stream_, nullptr, reason); });
    stopRecording();
  }
  if (graph_ != nullptr) (void)device_->ask([&](TsqCudaText reason) { return table.closeGraph(graph_, reason); });
}

void CudaGraph::stopRecording() {
  device_->setRecording(nullptr);
  void* stream = std::exchange(stream_, nullptr);
  (void)device_->ask([&](TsqCudaText reason) { return device_->table().closeStream(stream, reason); });
}

Status CudaGraph::end() {
  if (stream_ == nullptr) return Status(Code::kOption, "the graph is not being recorded");
  const Status ended =
      device_->ask([&](TsqCudaText reason) { return device_->table().endCapture(stream_, &graph_, reason); });
  stopRecording();
  TSQ_RETURN_IF_ERROR(ended);
  if (kept_.empty()) return Status(Code::kOption, "no product was recorded on " + device_->name());
  return {};
}

Status CudaGraph::launch() {
  if (graph_ == nullptr) return Status(Code::kOption, "the graph is still being recorded");
  return device_->launch(graph_);
}

}  // namespace tsq
