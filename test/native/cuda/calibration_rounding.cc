// Scales, codes, GPTQ's loop and objectives in the emulation, against float64 and beside the CPU's.
#include "calibration_run.h"

using namespace calibration_test;  // NOLINT

// Scales, zero points and codes are the CPU's to the bit.
SLOW_TEST(calibration_nearest_codes_are_the_cpus) {
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
SLOW_TEST(calibration_columns_are_rounded_as_in_float64) {
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
