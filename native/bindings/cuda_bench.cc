// CUDA, for benchmarks: times of the device, its bandwidth, what a product without fused kernels does first, cuBLAS.
#include <climits>
#include <memory>
#include <string>

#include "bindings/cuda_blas.h"
#include "bindings/cuda_device.h"
#include "bindings/cuda_graph.h"
#include "bindings/exports.h"
#include "bindings/work.h"

namespace tsq {
namespace {

// Two events of a device.
class Stopwatch {
 public:
  explicit Stopwatch(CudaDevice& device) : device_(device) {}
  ~Stopwatch() {
    for (void* event : {begin_, end_}) {
      if (event != nullptr) (void)device_.ask([&](TsqCudaText reason) { return table().closeEvent(event, reason); });
    }
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  Status open() {
    TSQ_RETURN_IF_ERROR(device_.ask([&](TsqCudaText reason) { return table().openEvent(&begin_, reason); }));
    return device_.ask([&](TsqCudaText reason) { return table().openEvent(&end_, reason); });
  }
  // Of the second of two launches: the device is still busy with the first when it comes, so that its way there is
  // outside.
  Status time(CudaGraph& graph, double* microseconds) {
    TSQ_RETURN_IF_ERROR(graph.launch());
    TSQ_RETURN_IF_ERROR(device_.stamp(begin_));
    TSQ_RETURN_IF_ERROR(graph.launch());
    TSQ_RETURN_IF_ERROR(device_.stamp(end_));
    return device_.ask([&](TsqCudaText reason) { return table().elapsed(begin_, end_, microseconds, reason); });
  }

 private:
  const TsqCuda& table() const { return device_.table(); }

  CudaDevice& device_;
  void *begin_ = nullptr, *end_ = nullptr;
};

Napi::Value cudaTime(Arguments& a) {
  const auto graph = a.object<CudaGraph>(a[0], "graph");
  const View<double> out = a.view<double>(a[1], "out", 1);
  return promise(a, [=]() -> Status {
    Stopwatch watch(*graph->device());
    TSQ_RETURN_IF_ERROR(watch.open());
    for (int64_t i = 0; i < out.length; ++i) TSQ_RETURN_IF_ERROR(watch.time(*graph, out.data + i));
    return {};
  });
}

Napi::Value cudaReadAll(Arguments& a) {
  const auto memory = a.object<CudaMemory>(a[0], "memory");
  const auto sink = a.object<CudaMemory>(a[1], "sink");
  CudaDevice& device = *memory->device;
  if (sink->device != memory->device || sink->bytes < 4 || memory->bytes < 16)
    refuse(Code::kOption, "cudaReadAll: memory has " + std::to_string(memory->bytes) + " bytes and sink " +
                              std::to_string(sink->bytes) + ", expected 16 and 4 or more on one device");
  check(device.ask([&](TsqCudaText reason) {
    return device.table().readAll(memory->data, memory->bytes, sink->data, device.multiprocessors(), device.stream(),
                                  reason);
  }));
  device.keepRecorded({memory, sink});
  return a.env().Undefined();
}

Napi::Value cudaDecode(Arguments& a) {
  const auto codes = a.object<const CudaWeight>(a[0], "codes");
  const auto dense = a.object<const CudaWeight>(a[1], "dense");
  CudaDevice& device = *codes->device;
  if (dense->device != codes->device || dense->shape.bits != 16 || dense->shape.n != codes->shape.n ||
      dense->shape.k != codes->shape.k || codes->order != nullptr || codes->inputScale != nullptr)
    refuse(Code::kOption,
           "cudaDecode: expected codes in their order, without an input scale, and a weight of 16 bits of the same "
           "shape on "
           "one device");
  const TsqCudaDecode decode{codes->shape,
                             codes->codes->data,
                             codes->scales == nullptr ? nullptr : codes->scales->data,
                             codes->zeros == nullptr ? nullptr : codes->zeros->data,
                             dense->codes->data,
                             dense->isBF16,
                             codes->scalesAreBF16};
  check(device.ask([&](TsqCudaText reason) { return device.table().decodeCodes(&decode, device.stream(), reason); }));
  device.keepRecorded({codes, dense});
  return a.env().Undefined();
}

Napi::Value cudaBlasOpen(Arguments& a) {
  const auto device = a.object<CudaDevice>(a[0], "device");
  const std::string name = a.isNull(a[1]) ? std::string() : a.string(a[1], "name");
  return promise(
      a, [=] { return CudaBlas::open(device, name); },
      [](Napi::Env env, std::shared_ptr<CudaBlas>& opened) -> Napi::Value {
        auto made = Napi::Object::New(env);
        made.Set("library", opened->library().path());
        made.Set("version", opened->library().version());
        made.Set("handle", Environment::of(env).hold(opened));
        return made;
      });
}

Napi::Value cudaBlasMultiply(Arguments& a) {
  const auto blas = a.object<CudaBlas>(a[0], "blas");
  BlasProduct p{};
  p.w = a.object<CudaMemory>(a[1], "w");
  p.x = a.object<CudaMemory>(a[2], "x");
  p.isBF16 = a.integer(a[3], "dtype", 1, 2) == 2;
  p.m = a.integer(a[4], "m", 1, INT_MAX);
  p.n = a.integer(a[5], "n", 1, INT_MAX);
  p.k = a.integer(a[6], "k", 1, INT_MAX);
  p.y = a.object<CudaMemory>(a[7], "y");
  const auto check16 = [&](const char* name, const CudaMemory& memory, int64_t rows, int64_t columns) {
    const int64_t bytes = product({rows, columns, 2}, name);
    if (memory.device != blas->device() || memory.bytes < bytes)
      refuse(Code::kOption, std::string("cudaBlasMultiply: ") + name + " has " + std::to_string(memory.bytes) +
                                " bytes on " + memory.device->name() + ", expected at least " + std::to_string(bytes) +
                                " on the device of cuBLAS, " + blas->device()->name());
  };
  check16("w", *p.w, p.n, p.k);
  check16("x", *p.x, p.m, p.k);
  check16("y", *p.y, p.m, p.n);
  if (p.y == p.x || p.y == p.w) refuse(Code::kOption, "cudaBlasMultiply: y is an input too");
  check(blas->multiply(p));
  return a.env().Undefined();
}

constexpr Export kExports[] = {
    {"cudaTime", cudaTime, true},
    {"cudaReadAll", cudaReadAll, false},
    {"cudaDecode", cudaDecode, false},
    {"cudaBlasOpen", cudaBlasOpen, true},
    {"cudaBlasMultiply", cudaBlasMultiply, false},
};

}  // namespace

std::span<const Export> cudaBenchExports() {
  return kExports;
}

}  // namespace tsq
