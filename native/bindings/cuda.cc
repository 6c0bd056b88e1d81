// CUDA: what the module tells of the machine, memory of a device, and products there.
#include <climits>
#include <memory>
#include <utility>

#include "bindings/cuda_device.h"
#include "bindings/cuda_graph.h"
#include "bindings/exports.h"
#include "bindings/work.h"

namespace tsq {
namespace {

Napi::Object describe(Napi::Env env, const TsqCudaDevice& device) {
  auto object = Napi::Object::New(env);
  object.Set("name", device.name);
  object.Set("major", device.major);
  object.Set("minor", device.minor);
  object.Set("multiprocessors", device.multiprocessors);
  object.Set("memoryBytes", static_cast<double>(device.memoryBytes));
  object.Set("cacheBytes", static_cast<double>(device.cacheBytes));
  return object;
}

Napi::Value cuda(Arguments& a) {
  const auto info = Napi::Object::New(a.env());
  const auto devices = Napi::Array::New(a.env());
  info.Set("module", a.env().Null());
  info.Set("devices", devices);
  info.Set("reason", "");
  const Result<CudaModule> module = openCudaModule(a.isNull(a[0]) ? std::string() : a.string(a[0], "module"));
  if (!module.ok()) {
    info.Set("reason", module.status().message());
    return info;
  }
  const TsqCuda& table = *module.value().table;
  info.Set("module", module.value().path);
  CudaReason reason;
  const int count = table.devices(reason);
  for (int i = 0; i < count; ++i) {
    TsqCudaDevice device{};
    if (table.device(i, &device, reason) != kTsqCudaOk)
      break;  // a device that was lost: all are, and the reason says so
    devices.Set(static_cast<uint32_t>(i), describe(a.env(), device));
  }
  info.Set("reason", reason.text());
  return info;
}

// A promise of a handle: `make` gives a Result of a shared pointer, in a worker.
template <typename Make>
Napi::Value handlePromise(Arguments& a, Make make) {
  return promise(a, std::move(make), [](Napi::Env env, auto& made) { return Environment::of(env).hold(made); });
}

Napi::Value cudaOpen(Arguments& a) {
  const std::string module = a.isNull(a[0]) ? std::string() : a.string(a[0], "module");
  const auto index = static_cast<int>(a.integer(a[1], "index", 0, INT_MAX));
  return handlePromise(a, [=] { return CudaDevice::open(module, index); });
}

Napi::Value cudaUpload(Arguments& a) {
  const auto device = a.object<CudaDevice>(a[0], "device");
  const Dtype dtype = a.dtype(a[2], "dtype");
  const int64_t count = a.integer(a[3], "count");
  const Source source = a.source(a[1], "source", dtype, count);
  const int64_t bytes = product({count, dtypeBytes(dtype)}, "source");
  return handlePromise(a, [=] { return device->upload(source.data, bytes); });
}

Napi::Value cudaDownload(Arguments& a) {
  const auto memory = a.object<CudaMemory>(a[0], "memory");
  void* target = a.bytes(a[1], "out", memory->bytes);
  return promise(a, [=]() -> Status { return memory->device->download(*memory, target, memory->bytes); });
}

Napi::Value cudaPackCodes(Arguments& a) {
  const auto device = a.object<CudaDevice>(a[0], "device");
  CudaCodes source{};
  source.shape.n = a.integer(a[2], "n", 1);
  source.shape.k = a.integer(a[3], "k", 1);
  source.bits = static_cast<int32_t>(a.integer(a[4], "bits", 2, 8));
  source.shape.bits = source.bits <= 4 ? 4 : 8;
  source.shape.group = a.integer(a[5], "groupSize", 1);
  const int64_t groups = product({source.shape.n, groupCount(source.shape.k, source.shape.group)}, "scales");
  source.codes = a.view<uint8_t>(a[1], "codes", product({source.shape.n, source.shape.k}, "codes")).data;
  source.scales = a.view<float>(a[6], "scales", groups).data;
  source.scalesAreBF16 = a.boolean(a[7], "scalesAreBF16");
  source.zeros = a.optionalView<uint8_t>(a[8], "zeros", groups).data;
  if (!a.isNull(a[9])) {
    source.groupIndex = a.copy<int32_t>(a[9], "groupIndex");
    if (static_cast<int64_t>(source.groupIndex.size()) != source.shape.k)
      refuse(Code::kShape, "cudaPackCodes: groupIndex has " + std::to_string(source.groupIndex.size()) +
                               " elements, expected k = " + std::to_string(source.shape.k));
  }
  source.inputScale = a.optionalView<float>(a[10], "inputScale", source.shape.k).data;
  return handlePromise(a, [=] { return device->pack(source); });
}

void checkBytes(const char* caller, const char* name, const CudaMemory& memory, int64_t bytes) {
  if (memory.bytes < bytes)
    refuse(Code::kShape, std::string(caller) + ": " + name + " has " + std::to_string(memory.bytes) +
                             " bytes, expected at least " + std::to_string(bytes));
}

Napi::Value cudaPackFloats(Arguments& a) {
  const auto source = a.object<CudaMemory>(a[0], "source");
  const bool isBF16 = a.integer(a[1], "dtype", 1, 2) == 2;
  const int64_t n = a.integer(a[2], "n", 1), k = a.integer(a[3], "k", 1);
  checkBytes(a.target().name, "source", *source, product({n, k, 2}, "source"));
  return handlePromise(a, [=] { return source->device->packFloats(*source, isBF16, n, k); });
}

std::shared_ptr<CudaMemory> operand(Arguments& a, Napi::Value value, const char* name, const CudaWeight& weight,
                                    int64_t bytes) {
  auto memory = a.object<CudaMemory>(value, name);
  if (memory->device != weight.device)
    refuse(Code::kDevice, std::string(name) + " lies on " + memory->device->name() + " and the weight on " +
                              weight.device->name() + " of one process: move one to the other's device");
  checkBytes(a.target().name, name, *memory, bytes);
  return memory;
}

// Arguments 0 … 5: weight, x, dtype, m, bias, batchInvariant.
CudaProduct productOf(Arguments& a) {
  CudaProduct p{};
  p.weight = a.object<const CudaWeight>(a[0], "weight");
  const TsqCudaShape& shape = p.weight->shape;
  p.isBF16 = a.integer(a[2], "dtype", 1, 2) == 2;
  p.m = static_cast<int32_t>(a.integer(a[3], "m", 0, INT_MAX));
  if (shape.bits == 16 && p.isBF16 != p.weight->isBF16)
    refuse(Code::kDtype, std::string(a.target().name) + ": x is not of the weight's type");
  (void)product({p.m, shape.n, 2}, "the result");
  p.x = operand(a, a[1], "x", *p.weight, product({p.m, shape.k, 2}, "x"));
  if (!a.isNull(a[4])) p.bias = operand(a, a[4], "bias", *p.weight, shape.n * 2);
  p.batchInvariant = a.boolean(a[5], "batchInvariant");
  return p;
}

Napi::Value cudaMatmul(Arguments& a) {
  const CudaProduct p = productOf(a);
  return a.environment().hold(take(p.weight->device->multiply(p)));
}

Napi::Value cudaMatmulInto(Arguments& a) {
  CudaProduct p = productOf(a);
  p.y = operand(a, a[6], "out", *p.weight, product({p.m, p.weight->shape.n, 2}, "out"));
  if (p.y == p.x || p.y == p.bias) refuse(Code::kOption, "cudaMatmulInto: out is an input too");
  check(p.weight->device->multiply(p).status());
  return a.env().Undefined();
}

Napi::Value cudaWrite(Arguments& a) {
  const auto memory = a.object<CudaMemory>(a[0], "memory");
  const Dtype dtype = a.dtype(a[2], "dtype");
  const int64_t count = a.integer(a[3], "count");
  const Source source = a.source(a[1], "source", dtype, count);
  const int64_t bytes = product({count, dtypeBytes(dtype)}, "source");
  checkBytes(a.target().name, "memory", *memory, bytes);
  return promise(a, [=]() -> Status { return memory->device->write(*memory, source.data, bytes); });
}

Napi::Value cudaRecord(Arguments& a) {
  return a.environment().hold(take(CudaGraph::record(a.object<CudaDevice>(a[0], "device"))));
}

Napi::Value cudaEndRecord(Arguments& a) {
  check(a.object<CudaGraph>(a[0], "graph")->end());
  return a.env().Undefined();
}

Napi::Value cudaLaunch(Arguments& a) {
  check(a.object<CudaGraph>(a[0], "graph")->launch());
  return a.env().Undefined();
}

constexpr Export kExports[] = {
    {"cuda", cuda, false},
    {"cudaOpen", cudaOpen, true},
    {"cudaUpload", cudaUpload, true},
    {"cudaDownload", cudaDownload, true},
    {"cudaPackCodes", cudaPackCodes, true},
    {"cudaPackFloats", cudaPackFloats, true},
    {"cudaMatmul", cudaMatmul, false},
    {"cudaMatmulInto", cudaMatmulInto, false},
    {"cudaWrite", cudaWrite, true},
    {"cudaRecord", cudaRecord, false},
    {"cudaEndRecord", cudaEndRecord, false},
    {"cudaLaunch", cudaLaunch, false},
};

}  // namespace

std::span<const Export> cudaExports() {
  return kExports;
}

}  // namespace tsq
