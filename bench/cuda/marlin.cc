// Times the kernel of IST-DASLab/marlin, built from its own source, as the sweep times ours: f16, groups of 128 or one.
//   marlin, with the options of the sweep
// Beside each time: the error against float64 on a sample of outputs.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <string>

#include "bench/cuda/ceilings.h"
#include "bench/cuda/kernels.h"
#include "bench/cuda/marlin_layout.h"
#include "bench/cuda/options.h"
#include "bench/cuda/report.h"
#include "bench/cuda/timing.h"
#include "runtime/scalar.h"

// Of marlin_cuda_kernel.cu.
int marlin_cuda(const void* a, const void* b, void* c, void* scales, int m, int n, int k, void* workspace,
                int groupsize, int device, cudaStream_t stream, int threadK, int threadN, int sms, int maxPar);

namespace bench {
namespace {

constexpr int kMaxPar = 8;  // Marlin's default: slabs of 64 tokens that run side by side

// ||y - reference|| / ||reference||, the reference in float64, over columns and rows spread over y.
class Sample {
 public:
  Sample(const uint8_t* codes, const uint16_t* scales, int64_t n, int64_t k, int64_t groups) : n_(n), k_(k) {
    for (int i = 0; i < kOutputs; ++i) {
      const int64_t output = i * (n - 1) / (kOutputs - 1);
      std::vector<uint8_t> row(static_cast<size_t>(k));
      std::vector<uint16_t> rowScales(static_cast<size_t>(groups));
      check(cudaMemcpy(row.data(), codes + output * k, row.size(), cudaMemcpyDeviceToHost), "copying back");
      check(cudaMemcpy(rowScales.data(), scales + output * groups, rowScales.size() * 2, cudaMemcpyDeviceToHost),
            "copying back");
      std::vector<double> weights(static_cast<size_t>(k));
      for (int64_t j = 0; j < k; ++j) {
        const double scale = tsq::f16ToFloat(rowScales[static_cast<size_t>(j / (k / groups))]);
        weights[static_cast<size_t>(j)] = scale * (row[static_cast<size_t>(j)] - 8);
      }
      outputs_.push_back(output);
      weights_.push_back(std::move(weights));
    }
  }

  double error(const std::vector<uint16_t>& x, const std::vector<uint16_t>& y, int64_t rows) const {
    double apart = 0, size = 0;
    for (int64_t row = 0; row < rows; ++row) {
      for (size_t i = 0; i < outputs_.size(); ++i) {
        double sum = 0;
        for (int64_t j = 0; j < k_; ++j) {
          sum += weights_[i][static_cast<size_t>(j)] * tsq::f16ToFloat(x[static_cast<size_t>(row * k_ + j)]);
        }
        const double got = tsq::f16ToFloat(y[static_cast<size_t>(row * n_ + outputs_[i])]);
        apart += (got - sum) * (got - sum);
        size += sum * sum;
      }
    }
    return std::sqrt(apart / size);
  }

 private:
  static constexpr int kOutputs = 64;
  int64_t n_, k_;
  std::vector<int64_t> outputs_;
  std::vector<std::vector<double>> weights_;
};

void measureShape(const Options& options, int64_t n, int64_t k, const Ceilings& ceilings, cudaStream_t stream,
                  Report& report, const std::function<bool()>& late) {
  const int64_t groups = k / options.group, weights = n * k;
  DeviceBuffer<uint8_t> codes(static_cast<size_t>(weights));
  DeviceBuffer<uint16_t> rows(static_cast<size_t>(n * groups)), scales(rows.size());
  fillCodes(codes.data(), weights, 3, stream);
  fillScales(rows.data(), n * groups, 0.01f, false, 4, stream);
  packMarlinScales(rows.data(), scales.data(), n, groups, stream);
  const int64_t weightBytes = weights / 2 + n * groups * 2;
  const int copies = coldCopies(weightBytes, ceilings.cacheBytes);
  std::vector<DeviceBuffer<uint32_t>> packed;
  while (static_cast<int>(packed.size()) < copies) {
    packed.emplace_back(static_cast<size_t>(weights / 8));
    packMarlin(codes.data(), packed.back().data(), n, k, stream);
  }
  DeviceBuffer<int> locks(static_cast<size_t>(n / 128 * kMaxPar));
  locks.fill(0);
  check(cudaStreamSynchronize(stream), "packing weights");
  const Sample sample(codes.data(), rows.data(), n, k, groups);

  for (const std::string& count : split(options.m)) {
    const int m = std::stoi(count);
    if (late()) {
      report.skip(std::to_string(k) + "x" + std::to_string(n) + " m=" + count + ": no time left");
      continue;
    }
    DeviceBuffer<uint16_t> x(static_cast<size_t>(m * k)), y(static_cast<size_t>(m * n));
    fillFloats(x.data(), m * k, 1, false, 5, stream);
    y.fill(0xff);
    const Timing timing = measure(stream, copies, options.samples, [&](int copy) {
      const int outcome = marlin_cuda(x.data(), packed[static_cast<size_t>(copy)].data(), y.data(), scales.data(), m,
                                      static_cast<int>(n), static_cast<int>(k), locks.data(),
                                      groups == 1 ? -1 : options.group, 0, stream, -1, -1, -1, kMaxPar);
      if (outcome != 0) throw std::runtime_error("marlin_cuda gives " + std::to_string(outcome));
    });
    const int64_t checked = std::min(m, 16);
    const double error =
        sample.error(x.read(static_cast<size_t>(checked * k)), y.read(static_cast<size_t>(checked * n)), checked);
    report.add({"marlin", "f16", n, k, options.group, m, weightBytes + 2 * m * (n + k), copies, timing, error});
  }
}

void run(const Options& options) {
  const auto begin = std::chrono::steady_clock::now();
  const auto late = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() > options.seconds;
  };
  const Module module(TSQ_CUDA_MODULE);
  const Stream stream;
  Ceilings ceilings = measureCeilings(module.device(), options.samples, stream);
  ceilings.blas = "not used: differences are from float64, on 64 outputs of 16 tokens";
  Report report(options.json, ceilings);
  for (const std::string& text : split(options.shapes)) {
    const auto [k, n] = shapeOf(text);
    if (k % 128 != 0 || n % 256 != 0 || (options.group != 128 && options.group != k)) {
      report.skip(text + ": Marlin takes multiples of 128 for K and of 256 for N, and groups of 128 or K");
    } else if (late()) {
      report.skip(text + ": no time left");
    } else {
      measureShape(options, n, k, ceilings, stream, report, late);
    }
    report.write();
  }
  report.write();
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  try {
    bench::run(bench::parse(argc, argv, "marlin.json"));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "marlin: %s\n", error.what());
    return 1;
  }
}
