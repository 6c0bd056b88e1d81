// Calibration on a device as the addon uses it, beside the CPU.
#include <stdexcept>

#include "bindings/cuda_rounding.h"
#include "calibration_data.h"
#include "rounding/lanes.h"

using namespace calibration_test;  // NOLINT
using tsq::AbortFlag;

namespace {

std::shared_ptr<tsq::CudaDevice> device() {
  static const auto opened = tsq::CudaDevice::open(TSQ_CUDA_MODULE, 0);
  if (!opened.ok()) throw std::runtime_error(opened.status().message());
  return opened.value();
}

struct Rounded {
  Rounded(int64_t n, int64_t k, const tsq::GridSpec& grid)
      : codes(static_cast<size_t>(n * k)),
        zeros(static_cast<size_t>(n * groups(k, grid))),
        scales(zeros.size()),
        out{codes.data(), scales.data(), grid.symmetric ? nullptr : zeros.data()} {}
  static int64_t groups(int64_t k, const tsq::GridSpec& grid) { return (k + grid.groupSize - 1) / grid.groupSize; }
  std::vector<uint8_t> codes, zeros;
  std::vector<float> scales;
  tsq::RoundedWeight out;
};

void checkHessian(Random& random, tsq::Dtype type, int64_t k, int64_t rows) {
  std::vector<float> x = activations(random, rows, k);
  std::vector<uint16_t> bits(x.size());
  for (size_t i = 0; i < x.size() && type != tsq::Dtype::kF32; ++i) {
    bits[i] = type == tsq::Dtype::kF16 ? tsq::floatToF16(x[i]) : tsq::floatToBf16(x[i]);
    x[i] = type == tsq::Dtype::kF16 ? tsq::f16ToFloat(bits[i]) : tsq::bf16ToFloat(bits[i]);
  }
  const std::string what =
      "type " + std::to_string(static_cast<int>(type)) + " k=" + std::to_string(k) + " rows=" + std::to_string(rows);
  auto sum = tsq::CudaHessian::create(device(), k);
  if (!CHECK_MSG(sum.ok(), sum.status().message())) return;
  const int64_t first = rows / 3;
  for (const auto& [begin, count] : {std::pair{int64_t{0}, first}, {first, rows - first}}) {
    const auto at = static_cast<size_t>(begin * k);
    const void* from = type == tsq::Dtype::kF32 ? static_cast<const void*>(x.data() + at) : bits.data() + at;
    const tsq::Status status = sum.value()->add(from, type, count);
    if (!CHECK_MSG(status.ok(), status.message())) return;
  }
  auto hessian = tsq::Hessian::create(k);
  const tsq::Status status = sum.value()->into(hessian.value().get());
  if (!CHECK_MSG(status.ok(), status.message())) return;
  const float* h = hessian.value()->data();
  double worst = 0;
  for (int sample = 0; sample < 2000; ++sample) {
    const int64_t i = random.below(static_cast<int>(k)), j = random.below(static_cast<int>(k));
    double want = 0, size = 0;
    for (int64_t row = 0; row < rows; ++row) {
      const double term = static_cast<double>(x[static_cast<size_t>(row * k + i)]) *
                          static_cast<double>(x[static_cast<size_t>(row * k + j)]);
      want += term;
      size += std::abs(term);
    }
    const double bound = (std::min<double>(static_cast<double>(rows), 256) + 16) * 0x1p-24 * size;
    worst = std::max(worst, std::abs(static_cast<double>(h[i * k + j]) - want) / bound);
    CHECK(h[i * k + j] == h[j * k + i]);
  }
  CHECK_MSG(worst <= 1 && hessian.value()->rows() == static_cast<double>(rows), what + ": " + std::to_string(worst));
}

void checkNearest(Random& random, int64_t n, int64_t k) {
  const Grids g = randomGrid(random, k);
  const std::vector<float> w = random.floats(n * k);
  Rounded cpu(n, k, g.spec), cuda(n, k, g.spec);
  CHECK(tsq::roundNearest(w.data(), n, k, g.spec, g.search, nullptr, cpu.out, AbortFlag()).ok());
  const tsq::Status status =
      tsq::roundNearestOn(device(), w.data(), n, k, g.spec, g.search, nullptr, cuda.out, AbortFlag());
  if (!CHECK_MSG(status.ok(), status.message())) return;
  CHECK_MSG(cpu.scales == cuda.scales && cpu.zeros == cuda.zeros && cpu.codes == cuda.codes, describe(g, n, k));
}

void checkGptq(Random& random, tsq::ActOrder order, int64_t n, int64_t k, int64_t group, int64_t rows) {
  const auto hessian = hessianOf(activations(random, rows, k, k / 3), k);
  const std::vector<float> w = random.floats(n * k);
  tsq::GptqSpec spec;
  spec.grid.groupSize = group;
  spec.grid.symmetric = order == tsq::ActOrder::kStatic;
  spec.grid.scaleType = tsq::Dtype::kF16;
  spec.search.enabled = n % 2 == 0;
  spec.search.norm = 2;
  spec.order = order;
  Rounded cpu(n, k, spec.grid), cuda(n, k, spec.grid);
  std::vector<int32_t> groupsCpu(static_cast<size_t>(k)), groupsCuda(groupsCpu);
  const std::string what = "order " + std::to_string(static_cast<int>(order)) + " n=" + std::to_string(n) +
                           " k=" + std::to_string(k) + " group=" + std::to_string(group);
  const auto want = tsq::gptq(w.data(), n, k, *hessian, spec, cpu.out, groupsCpu.data(), AbortFlag());
  const auto got = tsq::gptqOn(device(), w.data(), n, k, *hessian, spec, cuda.out, groupsCuda.data(), AbortFlag());
  if (!CHECK(want.ok()) || !CHECK_MSG(got.ok(), what + ": " + got.status().message())) return;
  int64_t differing = 0;
  for (size_t i = 0; i < cpu.codes.size(); ++i) differing += cpu.codes[i] != cuda.codes[i];
  const double off = std::abs(got.value().error / want.value().error - 1);
  std::printf("  %s: %lld of %lld codes differ, objective by %.1e\n", what.c_str(), static_cast<long long>(differing),
              static_cast<long long>(n * k), off);
  CHECK_MSG(off < 1e-4 || differing > n * k / 1000, what + ": the objective of the same codes");
  // A tie that is settled otherwise is the beginning of another course of its row.
  CHECK_MSG(off < 5e-3 && differing < n * k / 20, what);
  CHECK(groupsCpu == groupsCuda && got.value().damp == want.value().damp);
  CHECK(got.value().deadColumns == want.value().deadColumns && got.value().keptNearest == want.value().keptNearest);
}

}  // namespace

// The smallest set that has every kernel: compute-sanitizer is slow.
TEST(device_reduced_calibration) {
  Random random(1);
  for (const auto type : {tsq::Dtype::kF32, tsq::Dtype::kF16, tsq::Dtype::kBF16}) checkHessian(random, type, 140, 70);
  checkNearest(random, 10, 100);
  checkGptq(random, tsq::ActOrder::kStatic, 34, 150, 32, 300);
  checkGptq(random, tsq::ActOrder::kNone, 9, 140, 64, 300);
}

TEST(device_calibration_hessians) {
  Random random(2);
  for (const auto type : {tsq::Dtype::kF32, tsq::Dtype::kF16, tsq::Dtype::kBF16}) {
    for (const auto& [k, rows] : {std::pair<int64_t, int64_t>{1, 7}, {257, 1000}, {1000, 5000}, {1024, 4096}}) {
      checkHessian(random, type, k, rows);
    }
  }
}

TEST(device_calibration_nearest_codes_are_the_cpus) {
  Random random(3);
  for (int i = 0; i < 60; ++i) checkNearest(random, 1 + random.below(200), 1 + random.below(600));
}

TEST(device_calibration_gptq_is_the_cpus) {
  Random random(4);
  using enum tsq::ActOrder;
  for (const auto order : {kNone, kStatic, kGroupAware, kDynamic}) {
    for (int i = 0; i < 8; ++i) {
      const int64_t k = 1 + random.below(700), group = std::min<int64_t>(k, int64_t{16} << random.below(5));
      checkGptq(random, order, 1 + random.below(200), k, group, 2 * k + 10);
    }
  }
  checkGptq(random, kStatic, 512, 2048, 128, 4096);
}

TEST(device_calibration_objectives_are_the_cpus) {
  Random random(5);
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{3, 5}, {130, 257}, {500, 1000}}) {
    const auto hessian = hessianOf(activations(random, 300, k), k);
    const std::vector<float> w = random.floats(n * k), approx = random.floats(n * k);
    const auto want = tsq::layerError(w.data(), approx.data(), n, k, *hessian);
    const auto got = tsq::layerErrorOn(device(), w.data(), approx.data(), n, k, *hessian);
    if (!CHECK(want.ok()) || !CHECK_MSG(got.ok(), got.status().message())) return;
    CHECK_MSG(std::abs(got.value() / want.value() - 1) < 2e-6, std::to_string(got.value() / want.value() - 1));
    // Without a scale a candidate is nearest codes.
    tsq::GridSpec grid;
    grid.groupSize = std::min<int64_t>(k, 32);
    Rounded nearest(n, k, grid);
    std::vector<float> values(w.size()), ones(static_cast<size_t>(2 * k), 1.0f);
    CHECK(tsq::roundNearest(w.data(), n, k, grid, {}, nullptr, nearest.out, AbortFlag()).ok());
    tsq::dequantizeCodes(nearest.out.codes, nearest.out.scales, nullptr, n, k, 4, grid.groupSize, nullptr,
                         values.data());
    const auto plain = tsq::layerError(w.data(), values.data(), n, k, *hessian);
    double errors[2] = {};
    const tsq::Status status =
        tsq::scaledErrorsOn(device(), w.data(), n, k, *hessian, grid, ones.data(), 2, errors, AbortFlag());
    if (!CHECK(plain.ok()) || !CHECK_MSG(status.ok(), status.message())) return;
    CHECK(errors[0] == errors[1] && std::abs(errors[0] / plain.value() - 1) < 2e-6);
  }
}

TEST(device_calibration_runs_are_identical) {
  Random random(6);
  const int64_t n = 300, k = 520;
  const auto hessian = hessianOf(activations(random, 900, k), k);
  const std::vector<float> w = random.floats(n * k);
  tsq::GptqSpec spec;
  spec.grid.groupSize = 64;
  spec.order = tsq::ActOrder::kNone;
  Rounded first(n, k, spec.grid);
  for (int run = 0; run < 20; ++run) {
    Rounded found(n, k, spec.grid);
    const auto report = tsq::gptqOn(device(), w.data(), n, k, *hessian, spec, found.out, nullptr, AbortFlag());
    if (!CHECK_MSG(report.ok(), report.status().message())) return;
    if (run == 0) std::swap(first.codes, found.codes), std::swap(first.scales, found.scales);
    if (run > 0) CHECK(first.codes == found.codes && first.scales == found.scales);
  }
}
