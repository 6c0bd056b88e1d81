// Times W4A16 with integers and with a code book, W8A16 and 16-bit weights beside cuBLAS and beside dequantizing and
// then cuBLAS, over shapes and tokens; and W8A8, with and without the quantization of activations. All have the same
// weights, those of W8A8 rounded.
//   sweep [--json FILE] [--shapes KxN,...] [--m M,...] [--group G] [--samples S] [--seconds T]
// Cells begin within --seconds; what is left then is reported as not measured.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "bench/cuda/ceilings.h"
#include "bench/cuda/eight.h"
#include "bench/cuda/kernels.h"
#include "bench/cuda/options.h"
#include "bench/cuda/report.h"
#include "bench/cuda/timing.h"
#include "bindings/cublas.h"
#include "runtime/scalar.h"

namespace bench {
namespace {

// ||a - b|| / ||b||
double difference(const std::vector<uint16_t>& a, const std::vector<uint16_t>& b, bool bf16) {
  const auto decode = [&](uint16_t bits) -> double { return bf16 ? tsq::bf16ToFloat(bits) : tsq::f16ToFloat(bits); };
  double apart = 0, size = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    apart += (decode(a[i]) - decode(b[i])) * (decode(a[i]) - decode(b[i]));
    size += decode(b[i]) * decode(b[i]);
  }
  return std::sqrt(apart / size);
}

class Sweep {
 public:
  explicit Sweep(const Options& options) : options_(options), module_(TSQ_CUDA_MODULE) {
    check(cudaDeviceGetAttribute(&cacheBytes_, cudaDevAttrL2CacheSize, 0), "asking for the size of the cache");
    const char* name = std::getenv("TSQ_CUBLAS");
    const auto opened = tsq::CuBlas::open(name == nullptr ? "" : name);
    if (!opened.ok()) {
      noBlas_ = opened.status().message();
      return;
    }
    blas_ = opened.value();
    workspace_ = DeviceBuffer<uint8_t>(tsq::CuBlas::kWorkspaceBytes);
    blas_->useWorkspace(workspace_.data(), tsq::CuBlas::kWorkspaceBytes);
  }

  void run() {
    Report report(options_.json, ceilings());
    for (const std::string& shape : split(options_.shapes)) {
      const auto [k, n] = shapeOf(shape);
      for (const bool bf16 : {false, true}) {
        if (late()) {
          report.skip(shape + (bf16 ? " bf16" : " f16") + ": no time left");
        } else {
          measureShape(n, k, bf16, report);
        }
      }
      report.write();
    }
    if (blas_ == nullptr) report.skip("cuBLAS and what needs it: " + noBlas_);
    report.write();
  }

 private:
  bool late() const {
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin_;
    return spent.count() > options_.seconds;
  }

  static void demand(const tsq::Status& status) {
    if (!status.ok()) throw std::runtime_error(status.message());
  }
  void multiply(const void* w, const void* x, void* y, int64_t m, int64_t n, int64_t k, bool bf16) {
    demand(blas_->multiply(bf16 ? tsq::BlasType::kBF16 : tsq::BlasType::kF16, w, x, y, m, n, k, stream_));
  }

  Ceilings ceilings() {
    Ceilings c = measureCeilings(module_.device(), options_.samples, stream_);
    if (blas_ == nullptr) {
      c.blas = "none (" + noBlas_ + ")";
      return c;
    }
    c.blas = std::to_string(blas_->version()) + " from " + blas_->path();
    constexpr int64_t kSide = 8192;
    DeviceBuffer<uint16_t> a(kSide * kSide), b(kSide * kSide), y(kSide * kSide);
    for (const bool bf16 : {false, true}) {
      fillFloats(a.data(), kSide * kSide, 1, bf16, 1, stream_);
      fillFloats(b.data(), kSide * kSide, 1, bf16, 2, stream_);
      const Timing t = measure(stream_, 1, options_.samples,
                               [&](int) { multiply(a.data(), b.data(), y.data(), kSide, kSide, kSide, bf16); });
      (bf16 ? c.flopsBF16 : c.flopsF16) = 2.0 * kSide * kSide * kSide / t.median * 1e6;
    }
    return c;
  }

  int copiesOf(size_t bytes) const { return coldCopies(static_cast<int64_t>(bytes), cacheBytes_); }

  // The first copy, and others at other addresses.
  template <typename T>
  std::vector<DeviceBuffer<T>> copiesFrom(DeviceBuffer<T> first, int count) {
    std::vector<DeviceBuffer<T>> all;
    all.push_back(std::move(first));
    while (static_cast<int>(all.size()) < count) {
      DeviceBuffer<T> next(all[0].size());
      if (next.size() > 0) {
        check(cudaMemcpyAsync(next.data(), all[0].data(), next.bytes(), cudaMemcpyDeviceToDevice, stream_), "copying");
      }
      all.push_back(std::move(next));
    }
    return all;
  }

  // A packed weight in copies.
  struct Ours {
    const char* name;
    TsqCudaShape shape;
    std::vector<DeviceBuffer<uint8_t>> weights, scales;
    size_t bytes;
    TsqCudaBook book;
  };
  Ours pack(const char* name, const TsqCudaShape& shape, const void* codes, const uint16_t* scales) {
    PackedWeight packed(module_, shape, codes, nullptr, scales, nullptr, stream_);
    const size_t bytes = packed.weights.bytes() + packed.scales.bytes();
    const int copies = copiesOf(bytes);
    return {name,  shape, copiesFrom(std::move(packed.weights), copies), copiesFrom(std::move(packed.scales), copies),
            bytes, {}};
  }

  void measureShape(int64_t n, int64_t k, bool bf16, Report& report) {
    const int64_t groups = (k + options_.group - 1) / options_.group, weights = n * k;
    if (k % options_.group != 0 || options_.group % 8 != 0) {
      throw std::runtime_error("the sweep takes groups that divide K, in multiples of 8");
    }
    // Codes and scales in rows; scales keep results near 1.
    DeviceBuffer<uint8_t> codes(static_cast<size_t>(weights));
    DeviceBuffer<uint16_t> scales(static_cast<size_t>(n * groups));
    fillCodes(codes.data(), weights, 3, stream_);
    fillScales(scales.data(), n * groups, 0.01f, bf16, 4, stream_);

    DeviceBuffer<uint32_t> rows(static_cast<size_t>(weights / 8));
    packNibbles(codes.data(), rows.data(), weights / 8, stream_);
    const size_t rowBytes = rows.bytes() + scales.bytes();
    const int rowCopies = copiesOf(rowBytes);
    const auto nibbles = copiesFrom(std::move(rows), rowCopies);
    DeviceBuffer<uint16_t> wide(static_cast<size_t>(weights));
    dequantize(nibbles[0].data(), scales.data(), wide.data(), n, k, options_.group, bf16, stream_);
    std::vector<Ours> ours;
    ours.push_back(pack("tsq-w4a16", {n, k, options_.group}, codes.data(), scales.data()));
    // The kernels for NF4, with a book that holds the same values as the codes: time does not depend on them.
    ours.push_back(pack("tsq-book4", {n, k, options_.group, 4, 1}, codes.data(), scales.data()));
    float values[16];
    for (int i = 0; i < 16; ++i) values[i] = static_cast<float>(i - 8);
    module_.call(module_->makeBook(values, bf16, &ours.back().book, module_.reason()));
    {
      DeviceBuffer<uint8_t> bytes(static_cast<size_t>(weights));
      widenCodes(codes.data(), bytes.data(), weights, stream_);
      ours.push_back(pack("tsq-w8a16", {n, k, options_.group, 8}, bytes.data(), scales.data()));
      ours.push_back(pack("tsq-w16a16", {n, k, k, 16}, wide.data(), nullptr));
      check(cudaStreamSynchronize(stream_), "packing weights");
    }
    const auto eights =
        bf16 ? eightWeights(module_, n, k, wide.data(), cacheBytes_, stream_) : std::vector<EightWeight>{};
    const int wideCopies = copiesOf(wide.bytes());
    const auto w16 = copiesFrom(std::move(wide), wideCopies);
    DeviceBuffer<uint16_t> scratch(static_cast<size_t>(weights));

    for (const std::string& count : split(options_.m)) {
      const int m = std::stoi(count);
      if (late()) {
        report.skip(std::to_string(k) + "x" + std::to_string(n) + (bf16 ? " bf16" : " f16") + " m=" + count +
                    ": no time left");
        continue;
      }
      DeviceBuffer<uint16_t> x(static_cast<size_t>(m * k)), y(static_cast<size_t>(m * n));
      fillFloats(x.data(), m * k, 1, bf16, 5, stream_);
      const int64_t activations = 2 * m * (n + k);
      const size_t checked = static_cast<size_t>(std::min(m, 16) * n);
      std::vector<uint16_t> reference;
      const auto cell = [&](const char* backend, int copies, size_t weightBytes, const std::function<void(int)>& launch,
                            double rate = 1) {
        y.fill(0xff);
        const Timing timing = measure(stream_, copies, options_.samples, launch);
        const std::vector<uint16_t> got = y.read(checked);
        if (reference.empty() && blas_ != nullptr) reference = got;
        const double apart = reference.empty() ? -1 : difference(got, reference, bf16);
        report.add({backend, bf16 ? "bf16" : "f16", n, k, options_.group, m,
                    static_cast<int64_t>(weightBytes) + activations, copies, timing, apart, rate});
      };
      if (blas_ != nullptr) {
        cell("cublas", wideCopies, w16[0].bytes(),
             [&](int copy) { multiply(w16[static_cast<size_t>(copy)].data(), x.data(), y.data(), m, n, k, bf16); });
        cell("unfused", rowCopies, rowBytes, [&](int copy) {
          dequantize(nibbles[static_cast<size_t>(copy)].data(), scales.data(), scratch.data(), n, k, options_.group,
                     bf16, stream_);
          multiply(scratch.data(), x.data(), y.data(), m, n, k, bf16);
        });
      }
      for (const Ours& one : ours) {
        const int blocks = module_->blocksFor(&one.shape, module_.device().multiprocessors);
        const Workspace work(module_, one.shape, m, blocks);
        TsqCudaW4A16 gemm{};
        gemm.shape = one.shape;
        gemm.x = x.data();
        gemm.y = y.data();
        gemm.counters = work.counters.data();
        gemm.partials = work.partials.data();
        gemm.strideX = k;
        gemm.strideY = n;
        gemm.m = m;
        gemm.blocks = blocks;
        gemm.isBF16 = gemm.scalesAreBF16 = bf16;
        gemm.book = one.book;
        gemm.scalesAreModerate = 1;
        cell(one.name, static_cast<int>(one.weights.size()), one.bytes, [&](int copy) {
          gemm.weights = one.weights[static_cast<size_t>(copy)].data();
          gemm.scales = one.scales[static_cast<size_t>(copy)].data();
          module_.call(module_->w4a16(&gemm, stream_, module_.reason()));
        });
      }
      forEachProduct(module_, eights, x.data(), y.data(), m, stream_,
                     [&](const std::string& name, const EightWeight& weight, const std::function<void(int)>& launch) {
                       cell(name.c_str(), static_cast<int>(weight.weights.size()), weight.bytes, launch, 2);
                     });
      if (!bf16 || blas_ == nullptr) continue;
      // Of whatever bytes there are: only its time is of interest, and it gives sums without scales.
      DeviceBuffer<int32_t> sums(static_cast<size_t>(m * n));
      const auto integers = [&](int copy) {
        return blas_->multiply(tsq::BlasType::kS8, w16[static_cast<size_t>(copy)].data(), x.data(), sums.data(), m, n,
                               k, stream_);
      };
      if (const tsq::Status trial = integers(0); trial.ok()) {
        const Timing timing = measure(stream_, wideCopies, options_.samples, [&](int copy) { demand(integers(copy)); });
        report.add({"cublas-s8", "bf16", n, k, options_.group, m, n * k + m * (k + 4 * n), wideCopies, timing, -1, 2});
      } else {
        report.skip(std::to_string(k) + "x" + std::to_string(n) + " m=" + count + ": s8: " + trial.message());
      }
    }
  }

  const Options options_;
  Module module_;
  Stream stream_;
  std::string noBlas_;
  DeviceBuffer<uint8_t> workspace_;
  std::shared_ptr<tsq::CuBlas> blas_;
  int cacheBytes_ = 0;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  try {
    bench::Sweep(bench::parse(argc, argv, "sweep.json")).run();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "sweep: %s\n", error.what());
    return 1;
  }
}
