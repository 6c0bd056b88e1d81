// One W4A16 product of random contents on the device, through the table of the module.
#pragma once
#include <memory>
#include <optional>

#include "bench/cuda/device.h"
#include "cuda/w4a16/pack_host.h"
#include "w4a16_data.h"

namespace w4a16_test {

inline bench::Module& module() {
  static bench::Module opened(TSQ_CUDA_MODULE);
  return opened;
}

constexpr size_t kGuard = 1024;  // elements around y that nobody may touch

// Everything of a product, in memory of the device.
class Product {
 public:
  // Without `blocks`: as many as the case says.
  Product(const Case& what, const Data& data, std::optional<int> blocks = {})
      : c(what),
        shape{c.shape.n, c.shape.k, c.shape.group, c.shape.bits, c.shape.book},
        codes(data.codes),
        rows(data.weights),
        scaleRows(data.scales),
        zeroRows(data.zeros),
        x(data.x),
        bias(data.bias),
        order(data.order),
        packed(module(), shape, scaled() ? static_cast<const void*>(codes.data()) : rows.data(),
               c.order ? order.data() : nullptr, scaleRows.data(), c.zeros ? zeroRows.data() : nullptr, nullptr),
        work(module(), shape, c.m, blocks.value_or(c.blocks)),
        y(2 * kGuard + static_cast<size_t>(c.m) * rowY()) {
    check::report(equal(packed.weights, scaled() ? packCodesOnHost(c.shape, data.codes, data.order)
                                                 : packCodesOnHost(c.shape, data.weights, data.order)) &&
                      equal(packed.scales, packScalesOnHost(c.shape, data.scales)) &&
                      (!c.zeros || equal(packed.zeros, packScalesOnHost(c.shape, data.zeros))),
                  __FILE__, __LINE__, describe(c) + ": packed as on the host");
    gemm.shape = shape;
    gemm.weights = packed.weights.data();
    gemm.scales = packed.scales.data();
    gemm.zeros = packed.zeros.data();
    gemm.x = x.data();
    gemm.order = c.order ? order.data() : nullptr;
    gemm.bias = bias.data();
    gemm.y = y.data() + kGuard;
    gemm.counters = work.counters.data();
    gemm.partials = work.partials.data();
    gemm.strideX = c.shape.k + c.padX;
    gemm.strideY = static_cast<int64_t>(rowY());
    gemm.m = c.m;
    gemm.blocks = blocks.value_or(c.blocks);
    gemm.isBF16 = c.type == Type::kBF16;
    gemm.scalesAreBF16 = c.scalesAreBF16;
    gemm.zerosAreIntegers = gemm.scalesAreModerate = 1;
    gemm.batchInvariant = !c.wide;  // the kernels for few tokens for many too
    if (c.shape.book) module().call(module()->makeBook(*c.book, gemm.isBF16, &gemm.book, module().reason()));
    y.fill(0xff);
  }

  int launch(cudaStream_t stream) { return module()->w4a16(&gemm, stream, module().reason()); }

  // The rows of y, after everything launched so far.
  std::vector<uint16_t> result() const {
    const std::vector<uint16_t> all = y.read();
    return {all.begin() + kGuard, all.end() - kGuard};
  }

  // Runs once and compares; outputs in steps, where float64 would take too long for all.
  void verify(const Data& data, cudaStream_t stream, int64_t step = 1) {
    if (!CHECK_MSG(launch(stream) == kTsqCudaOk, describe(c) + ": " + module().reason().text)) return;
    checkErrors(c, data, result(), step);
    const std::vector<uint16_t> all = y.read();
    bool exact = true;  // NaN of these bits is no result
    for (size_t i = 0; i < all.size(); ++i) {
      const bool inside =
          i >= kGuard && i < all.size() - kGuard && (i - kGuard) % rowY() < static_cast<size_t>(c.shape.n);
      exact = exact && (all[i] != 0xffff) == inside;
    }
    CHECK_MSG(exact, describe(c) + ": y written exactly inside its rows");
    for (const int counter : work.counters.read()) CHECK_MSG(counter == 0, describe(c) + ": counters are zero again");
  }

  const Case c;
  TsqCudaW4A16 gemm{};

 private:
  bool scaled() const { return c.shape.bits < 16; }
  size_t rowY() const { return static_cast<size_t>(c.shape.n + c.padY); }
  template <typename T>
  static bool equal(const bench::DeviceBuffer<uint8_t>& got, const std::vector<T>& want) {
    const std::vector<uint8_t> bytes = got.read();
    return bytes.size() == want.size() * sizeof(T) && std::memcmp(bytes.data(), want.data(), bytes.size()) == 0;
  }

  TsqCudaShape shape;
  bench::DeviceBuffer<uint8_t> codes;
  bench::DeviceBuffer<uint16_t> rows, scaleRows, zeroRows, x, bias;
  bench::DeviceBuffer<int32_t> order;
  bench::PackedWeight packed;
  bench::Workspace work;
  bench::DeviceBuffer<uint16_t> y;
};

}  // namespace w4a16_test
