#include "bindings/cuda_device.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "bindings/cuda_graph.h"
#include "runtime/scalar.h"

namespace tsq {
namespace {

// Columns in the order of their groups; each group of as many columns as the scheme says.
Result<std::vector<int32_t>> orderOf(const CudaCodes& source) {
  const int64_t k = source.shape.k, size = source.shape.group, groups = (k + size - 1) / size;
  std::vector<int32_t> order(static_cast<size_t>(k));
  std::vector<int64_t> next(static_cast<size_t>(groups));
  for (int64_t group = 0; group < groups; ++group) next[static_cast<size_t>(group)] = group * size;
  for (int64_t column = 0; column < k; ++column) {
    const int32_t group = source.groupIndex[static_cast<size_t>(column)];
    if (group < 0 || group >= groups)
      return Status(Code::kFormat, "groupIndex[" + std::to_string(column) + "] is " + std::to_string(group) +
                                       ", expected 0 to " + std::to_string(groups - 1));
    int64_t& place = next[static_cast<size_t>(group)];
    if (place >= std::min(k, (group + 1) * size))
      return Status(Code::kUnsupported, "groupIndex gives group " + std::to_string(group) + " more than " +
                                            std::to_string(size) + " columns; CUDA kernels take groups of equal size");
    order[static_cast<size_t>(place++)] = static_cast<int32_t>(column);
  }
  return order;
}

// 16-bit scales that are the given ones exactly.
Result<std::vector<uint16_t>> exactScales(const float* scales, size_t count, bool bf16) {
  std::vector<uint16_t> rounded(count);
  for (size_t i = 0; i < count; ++i) {
    rounded[i] = bf16 ? floatToBf16(scales[i]) : floatToF16(scales[i]);
    if (!((bf16 ? bf16ToFloat(rounded[i]) : f16ToFloat(rounded[i])) == scales[i]))
      return Status(Code::kUnsupported, "scale " + std::to_string(i) + " is " + std::to_string(scales[i]) +
                                            ", which is no value of " + (bf16 ? "bf16" : "f16") +
                                            "; CUDA kernels take 16-bit scales: quantize with scaleType \"f16\" or "
                                            "\"bf16\"");
  }
  return rounded;
}

}  // namespace

CudaMemory::~CudaMemory() {
  if (data != nullptr) device->release(data);
}

CudaScratch::~CudaScratch() {
  device->release(data);
}

uint64_t CudaWeight::bytes() const {
  int64_t sum = 0;
  for (const auto& part : {codes, scales, zeros, order, inputScale}) sum += part == nullptr ? 0 : part->bytes;
  return static_cast<uint64_t>(sum);
}

Status CudaDevice::statusOf(int outcome, const std::string& reason) const {
  if (outcome == kTsqCudaOk) return {};
  std::string text = name() + ": " + reason;
  if (outcome == kTsqCudaMemory) text += "; dispose of tensors and weights that are not used any more";
  return Status(outcome == kTsqCudaArgument ? Code::kUnsupported : Code::kDevice, std::move(text));
}

Result<std::shared_ptr<CudaDevice>> CudaDevice::open(const std::string& modulePath, int index) {
  const Result<CudaModule> module = openCudaModule(modulePath);
  if (!module.ok()) return module.status();
  const TsqCuda* table = module.value().table;
  CudaReason reason;
  const int count = table->devices(reason);
  if (count == 0) return Status(Code::kDevice, reason.text());
  if (index >= count)
    return Status(Code::kDevice, count == 1 ? "this machine has cuda:0 only"
                                            : "this machine has cuda:0 to cuda:" + std::to_string(count - 1));
  auto device = std::make_shared<CudaDevice>(table, index);
  TsqCudaDevice found{};
  TSQ_RETURN_IF_ERROR(device->ask([&](TsqCudaText text) { return table->device(index, &found, text); }));
  if (found.major < 8)
    return Status(Code::kDevice, std::string(found.name) + " has compute capability " + std::to_string(found.major) +
                                     "." + std::to_string(found.minor) + ", and the kernels need 8.0 or later");
  device->multiprocessors_ = found.multiprocessors;
  device->memoryBytes_ = found.memoryBytes;
  TSQ_RETURN_IF_ERROR(device->ask([&](TsqCudaText text) { return table->prepare(index, text); }));
  TSQ_RETURN_IF_ERROR(device->ask([&](TsqCudaText text) { return table->openStream(&device->stream_, text); }));
  return device;
}

CudaDevice::~CudaDevice() {
  counters_ = partials_ = scaled_ = nullptr;
  if (stream_ != nullptr) (void)ask([&](TsqCudaText reason) { return table_->closeStream(stream_, reason); });
}

// Where a device was lost there is nobody to tell, and its memory is gone.
void CudaDevice::release(void* memory) {
  if (memory != nullptr) (void)ask([&](TsqCudaText reason) { return table_->release(memory, stream_, reason); });
}

Result<std::shared_ptr<CudaMemory>> CudaDevice::allocate(int64_t bytes) {
  auto memory = std::make_shared<CudaMemory>(shared_from_this(), bytes);
  if (bytes > 0) {
    TSQ_RETURN_IF_ERROR(
        ask([&](TsqCudaText reason) { return table_->allocate(bytes, stream_, &memory->data, reason); }));
  }
  return memory;
}

Result<std::shared_ptr<CudaMemory>> CudaDevice::enqueueUpload(const void* source, int64_t bytes) {
  Result<std::shared_ptr<CudaMemory>> memory = allocate(bytes);
  if (!memory.ok() || bytes == 0) return memory;
  TSQ_RETURN_IF_ERROR(
      ask([&](TsqCudaText reason) { return table_->copy(memory.value()->data, source, bytes, stream_, reason); }));
  return memory;
}

Result<std::shared_ptr<CudaMemory>> CudaDevice::upload(const void* source, int64_t bytes) {
  Result<std::shared_ptr<CudaMemory>> memory = enqueueUpload(source, bytes);
  if (!memory.ok()) return memory;
  TSQ_RETURN_IF_ERROR(ask([&](TsqCudaText reason) { return table_->wait(stream_, reason); }));
  return memory;
}

Status CudaDevice::download(const CudaMemory& source, void* target, int64_t bytes) {
  return ask([&](TsqCudaText reason) {
    const int outcome = bytes == 0 ? kTsqCudaOk : table_->copy(target, source.data, bytes, stream_, reason);
    return outcome == kTsqCudaOk ? table_->wait(stream_, reason) : outcome;
  });
}

Status CudaDevice::write(const CudaMemory& target, const void* source, int64_t bytes) {
  return ask([&](TsqCudaText reason) {
    const int outcome = bytes == 0 ? kTsqCudaOk : table_->copy(target.data, source, bytes, stream_, reason);
    return outcome == kTsqCudaOk ? table_->wait(stream_, reason) : outcome;
  });
}

Result<std::shared_ptr<CudaMemory>> CudaDevice::packScales(const TsqCudaShape& shape,
                                                           const std::vector<uint16_t>& values, int64_t bytes) {
  const auto rows = enqueueUpload(values.data(), static_cast<int64_t>(values.size() * sizeof(uint16_t)));
  if (!rows.ok()) return rows.status();
  auto packed = allocate(bytes);
  if (!packed.ok()) return packed;
  const TsqCudaPack pack{shape, rows.value()->data, nullptr, packed.value()->data};
  TSQ_RETURN_IF_ERROR(ask([&](TsqCudaText reason) { return table_->packScales(&pack, stream_, reason); }));
  return packed;
}

Result<std::shared_ptr<const CudaWeight>> CudaDevice::pack(const CudaCodes& source) {
  const TsqCudaShape& shape = source.shape;
  auto weight = std::make_shared<CudaWeight>();
  weight->device = shared_from_this();
  weight->shape = shape;
  weight->scalesAreBF16 = source.scalesAreBF16;
  TsqCudaSizes sizes{};
  TSQ_RETURN_IF_ERROR(ask([&](TsqCudaText reason) { return table_->sizes(&shape, 1, 1, &sizes, reason); }));
  weight->blocks = table_->blocksFor(&shape, multiprocessors_);

  const auto count = static_cast<size_t>(shape.n * ((shape.k + shape.group - 1) / shape.group));
  const int64_t elements = shape.n * shape.k;
  if (const uint8_t* wrong =
          std::find_if(source.codes, source.codes + elements, [&](uint8_t code) { return code >> source.bits != 0; });
      wrong != source.codes + elements)
    return Status(Code::kFormat, "code " + std::to_string(wrong - source.codes) + " is " + std::to_string(*wrong) +
                                     ", which does not fit into " + std::to_string(source.bits) + " bits");
  // Symmetric codes are stored with the zero point of the bits that the kernels have.
  const uint8_t* codes = source.codes;
  std::vector<uint8_t> shifted;
  if (source.zeros == nullptr && source.bits != shape.bits) {
    const int shift = (1 << (shape.bits - 1)) - (1 << (source.bits - 1));
    shifted.resize(static_cast<size_t>(elements));
    std::transform(codes, codes + elements, shifted.begin(),
                   [&](uint8_t code) { return static_cast<uint8_t>(code + shift); });
    codes = shifted.data();
  }
  Result<std::vector<uint16_t>> scales = exactScales(source.scales, count, source.scalesAreBF16);
  if (!scales.ok()) return scales.status();
  std::vector<uint16_t> zeros(source.zeros == nullptr ? 0 : count);
  for (size_t i = 0; i < zeros.size(); ++i) zeros[i] = floatToF16(source.zeros[i]);
  weight->scalesAreModerate = std::all_of(source.scales, source.scales + count, [](float scale) {
    return scale == 0 || (std::abs(scale) >= 0x1p-40f && std::abs(scale) <= 0x1p40f);
  });
  weight->zerosAreIntegers = zeros.empty() || *std::max_element(source.zeros, source.zeros + count) <= 15;
  Result<std::vector<int32_t>> order = std::vector<int32_t>();
  if (!source.groupIndex.empty()) order = orderOf(source);
  if (!order.ok()) return order.status();

  const auto enqueue = [&]() -> Status {
    if (!order.value().empty()) {
      auto uploaded = enqueueUpload(order.value().data(), shape.k * static_cast<int64_t>(sizeof(int32_t)));
      TSQ_RETURN_IF_ERROR(uploaded.status());
      weight->order = uploaded.value();
    }
    if (source.inputScale != nullptr) {
      auto uploaded = enqueueUpload(source.inputScale, shape.k * static_cast<int64_t>(sizeof(float)));
      TSQ_RETURN_IF_ERROR(uploaded.status());
      weight->inputScale = uploaded.value();
    }
    const auto rows = enqueueUpload(codes, elements);
    TSQ_RETURN_IF_ERROR(rows.status());
    auto packed = allocate(sizes.weightBytes);
    TSQ_RETURN_IF_ERROR(packed.status());
    weight->codes = packed.value();
    const TsqCudaPack pack{shape, rows.value()->data,
                           weight->order == nullptr ? nullptr : static_cast<const int32_t*>(weight->order->data),
                           weight->codes->data};
    TSQ_RETURN_IF_ERROR(ask([&](TsqCudaText reason) { return table_->packCodes(&pack, stream_, reason); }));
    auto packedScales = packScales(shape, scales.value(), sizes.scaleBytes);
    TSQ_RETURN_IF_ERROR(packedScales.status());
    weight->scales = packedScales.value();
    if (zeros.empty()) return {};
    auto packedZeros = packScales(shape, zeros, sizes.scaleBytes);
    TSQ_RETURN_IF_ERROR(packedZeros.status());
    weight->zeros = packedZeros.value();
    return {};
  };
  const Status enqueued = enqueue();
  // In any case: what was enqueued reads memory of this call.
  const Status waited = ask([&](TsqCudaText reason) { return table_->wait(stream_, reason); });
  TSQ_RETURN_IF_ERROR(enqueued);
  TSQ_RETURN_IF_ERROR(waited);
  return std::shared_ptr<const CudaWeight>(std::move(weight));
}

Result<std::shared_ptr<const CudaWeight>> CudaDevice::packFloats(const CudaMemory& source, bool isBF16, int64_t n,
                                                                 int64_t k) {
  auto weight = std::make_shared<CudaWeight>();
  weight->device = shared_from_this();
  weight->shape = {n, k, k, 16};
  weight->isBF16 = isBF16;
  TsqCudaSizes sizes{};
  TSQ_RETURN_IF_ERROR(ask([&](TsqCudaText reason) { return table_->sizes(&weight->shape, 1, 1, &sizes, reason); }));
  weight->blocks = table_->blocksFor(&weight->shape, multiprocessors_);
  auto packed = allocate(sizes.weightBytes);
  TSQ_RETURN_IF_ERROR(packed.status());
  weight->codes = packed.value();
  const TsqCudaPack pack{weight->shape, source.data, nullptr, weight->codes->data};
  TSQ_RETURN_IF_ERROR(ask([&](TsqCudaText reason) { return table_->packCodes(&pack, stream_, reason); }));
  TSQ_RETURN_IF_ERROR(ask([&](TsqCudaText reason) { return table_->wait(stream_, reason); }));
  return std::shared_ptr<const CudaWeight>(std::move(weight));
}

// The workspace grows in the stream's order: products that are under way keep what they have.
Status CudaDevice::reserve(std::shared_ptr<CudaScratch>* scratch, int64_t bytes, bool* fresh) {
  if (*scratch != nullptr && (*scratch)->bytes >= bytes) return {};
  *scratch = nullptr;
  auto grown = std::make_shared<CudaScratch>(this, bytes);
  if (bytes > 0) {
    TSQ_RETURN_IF_ERROR(
        ask([&](TsqCudaText reason) { return table_->allocate(bytes, stream_, &grown->data, reason); }));
  }
  *scratch = std::move(grown);
  if (fresh != nullptr) *fresh = true;
  return {};
}

void* CudaDevice::stream() const {
  return recording_ == nullptr ? stream_ : recording_->stream();
}

void CudaDevice::keepRecorded(std::initializer_list<std::shared_ptr<const void>> used) {
  if (recording_ == nullptr) return;
  for (const auto& each : used) recording_->keep(each);
}

Status CudaDevice::launch(void* graph) {
  return ask([&](TsqCudaText reason) { return table_->launchGraph(graph, stream_, reason); });
}

Status CudaDevice::stamp(void* event) {
  return ask([&](TsqCudaText reason) { return table_->record(event, stream_, reason); });
}

Result<std::shared_ptr<CudaMemory>> CudaDevice::multiply(const CudaProduct& product) {
  const CudaWeight& weight = *product.weight;
  const TsqCudaShape& shape = weight.shape;
  const int32_t m = product.m;
  std::shared_ptr<CudaMemory> y = product.y;
  if (y == nullptr) {
    const auto made = allocate(m * shape.n * static_cast<int64_t>(sizeof(uint16_t)));
    TSQ_RETURN_IF_ERROR(made.status());
    y = made.value();
  }
  if (m == 0) return y;
  TsqCudaSizes sizes{};
  TSQ_RETURN_IF_ERROR(ask([&](TsqCudaText reason) { return table_->sizes(&shape, m, weight.blocks, &sizes, reason); }));
  bool fresh = false;
  TSQ_RETURN_IF_ERROR(reserve(&counters_, sizes.counterBytes, &fresh));
  if (fresh) {
    const Status cleared =
        ask([&](TsqCudaText reason) { return table_->clear(counters_->data, counters_->bytes, stream_, reason); });
    if (!cleared.ok()) counters_ = nullptr;
    TSQ_RETURN_IF_ERROR(cleared);
  }
  TSQ_RETURN_IF_ERROR(reserve(&partials_, sizes.partialBytes));
  const void* x = product.x->data;
  if (weight.inputScale != nullptr) {
    TSQ_RETURN_IF_ERROR(reserve(&scaled_, m * shape.k * static_cast<int64_t>(sizeof(uint16_t))));
    const TsqCudaColumns columns{
        x, static_cast<const float*>(weight.inputScale->data), scaled_->data, m, shape.k, product.isBF16};
    TSQ_RETURN_IF_ERROR(ask([&](TsqCudaText reason) { return table_->scaleColumns(&columns, stream(), reason); }));
    // Already here: it stays in the graph where the product itself is refused and the caller goes on.
    keepRecorded({product.weight, product.x, scaled_});
    x = scaled_->data;
  }
  const auto dataOf = [](const auto& memory) -> void* { return memory == nullptr ? nullptr : memory->data; };
  TsqCudaW4A16 gemm{};
  gemm.shape = shape;
  gemm.weights = weight.codes->data;
  gemm.scales = dataOf(weight.scales);
  gemm.zeros = dataOf(weight.zeros);
  gemm.x = x;
  gemm.order = static_cast<const int32_t*>(dataOf(weight.order));
  gemm.bias = dataOf(product.bias);
  gemm.y = y->data;
  gemm.counters = counters_->data;
  gemm.partials = partials_->data;
  gemm.strideX = shape.k;
  gemm.strideY = shape.n;
  gemm.m = m;
  gemm.blocks = weight.blocks;
  gemm.isBF16 = product.isBF16;
  gemm.scalesAreBF16 = weight.scalesAreBF16;
  gemm.zerosAreIntegers = weight.zerosAreIntegers;
  gemm.scalesAreModerate = weight.scalesAreModerate;
  gemm.batchInvariant = product.batchInvariant;
  TSQ_RETURN_IF_ERROR(ask([&](TsqCudaText reason) { return table_->w4a16(&gemm, stream(), reason); }));
  keepRecorded({product.weight, product.x, product.bias, y, counters_, partials_, scaled_});
  return y;
}

}  // namespace tsq
