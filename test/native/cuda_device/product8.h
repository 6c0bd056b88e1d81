// One W8A8 product of random contents on the device, through the table of the module, from rows to y.
#pragma once
#include <cstring>

#include "bench/cuda/device.h"
#include "w8a8_data.h"

namespace w8a8_test {

inline bench::Module& module() {
  static bench::Module opened(TSQ_CUDA_MODULE);
  return opened;
}

constexpr size_t kGuard = 1024;  // elements around y that nobody may touch

class Product {
 public:
  Product(const Case& what, const Data& data, int blocksOrZero = 0)
      : c(what),
        shape{c.n, c.k, c.type == Type::kS8 ? kTsqCudaS8 : kTsqCudaE4M3, c.block ? 1 : 0},
        blocks(blocksOrZero > 0 ? blocksOrZero : module()->w8a8BlocksFor(&shape, module().device().multiprocessors)),
        sizes(sizesOf()),
        x(data.x),
        bias(data.bias),
        rows(data.weights),
        rowScales(data.scales),
        given(std::vector<float>{data.given}),
        weights(static_cast<size_t>(sizes.weightBytes)),
        scales(static_cast<size_t>(sizes.scaleBytes)),
        sums(static_cast<size_t>(sizes.sumBytes)),
        codes(static_cast<size_t>(sizes.activationBytes)),
        activationScales(static_cast<size_t>(sizes.activationScaleBytes)),
        zeros(static_cast<size_t>(sizes.zeroBytes)),
        partials(static_cast<size_t>(sizes.partialBytes)),
        counters(static_cast<size_t>(sizes.counterBytes) / sizeof(int)),
        y(2 * kGuard + static_cast<size_t>(c.m) * rowY()) {
    const TsqCudaW8A8Pack pack{shape,          rows.data(),      c.flipped,
                               kTsqCudaF32,    rowScales.data(), c.one,
                               weights.data(), scales.data(),    c.shifted ? sums.data() : nullptr};
    module().call(module()->w8a8Pack(&pack, nullptr, module().reason()));
    quantizing = {shape,
                  x.data(),
                  c.given ? given.data() : nullptr,
                  codes.data(),
                  activationScales.data(),
                  c.shifted ? zeros.data() : nullptr,
                  c.k + c.padX,
                  c.m,
                  c.bf16};
    gemm.shape = shape;
    gemm.weights = weights.data();
    gemm.scales = scales.data();
    gemm.sums = c.shifted ? sums.data() : nullptr;
    gemm.codes = codes.data();
    gemm.activationScales = activationScales.data();
    gemm.zeros = quantizing.zeros;
    gemm.bias = bias.data();
    gemm.y = y.data() + kGuard;
    gemm.counters = counters.data();
    gemm.partials = partials.data();
    gemm.strideY = static_cast<int64_t>(rowY());
    gemm.m = c.m;
    gemm.blocks = blocks;
    gemm.isBF16 = c.bf16;
    y.fill(0xff);
    partials.fill(0xff);  // NaN: nothing may be read before it was written
    counters.fill(0);
  }

  int launch(cudaStream_t stream) {
    const int outcome = module()->w8a8Quantize(&quantizing, stream, module().reason());
    return outcome == kTsqCudaOk ? module()->w8a8(&gemm, stream, module().reason()) : outcome;
  }

  // The rows of y, after everything launched so far.
  std::vector<uint16_t> result() const {
    const std::vector<uint16_t> all = y.read();
    return {all.begin() + kGuard, all.end() - kGuard};
  }

  // Runs once and compares, codes of activations bit by bit; outputs in steps, where float64 would take too long.
  void verify(const Data& data, cudaStream_t stream, int64_t step = 1) {
    if (!CHECK_MSG(launch(stream) == kTsqCudaOk, describe(c) + ": " + module().reason().text)) return;
    const Quantized want = quantize(c, data);
    checkCodes(want);
    const double worst = worstError(c, data, want, result(), step);
    CHECK_MSG(worst <= 1, describe(c) + ": " + std::to_string(worst) + " of the bound");
    const std::vector<uint16_t> all = y.read();
    bool exact = true;  // NaN of these bits is no result
    for (size_t i = 0; i < all.size(); ++i) {
      const bool inside = i >= kGuard && i < all.size() - kGuard && (i - kGuard) % rowY() < static_cast<size_t>(c.n);
      exact = exact && (all[i] != 0xffff) == inside;
    }
    CHECK_MSG(exact, describe(c) + ": y written exactly inside its rows");
    for (const int counter : counters.read()) CHECK_MSG(counter == 0, describe(c) + ": counters are zero again");
  }

  const Case c;
  TsqCudaW8A8Quantize quantizing{};
  TsqCudaW8A8 gemm{};

 private:
  size_t rowY() const { return static_cast<size_t>(c.n + c.padY); }
  TsqCudaW8A8Sizes sizesOf() const {
    TsqCudaW8A8Sizes found{};
    module().call(module()->w8a8Sizes(&shape, c.m, blocks, &found, module().reason()));
    return found;
  }
  void checkCodes(const Quantized& want) const {
    const std::vector<uint8_t> got = codes.read();
    const int padded = rowsOf(c.m);
    bool same = true;
    for (int64_t i = 0; i < c.m * c.k; ++i) {
      const auto row = static_cast<int>(i / c.k);
      const int64_t k = i % c.k;
      same = same && got[static_cast<size_t>(activationWord(padded, row, k / 16) * 16 + k % 16)] ==
                         want.codes[static_cast<size_t>(i)];
    }
    CHECK_MSG(same, describe(c) + ": activations as plain code quantizes them");
  }

  TsqCudaW8A8Shape shape;
  int blocks;
  TsqCudaW8A8Sizes sizes;
  bench::DeviceBuffer<uint16_t> x, bias;
  bench::DeviceBuffer<uint8_t> rows;
  bench::DeviceBuffer<float> rowScales, given;
  bench::DeviceBuffer<uint8_t> weights, scales, sums, codes, activationScales, zeros, partials;
  bench::DeviceBuffer<int> counters;
  bench::DeviceBuffer<uint16_t> y;
};

}  // namespace w8a8_test
