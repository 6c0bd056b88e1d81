#include "bench/cuda/timing.h"

#include <algorithm>
#include <vector>

#include "bench/cuda/device.h"
#include "bench/cuda/kernels.h"

namespace bench {
namespace {

class Event {
 public:
  Event() { check(cudaEventCreate(&event_), "making an event"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(cudaStream_t stream) { check(cudaEventRecord(event_, stream), "recording an event"); }
  double microsecondsSince(const Event& begin) {
    float milliseconds = 0;
    check(cudaEventSynchronize(event_), "running kernels");
    check(cudaEventElapsedTime(&milliseconds, begin.event_, event_), "reading an event");
    return 1000.0 * milliseconds;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

class Graph {
 public:
  template <typename Enqueue>
  Graph(cudaStream_t stream, Enqueue enqueue) {
    cudaGraph_t graph = nullptr;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "beginning a capture");
    enqueue();
    check(cudaStreamEndCapture(stream, &graph), "ending a capture");
    check(cudaGraphInstantiate(&exec_, graph, 0), "making a graph");
    cudaGraphDestroy(graph);
  }
  ~Graph() { cudaGraphExecDestroy(exec_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void launch(cudaStream_t stream) { check(cudaGraphLaunch(exec_, stream), "running a graph"); }

 private:
  cudaGraphExec_t exec_ = nullptr;
};

}  // namespace

Timing measure(cudaStream_t stream, int copies, int samples, const std::function<void(int)>& launch) {
  Event begin, end;
  launch(0);  // what a first launch loads is not measured
  begin.record(stream);
  launch(0);
  end.record(stream);
  // A graph of few short launches would measure its own start.
  const double once = end.microsecondsSince(begin);
  int launches = copies;
  while (launches < 16 && launches * once < 2000) launches += copies;

  Graph graph(stream, [&] {
    for (int i = 0; i < launches; ++i) launch(i % copies);
  });
  for (int i = 0; i < 3; ++i) graph.launch(stream);
  std::vector<double> times;
  for (int i = 0; i < samples; ++i) {
    hold(stream);  // or else the time between the event and the arrival of the graph would count
    begin.record(stream);
    graph.launch(stream);
    end.record(stream);
    times.push_back(end.microsecondsSince(begin) / launches);
  }
  check(cudaStreamSynchronize(stream), "running kernels");
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times.front(), times.back(), samples, launches};
}

int coldCopies(int64_t bytes, int64_t cacheBytes) {
  return static_cast<int>(std::clamp<int64_t>((4 * cacheBytes + bytes - 1) / bytes, 2, 256));
}

}  // namespace bench
