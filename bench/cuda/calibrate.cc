// Times of calibration: a layer of 4096 by 4096 (or --n, --k) with 4096 rows, 4 bits in groups of 128, step by step.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <string>

#include "bench/cuda/device.h"
#include "bench/cuda/timing.h"
#include "rounding/lanes.h"

namespace {

using bench::DeviceBuffer;

struct Line {
  std::string what;
  double milliseconds;
  double operations;  // multiply-adds count two; 0 where that says nothing
};

class Bench {
 public:
  Bench(int64_t n, int64_t k, int64_t rows)
      : n_(n), k_(k), rows_(rows), groups_((k + kGroup - 1) / kGroup), module_(TSQ_CUDA_MODULE) {
    module_.call(module_->calibrationSizes(n, k, &sizes_, module_.reason()));
    tsq::GridSpec spec;
    spec.groupSize = kGroup;
    const tsq::rounding::LaneGrid lanes = tsq::rounding::makeLaneGrid(spec);
    grid_ = {lanes.maxCode,        lanes.symmetricZero, lanes.minZero,  lanes.minScale,
             lanes.subnormalBelow, lanes.maxScale,      lanes.dropBits, 1};
  }

  void run() {
    std::printf("%s: [%lld, %lld], %lld rows, 4 bits, groups of %lld\n", module_.device().name,
                static_cast<long long>(n_), static_cast<long long>(k_), static_cast<long long>(rows_),
                static_cast<long long>(kGroup));
    const double gram = static_cast<double>(rows_) * static_cast<double>(k_) * static_cast<double>(k_ + 1);
    h_ = DeviceBuffer<float>(square());
    for (const int type : {0, 1, 2}) {
      const DeviceBuffer<uint8_t> x = inputs(type);
      const TsqCudaHessian sum{x.data(), rows_, k_, k_, h_.data(), type};
      const char* names[] = {"Hessian of f32 rows", "Hessian of f16 rows", "Hessian of bf16 rows"};
      time(names[type], gram, [&] { return module_->addToHessian(&sum, stream_, module_.reason()); });
    }
    h_.fill(0);
    const DeviceBuffer<uint8_t> x = inputs(0);
    const TsqCudaHessian sum{x.data(), rows_, k_, k_, h_.data(), 0};
    module_.call(module_->addToHessian(&sum, stream_, module_.reason()));
    time("mirror", 0, [&] { return module_->mirrorHessian(h_.data(), k_, stream_, module_.reason()); });
    factor();
    round();
  }

  void write(const char* path) const {
    FILE* file = std::fopen(path, "w");
    if (file == nullptr) throw std::runtime_error(std::string("cannot write ") + path);
    std::fprintf(file, "{ \"device\": \"%s\", \"n\": %lld, \"k\": %lld, \"rows\": %lld, \"steps\": [",
                 module_.device().name, static_cast<long long>(n_), static_cast<long long>(k_),
                 static_cast<long long>(rows_));
    for (size_t i = 0; i < lines_.size(); ++i) {
      std::fprintf(file, "%s\n  { \"step\": \"%s\", \"medianMs\": %.4f, \"gflops\": %.1f }", i == 0 ? "" : ",",
                   lines_[i].what.c_str(), lines_[i].milliseconds, gflops(lines_[i]));
    }
    std::fprintf(file, "\n] }\n");
    std::fclose(file);
  }

 private:
  static constexpr int64_t kGroup = 128;
  static constexpr int kSamples = 5;

  size_t square() const { return static_cast<size_t>(k_ * k_); }
  size_t weights() const { return static_cast<size_t>(n_ * k_); }
  static double gflops(const Line& line) { return line.operations / line.milliseconds * 1e-6; }

  template <typename T>
  static std::vector<T> drawn(size_t count, float scale, const std::function<T(float)>& as) {
    std::mt19937 random(7);
    std::vector<T> values(count);
    for (T& value : values) value = as(scale * (static_cast<float>(random() >> 8) * 0x1p-23f - 1));
    return values;
  }

  DeviceBuffer<uint8_t> inputs(int type) const {
    const auto count = static_cast<size_t>(rows_ * k_);
    std::vector<uint8_t> bytes(count * (type == 0 ? 4 : 2));
    if (type == 0) {
      std::memcpy(bytes.data(), drawn<float>(count, 1, [](float v) { return v; }).data(), bytes.size());
    } else {
      const auto bits =
          drawn<uint16_t>(count, 1, [=](float v) { return type == 1 ? tsq::floatToF16(v) : tsq::floatToBf16(v); });
      std::memcpy(bytes.data(), bits.data(), bytes.size());
    }
    return DeviceBuffer<uint8_t>(bytes);
  }

  // enqueue: one pass, an outcome of the module.
  void time(const std::string& what, double operations, const std::function<int()>& enqueue) {
    const bench::Timing found = bench::measure(stream_, 1, kSamples, [&](int) { module_.call(enqueue()); });
    lines_.push_back({what, found.median / 1000, operations});
    std::printf("  %-34s %9.3f ms", what.c_str(), lines_.back().milliseconds);
    if (operations > 0) std::printf("  %9.0f GFLOP/s", gflops(lines_.back()));
    std::printf("\n");
  }

  void factor() {
    std::vector<int32_t> order(static_cast<size_t>(k_));
    std::iota(order.begin(), order.end(), 0);
    columns_ = DeviceBuffer<int32_t>(order);
    u_ = DeviceBuffer<float>(square());
    const DeviceBuffer<uint8_t> workspace(static_cast<size_t>(sizes_.factorBytes));
    const DeviceBuffer<int32_t> failed(2);
    const double mean = static_cast<double>(rows_) / 3;  // of uniform values in [-1, 1]
    const TsqCudaFactor p{
        k_,       0,   sizes_.factorSteps, h_.data(), columns_.data(), workspace.data(), u_.data(), failed.data(),
        1 / mean, 0.01};
    const double size = static_cast<double>(k_);
    time("factor of the inverse", 2 * size * size * size / 3,
         [&] { return module_->factorInverse(&p, stream_, module_.reason()); });
    const std::vector<int32_t> outcome = failed.read();
    if (outcome[0] != -1 || outcome[1] != 0) throw std::runtime_error("the Hessian was not factored");
  }

  void round() {
    const DeviceBuffer<float> w(drawn<float>(weights(), 1, [](float v) { return v; }));
    const DeviceBuffer<uint8_t> dead(std::vector<uint8_t>(static_cast<size_t>(k_)));
    DeviceBuffer<float> scales(static_cast<size_t>(n_ * groups_));
    TsqCudaScales fit{};
    fit.grid = grid_;
    fit.w = w.data();
    fit.scales = scales.data();
    fit.n = n_;
    fit.k = fit.end = k_;
    fit.group = kGroup;
    fit.count = groups_;
    fit.maxShrink = 0.8;
    fit.norm = 2;
    time("scales of ranges", 0, [&] { return module_->fitScales(&fit, stream_, module_.reason()); });
    fit.steps = 100;
    time("scale search, 100 candidates", 0, [&] { return module_->fitScales(&fit, stream_, module_.reason()); });

    std::vector<int32_t> groupOf(static_cast<size_t>(k_));
    for (int64_t j = 0; j < k_; ++j) groupOf[static_cast<size_t>(j)] = static_cast<int32_t>(j / kGroup);
    const DeviceBuffer<int32_t> groups(groupOf);
    DeviceBuffer<float> visited(weights()), errors(static_cast<size_t>(sizes_.errorBytes) / sizeof(float));
    DeviceBuffer<uint8_t> codes(weights());
    TsqCudaGptq p{};
    p.on = {grid_, scales.data(), nullptr, groups.data(), n_, k_, kGroup};
    p.source = w.data();
    p.dead = dead.data();
    p.columns = columns_.data();
    p.u = u_.data();
    p.w = visited.data();
    p.errors = errors.data();
    p.codes = codes.data();
    const double size = static_cast<double>(k_);
    time("GPTQ's column loop", static_cast<double>(n_) * size * size, [&] {
      int outcome = module_->gptqGather(&p, stream_, module_.reason());
      for (p.begin = 0; p.begin < k_ && outcome == kTsqCudaOk; p.begin = p.end) {
        p.end = std::min(k_, p.begin + sizes_.mostColumns);
        outcome = module_->gptqBlock(&p, stream_, module_.reason());
      }
      return outcome;
    });

    DeviceBuffer<float> d(weights());
    DeviceBuffer<double> partials(static_cast<size_t>(sizes_.partialBytes) / sizeof(double)), result(1);
    TsqCudaObjective objective{};
    objective.on = p.on;
    objective.on.groupIndex = nullptr;
    objective.w = w.data();
    objective.codes = codes.data();
    objective.d = d.data();
    objective.h = h_.data();
    objective.partials = partials.data();
    objective.sum = result.data();
    time("layer error", static_cast<double>(n_) * size * size,
         [&] { return module_->objective(&objective, stream_, module_.reason()); });
    const double error = result.read()[0];
    if (!(error > 0) || !std::isfinite(error)) throw std::runtime_error("the layer error is no positive number");

    constexpr int kCandidates = 40;
    objective.on.n = std::min<int64_t>(n_, 512);
    const DeviceBuffer<float> candidate(std::vector<float>(static_cast<size_t>(k_), 1.5f));
    objective.codes = nullptr;
    objective.scale = candidate.data();
    time("AWQ, 40 candidates on 512 outputs", kCandidates * static_cast<double>(objective.on.n) * size * size, [&] {
      int outcome = kTsqCudaOk;
      for (int i = 0; i < kCandidates && outcome == kTsqCudaOk; ++i)
        outcome = module_->objective(&objective, stream_, module_.reason());
      return outcome;
    });
  }

  const int64_t n_, k_, rows_, groups_;
  bench::Module module_;
  bench::Stream stream_;
  TsqCudaCalibrationSizes sizes_{};
  TsqCudaGrid grid_{};
  DeviceBuffer<float> h_, u_;
  DeviceBuffer<int32_t> columns_;
  std::vector<Line> lines_;
};

int64_t option(int argc, char** argv, const char* name, int64_t otherwise) {
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::strcmp(argv[i], name) == 0) return std::stoll(argv[i + 1]);
  }
  return otherwise;
}

}  // namespace

// calibrate [--n N] [--k K] [--rows N] [--json FILE]
int main(int argc, char** argv) {
  try {
    Bench run(option(argc, argv, "--n", 4096), option(argc, argv, "--k", 4096), option(argc, argv, "--rows", 4096));
    run.run();
    for (int i = 1; i + 1 < argc; ++i) {
      if (std::strcmp(argv[i], "--json") == 0) run.write(argv[i + 1]);
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "calibrate: %s\n", error.what());
    return 1;
  }
}
