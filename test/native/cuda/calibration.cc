// The kernels of calibration in the emulation, over shapes and schedules, against float64 and against the CPU.
#include <cmath>
#include <numeric>

#include "calibration_data.h"
#include "cuda/calibration/steps.cuh"
#include "cuda/emulation/buffer.h"
#include "rounding/inverse_factor.h"
#include "rounding/lanes.h"
#include "rounding/rounding.h"

namespace {

using namespace tsq::cuda;               // NOLINT: the vocabulary of kernels
using namespace tsq::cuda::calibration;  // NOLINT
using namespace calibration_test;        // NOLINT
using tsq::emulation::Buffer;
using tsq::emulation::Copies;
using tsq::emulation::Launch;
using tsq::emulation::Order;

constexpr double kUnit = 0x1p-24;  // half a unit in the last place of 1 in f32

Launch schedule(Random& random) {
  Launch how;
  how.order = static_cast<Order>(random.below(3));
  how.copies = static_cast<Copies>(random.below(2));
  how.seed = random.engine();
  how.residentBlocks = 1 + random.below(4);
  return how;
}

// Runs steps under a schedule; a finding ends them and fails the test.
struct Emulated {
  Launch how;
  template <typename Kernel, typename Parameters>
  int operator()(Kernel kernel, int64_t blocks, size_t sharedBytes, const Parameters& parameters) const {
    Launch launched = how;
    launched.blocks = static_cast<int>(blocks);
    launched.threads = kThreads;
    launched.sharedBytes = sharedBytes;
    const auto outcome = tsq::emulation::launch(launched, +kernel, parameters);
    return CHECK_MSG(outcome.ok(), outcome.error) ? 0 : 1;
  }
};

std::vector<float> elements(const tsq::Hessian& hessian) {
  return {hessian.data(), hessian.data() + hessian.k() * hessian.k()};
}

std::vector<double> diagonalOf(const tsq::Hessian& hessian) {
  std::vector<double> diagonal;
  for (int64_t i = 0; i < hessian.k(); ++i) diagonal.push_back(hessian.data()[i * (hessian.k() + 1)]);
  return diagonal;
}

template <Type kType>
std::vector<uint16_t> halves(const std::vector<float>& values) {
  std::vector<uint16_t> bits;
  for (const float value : values) bits.push_back(fromFloat<kType>(value));
  return bits;
}

// Two batches of rows, of which those of the second lie apart, against float64.
void checkHessian(Random& random, Rows type, int64_t k, int64_t rows, int64_t gap) {
  const std::string what = "k=" + std::to_string(k) + " rows=" + std::to_string(rows) + " gap=" + std::to_string(gap) +
                           " type=" + std::to_string(static_cast<int>(type));
  const Emulated run{schedule(random)};
  Buffer<float> h("h", std::vector<float>(static_cast<size_t>(k * k)));
  std::vector<double> want(static_cast<size_t>(k * k)), size(static_cast<size_t>(k * k));
  for (int batch = 0; batch < 2; ++batch) {
    const int64_t count = batch == 0 ? rows : rows / 2 + 1, stride = k + (batch == 0 ? 0 : gap);
    std::vector<float> x = random.floats(count * stride);
    const auto bits = type == Rows::kF16 ? halves<Type::kF16>(x) : halves<Type::kBF16>(x);
    for (size_t i = 0; i < x.size() && type != Rows::kF32; ++i) {
      x[i] = type == Rows::kF16 ? toFloat<Type::kF16>(bits[i]) : toFloat<Type::kBF16>(bits[i]);
    }
    Buffer<float> wide("x", x);
    Buffer<uint16_t> narrow("x of 16 bits", bits);
    const void* from = type == Rows::kF32 ? static_cast<const void*>(&wide[0]) : &narrow[0];
    const int64_t together = type == Rows::kF32 ? 4 : 8;
    const bool aligned = k % together == 0 && stride % together == 0;
    if (addRows(run, type, {{from}, count, stride, k, h.global(), aligned}) != 0) return;
    for (int64_t row = 0; row < count; ++row) {
      for (int64_t i = 0; i < k; ++i) {
        for (int64_t j = 0; j < k; ++j) {
          const double term = static_cast<double>(x[static_cast<size_t>(row * stride + i)]) *
                              static_cast<double>(x[static_cast<size_t>(row * stride + j)]);
          want[static_cast<size_t>(i * k + j)] += term;
          size[static_cast<size_t>(i * k + j)] += std::abs(term);
        }
      }
    }
  }
  if (completeHessian(run, {h.global(), k}) != 0) return;
  double worst = 0;
  bool symmetric = true;
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      const auto at = static_cast<size_t>(i * k + j);
      // A chain of 256 terms at most, and of the sums of chains.
      const double bound = (std::min<double>(static_cast<double>(rows), 256) + 8) * kUnit * size[at];
      worst = std::max(worst, std::abs(static_cast<double>(h[at]) - want[at]) / bound);
      symmetric = symmetric && h[at] == h[static_cast<size_t>(j * k + i)];
    }
  }
  CHECK_MSG(worst <= 1, what + ": " + std::to_string(worst) + " of the bound");
  CHECK_MSG(symmetric, what + ": symmetric");
}

}  // namespace

TEST(calibration_hessian_is_that_of_float64) {
  Random random(1);
  for (const Rows type : {Rows::kF32, Rows::kF16, Rows::kBF16}) {
    checkHessian(random, type, 1, 1, 0);
    checkHessian(random, type, 5, 3, 1);
    checkHessian(random, type, 64, 40, 8);
    checkHessian(random, type, 133, 70, 3);
    checkHessian(random, type, 136, 33, 0);
    for (int i = 0; i < 3; ++i) {
      checkHessian(random, type, 1 + random.below(150), 1 + random.below(90), random.below(9));
    }
  }
  checkHessian(random, Rows::kF32, 20, 700, 4);
  checkHessian(random, Rows::kF16, 24, 2500, 0);
}

TEST(calibration_hessian_does_not_depend_on_the_schedule) {
  Random random(2);
  const int64_t k = 150, rows = 300;
  Buffer<float> x("x", random.floats(rows * k));
  std::vector<float> first;
  for (int i = 0; i < 3; ++i) {
    Buffer<float> h("h", std::vector<float>(static_cast<size_t>(k * k)));
    const Emulated run{schedule(random)};
    if (addRows(run, Rows::kF32, {{&x[0]}, rows, k, k, h.global(), false}) != 0) return;
    if (completeHessian(run, {h.global(), k}) != 0) return;
    const std::vector<float> found(h.values().begin(), h.values().end());
    if (i == 0) first = found;
    CHECK(found == first);
  }
}

namespace {

struct Factored {
  std::vector<float> u;
  int failed = -1, odd = 0;
};

Factored factor(Random& random, const tsq::Hessian& hessian, const std::vector<int32_t>& order, double damp) {
  const int64_t k = hessian.k();
  const std::vector<double> diagonal = diagonalOf(hessian);
  Buffer<float> h("h", elements(hessian)), u("u", static_cast<size_t>(k * k));
  Buffer<int32_t> columns("columns", order), failed("failed", 2);
  Buffer<double> a("a", static_cast<size_t>(paddedSize(k) * paddedSize(k))), inverses("inverses", 64 * 64);
  Buffer<double> smallest("smallest", static_cast<size_t>(paddedSize(k)));
  const Factor p{k,
                 h.global<const float>(),
                 columns.global<const int32_t>(),
                 a.global(),
                 inverses.global(),
                 smallest.global(),
                 u.global(),
                 failed.global(),
                 1 / tsq::rounding::meanDiagonal(diagonal),
                 damp,
                 0x1p-52 * std::sqrt(static_cast<double>(k)),
                 0};
  const Emulated run{schedule(random)};
  const int64_t steps = factorSteps(k), middle = steps / 2;
  if (middle > 0 && factorInverse(run, p, 0, middle) != 0) return {};
  if (factorInverse(run, p, middle, steps) != 0) return {};
  return {{u.values().begin(), u.values().end()}, failed[0], failed[1]};
}

// Uᵀ U times the damped Hessian in visit order, in float64: the largest distance from the identity.
double distanceFromIdentity(const tsq::Hessian& hessian, const std::vector<int32_t>& order, double damp,
                            const std::vector<float>& u) {
  const int64_t k = hessian.k();
  const std::vector<double> diagonal = diagonalOf(hessian);
  const double unit = 1 / tsq::rounding::meanDiagonal(diagonal);
  const auto damped = [&](int64_t i, int64_t j) {
    const auto a = static_cast<size_t>(order[static_cast<size_t>(i)]),
               b = static_cast<size_t>(order[static_cast<size_t>(j)]);
    if (i == j) return (diagonal[a] > 0 ? diagonal[a] * unit : 1.0) + damp;
    if (!(diagonal[a] > 0) || !(diagonal[b] > 0)) return 0.0;
    return static_cast<double>(hessian.data()[static_cast<int64_t>(a) * k + static_cast<int64_t>(b)]) * unit;
  };
  double worst = 0;
  std::vector<double> uh(static_cast<size_t>(k));
  for (int64_t column = 0; column < k; ++column) {
    for (int64_t i = 0; i < k; ++i) {
      uh[static_cast<size_t>(i)] = 0;
      for (int64_t q = i; q < k; ++q)
        uh[static_cast<size_t>(i)] += static_cast<double>(u[static_cast<size_t>(i * k + q)]) * damped(q, column);
    }
    for (int64_t row = 0; row < k; ++row) {
      double sum = row == column ? -1.0 : 0.0;
      for (int64_t i = 0; i <= row; ++i)
        sum += static_cast<double>(u[static_cast<size_t>(i * k + row)]) * uh[static_cast<size_t>(i)];
      worst = std::max(worst, std::abs(sum));
    }
  }
  return worst;
}

std::vector<int32_t> shuffled(Random& random, int64_t k) {
  std::vector<int32_t> order(static_cast<size_t>(k));
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random.engine);
  return order;
}

}  // namespace

TEST(calibration_factor_is_that_of_the_inverse) {
  Random random(3);
  for (const auto& [k, rows] :
       {std::pair<int64_t, int64_t>{1, 3}, {7, 20}, {64, 200}, {65, 30}, {150, 400}, {193, 60}}) {
    const auto hessian = hessianOf(activations(random, rows, k, k > 5 ? 3 : -1), k);
    const std::vector<int32_t> order = shuffled(random, k);
    const Factored found = factor(random, *hessian, order, 0.01);
    if (!CHECK(found.u.size() == static_cast<size_t>(k * k))) return;
    CHECK(found.failed == -1 && found.odd == 0);
    const double distance = distanceFromIdentity(*hessian, order, 0.01, found.u);
    CHECK_MSG(distance < 1e-4, "k=" + std::to_string(k) + ": " + std::to_string(distance));
    // The CPU's, which is float64 too and rounds what comes out.
    const auto cpu = tsq::rounding::factorInverse(*hessian, diagonalOf(*hessian), order, 0.01, 0.01, tsq::AbortFlag());
    if (!CHECK(cpu.ok() && cpu.value().usable)) return;
    double worst = 0;
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        const float want = j < i ? 0.0f : cpu.value().u.at(i, j);
        worst = std::max(worst, std::abs(static_cast<double>(found.u[static_cast<size_t>(i * k + j)] - want)) /
                                    static_cast<double>(cpu.value().u.at(i, i)));
      }
    }
    CHECK_MSG(worst < 2e-7, "k=" + std::to_string(k) + ": " + std::to_string(worst * 1e9) + "e-9 from the CPU's");
  }
}

TEST(calibration_factor_tells_where_there_is_none) {
  Random random(4);
  const int64_t k = 140;
  // Of rank 20: without damping no pivot is left after that many.
  const auto singular = hessianOf(activations(random, 20, k), k);
  std::vector<int32_t> order(static_cast<size_t>(k));
  std::iota(order.begin(), order.end(), 0);
  const Factored none = factor(random, *singular, order, 0);
  CHECK_MSG(none.failed >= 20 && none.failed < 30, "failed at " + std::to_string(none.failed));
  const Factored damped = factor(random, *singular, order, 0.01);
  CHECK(damped.failed == -1 && damped.odd == 0);
  CHECK(distanceFromIdentity(*singular, order, 0.01, damped.u) < 1e-3);
}

// Scales, zero points and codes are the CPU's to the bit.
TEST(calibration_nearest_codes_are_the_cpus) {
  Random random(5);
  for (int i = 0; i < 40; ++i) {
    const int64_t n = 1 + random.below(40), k = 1 + random.below(200);
    Grids g = randomGrid(random, k);
    std::vector<float> w = random.floats(n * k, i % 5 == 0 ? 1e-7f : 1.0f);
    if (i % 4 == 0) std::fill(w.begin(), w.begin() + k, 0.0f);
    if (i % 6 == 0) w.back() = 3e38f;
    std::vector<float> importance = random.floats(k),
                       limits = random.floats(n * ((k + g.spec.groupSize - 1) / g.spec.groupSize));
    // Columns that do not matter make ties of all candidates: the whole range is kept.
    for (float& value : importance) value = i % 3 == 0 ? 0.0f : std::abs(value);
    const int64_t groups = (k + g.spec.groupSize - 1) / g.spec.groupSize;
    if (g.importance) g.search.importance = importance.data();
    std::vector<uint8_t> codes(static_cast<size_t>(n * k)), zeros(static_cast<size_t>(n * groups));
    std::vector<float> scales(static_cast<size_t>(n * groups));
    const tsq::RoundedWeight out{codes.data(), scales.data(), g.spec.symmetric ? nullptr : zeros.data()};
    const tsq::Status status =
        tsq::roundNearest(w.data(), n, k, g.spec, g.search, g.clip ? limits.data() : nullptr, out, tsq::AbortFlag());
    if (!CHECK_MSG(status.ok(), status.message())) return;

    Buffer<float> weight("w", w), weights("importance", importance), clip("clip", limits);
    Buffer<float> found("scales", static_cast<size_t>(n * groups));
    Buffer<uint8_t> foundZeros("zeros", static_cast<size_t>(n * groups)),
        foundCodes("codes", static_cast<size_t>(n * k));
    const LaneGrid grid = tsq::rounding::makeLaneGrid(g.spec);
    const Emulated run{schedule(random)};
    Fit p{};
    p.grid = grid;
    p.w = weight.global<const float>();
    if (g.importance) p.importance = weights.global<const float>();
    if (g.clip) p.clip = clip.global<const float>();
    p.scales = found.global();
    if (!g.spec.symmetric) p.zeros = foundZeros.global();
    p.n = n;
    p.k = p.end = k;
    p.size = g.spec.groupSize;
    p.groups = p.count = groups;
    p.steps = g.search.enabled ? g.search.steps : 0;
    p.norm = static_cast<float>(g.search.norm);
    p.maxShrink = g.search.maxShrink;
    if (fit(run, p) != 0) return;
    const Codes on{grid,
                   found.global<const float>(),
                   g.spec.symmetric ? Global<const uint8_t>{} : foundZeros.global<const uint8_t>(),
                   {},
                   n,
                   k,
                   p.size,
                   groups};
    if (encode(run, {on, weight.global<const float>(), {}, foundCodes.global()}) != 0) return;
    const std::string what = describe(g, n, k);
    CHECK_MSG(std::equal(scales.begin(), scales.end(), found.values().begin()), what + ": scales");
    CHECK_MSG(g.spec.symmetric || std::equal(zeros.begin(), zeros.end(), foundZeros.values().begin()),
              what + ": zeros");
    CHECK_MSG(std::equal(codes.begin(), codes.end(), foundCodes.values().begin()), what + ": codes");
  }
}

namespace {

// Runs the loop on given scales, in blocks of `block` columns, with the factor u; codes by column.
std::vector<uint8_t> roundAll(Random& random, const std::vector<float>& w, int64_t n, int64_t k, int64_t size,
                              int64_t block, const LaneGrid& grid, const std::vector<float>& scales,
                              const std::vector<uint8_t>& zeros, const std::vector<int32_t>& order,
                              const std::vector<uint8_t>& dead, const std::vector<float>& u) {
  std::vector<int32_t> groupOf;
  for (const int32_t column : order) groupOf.push_back(static_cast<int32_t>(column / size));
  Buffer<float> source("source", w), factor("u", u), scale("scales", scales);
  Buffer<uint8_t> zero("zeros", zeros), off("dead", dead), codes("codes", static_cast<size_t>(n * k));
  Buffer<int32_t> columns("columns", order), groups("group of", groupOf);
  Buffer<float> visited("w", static_cast<size_t>(n * k)), errors("errors", static_cast<size_t>(kMostColumns * n));
  Gptq p{};
  p.grid = grid;
  p.source = source.global<const float>();
  p.dead = off.global<const uint8_t>();
  p.columns = columns.global<const int32_t>();
  p.groupOf = groups.global<const int32_t>();
  p.u = factor.global<const float>();
  p.w = visited.global();
  p.errors = errors.global();
  p.scales = scale.global<const float>();
  if (!zeros.empty()) p.zeros = zero.global<const uint8_t>();
  p.codes = codes.global();
  p.n = n;
  p.k = k;
  p.groups = (k + size - 1) / size;
  const Emulated run{schedule(random)};
  if (gather(run, p) != 0) return {};
  for (p.begin = 0; p.begin < k; p.begin = p.end) {
    p.end = std::min(k, p.begin + block);
    p.aligned = k % 4 == 0 && p.end % 4 == 0;
    if (roundBlock(run, p) != 0) return {};
  }
  return {codes.values().begin(), codes.values().end()};
}

}  // namespace

// Against the loop as the paper has it, in float64, on the same scales and factor. Where two codes are as near as
// float32 sums can tell, either is right, and the rest of such a row is another course.
TEST(calibration_columns_are_rounded_as_in_float64) {
  Random random(6);
  for (int i = 0; i < 9; ++i) {
    const int64_t n = 1 + random.below(45), k = 1 + random.below(300), block = 1 + random.below(128);
    const int64_t size = std::min<int64_t>(k, int64_t{16} << random.below(4)), groups = (k + size - 1) / size;
    const auto hessian = hessianOf(activations(random, 2 * k, k, k / 2), k);
    const std::vector<int32_t> order = shuffled(random, k);
    const Factored factored = factor(random, *hessian, order, 0.01);
    if (!CHECK(factored.failed == -1 && !factored.u.empty())) return;
    tsq::GridSpec spec;
    spec.bits = 2 + random.below(4);
    spec.symmetric = i % 2 == 0;
    spec.groupSize = size;
    const LaneGrid grid = tsq::rounding::makeLaneGrid(spec);
    const std::vector<float> w = random.floats(n * k);
    std::vector<float> scales(static_cast<size_t>(n * groups));
    std::vector<uint8_t> zeros(spec.symmetric ? 0 : scales.size()), dead(static_cast<size_t>(k));
    for (float& scale : scales) scale = random.uniform(0.5f, 1.5f) * 2 / grid.maxCode;
    for (uint8_t& zero : zeros) zero = static_cast<uint8_t>(random.below(1 << spec.bits));
    if (k > 5) dead[static_cast<size_t>(k / 2)] = 1;
    const std::vector<uint8_t> codes =
        roundAll(random, w, n, k, size, block, grid, scales, zeros, order, dead, factored.u);
    if (!CHECK(codes.size() == w.size())) return;
    int ties = 0;
    bool right = true;
    for (int64_t row = 0; row < n; ++row) {
      std::vector<double> values(static_cast<size_t>(k));
      for (int64_t j = 0; j < k; ++j) {
        const auto column = static_cast<size_t>(order[static_cast<size_t>(j)]);
        values[static_cast<size_t>(j)] =
            dead[column] != 0 ? 0.0 : static_cast<double>(w[static_cast<size_t>(row * k) + column]);
      }
      for (int64_t j = 0; j < k; ++j) {
        const int64_t column = order[static_cast<size_t>(j)], at = row * groups + column / size;
        const double scale = scales[static_cast<size_t>(at)];
        const double zero = zeros.empty() ? static_cast<double>(grid.symmetricZero) : zeros[static_cast<size_t>(at)];
        const double steps = values[static_cast<size_t>(j)] / scale + zero;
        const double code = std::min<double>(std::max(std::nearbyint(steps), 0.0), static_cast<double>(grid.maxCode));
        if (code != codes[static_cast<size_t>(row * k + column)]) {
          right = right && std::abs(std::abs(steps - std::floor(steps)) - 0.5) < 1e-3;
          ++ties;
          break;
        }
        const double pivot = factored.u[static_cast<size_t>(j * k + j)];
        const double error = (values[static_cast<size_t>(j)] - scale * (code - zero)) / pivot;
        for (int64_t c = j + 1; c < k; ++c)
          values[static_cast<size_t>(c)] -= error * static_cast<double>(factored.u[static_cast<size_t>(j * k + c)]);
      }
    }
    const std::string what = "n=" + std::to_string(n) + " k=" + std::to_string(k) + " block=" + std::to_string(block) +
                             " group=" + std::to_string(size) + " bits=" + std::to_string(spec.bits);
    CHECK_MSG(right, what + ": codes are the nearest");
    CHECK_MSG(ties <= 1 + n / 20, what + ": " + std::to_string(ties) + " rows leave at a tie");
  }
}

namespace {

double quadraticSum(const std::vector<float>& d, const std::vector<float>& h, int64_t n, int64_t k) {
  double sum = 0;
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t i = 0; i < k; ++i) {
      double product = 0;
      for (int64_t j = 0; j < k; ++j)
        product += static_cast<double>(h[static_cast<size_t>(i * k + j)]) *
                   static_cast<double>(d[static_cast<size_t>(row * k + j)]);
      sum += product * static_cast<double>(d[static_cast<size_t>(row * k + i)]);
    }
  }
  return sum;
}

double emulatedObjective(const Emulated& run, Buffer<float>& d, Buffer<float>& h, int64_t n, int64_t k) {
  Buffer<double> partials("partials", static_cast<size_t>(objectiveBlocks(n, k))), sum("sum", 1);
  if (objective(run, {d.global<const float>(), h.global<const float>(), partials.global(), sum.global(), n, k}) != 0)
    return NAN;
  return sum[0];
}

}  // namespace

TEST(calibration_objective_is_that_of_float64) {
  Random random(7);
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{1, 1}, {3, 40}, {33, 130}, {140, 129}, {20, 300}}) {
    const auto hessian = hessianOf(activations(random, 50, k), k);
    const std::vector<float> w = random.floats(n * k), approx = random.floats(n * k);
    std::vector<float> difference;
    for (size_t i = 0; i < w.size(); ++i) difference.push_back(w[i] - approx[i]);
    const double want = quadraticSum(difference, elements(*hessian), n, k);
    Buffer<float> weight("w", w), other("approx", approx), d("d", w.size()), h("h", elements(*hessian));
    const Emulated run{schedule(random)};
    Residual p{};
    p.on.n = n;
    p.on.k = k;
    p.w = weight.global<const float>();
    p.approx = other.global<const float>();
    p.d = d.global();
    if (lost(run, p) != 0) return;
    const double got = emulatedObjective(run, d, h, n, k);
    CHECK_MSG(std::abs(got - want) <= 2e-6 * want, "n=" + std::to_string(n) + " k=" + std::to_string(k) + ": " +
                                                       std::to_string(got) + " for " + std::to_string(want));
  }
}

// AWQ's candidates: what the CPU's steps give one after the other.
TEST(calibration_scaled_residual_is_the_cpus) {
  Random random(8);
  for (int i = 0; i < 8; ++i) {
    const int64_t n = 1 + random.below(50), k = 2 + random.below(200);
    const Grids g = randomGrid(random, k);
    const int64_t groups = (k + g.spec.groupSize - 1) / g.spec.groupSize;
    const std::vector<float> w = random.floats(n * k);
    std::vector<float> scale = random.floats(k), scaled(w.size()), approx(w.size()),
                       scales(static_cast<size_t>(n * groups));
    for (float& s : scale) s = 0.3f + std::abs(s);
    for (size_t at = 0; at < w.size(); ++at) scaled[at] = w[at] * scale[at % static_cast<size_t>(k)];
    std::vector<uint8_t> codes(w.size()), zeros(scales.size());
    const tsq::RoundedWeight out{codes.data(), scales.data(), g.spec.symmetric ? nullptr : zeros.data()};
    if (!CHECK(tsq::roundNearest(scaled.data(), n, k, g.spec, {}, nullptr, out, tsq::AbortFlag()).ok())) return;
    tsq::dequantizeCodes(codes.data(), scales.data(), out.zeros, n, k, g.spec.bits, g.spec.groupSize, nullptr,
                         approx.data());
    Buffer<float> weight("w", w), by("scale", scale), d("d", w.size());
    ScaledResidual p{};
    p.fit.grid = tsq::rounding::makeLaneGrid(g.spec);
    p.fit.w = weight.global<const float>();
    p.fit.n = n;
    p.fit.k = k;
    p.fit.size = g.spec.groupSize;
    p.fit.groups = groups;
    p.scale = by.global<const float>();
    p.d = d.global();
    if (lostScaled(Emulated{schedule(random)}, p) != 0) return;
    bool same = true;
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t c = 0; c < k; ++c) {
        const auto at = static_cast<size_t>(row * k + c);
        same = same && d[static_cast<size_t>(c * n + row)] == w[at] - approx[at] * (1 / scale[static_cast<size_t>(c)]);
      }
    }
    CHECK_MSG(same, describe(g, n, k));
  }
}

// The factor, codes and the objective: the same bits under any schedule.
TEST(calibration_results_depend_on_nothing_but_their_inputs) {
  Random random(9);
  const int64_t n = 12, k = 100, size = 32, groups = 4;
  const auto hessian = hessianOf(activations(random, 400, k, 7), k);
  const std::vector<int32_t> order = shuffled(random, k);
  const std::vector<float> w = random.floats(n * k);
  std::vector<float> scales(static_cast<size_t>(n * groups), 0.13f);
  const std::vector<uint8_t> dead(static_cast<size_t>(k));
  const LaneGrid grid = tsq::rounding::makeLaneGrid(tsq::GridSpec{});
  std::vector<float> u;
  std::vector<uint8_t> codes;
  double error = 0;
  for (int i = 0; i < 3; ++i) {
    const Factored factored = factor(random, *hessian, order, 0.01);
    const std::vector<uint8_t> found = roundAll(random, w, n, k, size, 50, grid, scales, {}, order, dead, factored.u);
    Buffer<float> d("d", w), h("h", elements(*hessian));
    const double sum = emulatedObjective(Emulated{schedule(random)}, d, h, n, k);
    if (i == 0) u = factored.u, codes = found, error = sum;
    CHECK(!factored.u.empty() && factored.u == u);
    CHECK(!found.empty() && found == codes);
    CHECK(sum == error);
  }
}
