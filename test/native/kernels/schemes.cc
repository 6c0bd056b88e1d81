// Activations as a weight's scheme says: every instruction set against float64 on activations that are rounded here,
// one by one and by another way.
#include <algorithm>

#include "kernels/activation_rows.h"
#include "runtime/thread_pool.h"
#include "support.h"

using namespace support;  // NOLINT: a test

namespace {

using tsq::ActivationGrain;
using tsq::ActivationScheme;
using tsq::ActivationType;

constexpr ActivationScheme of(ActivationType type, ActivationGrain grain, int64_t groupSize = 0) {
  ActivationScheme scheme;
  scheme.type = type;
  scheme.grain = grain;
  scheme.groupSize = groupSize;
  return scheme;
}

// Of a number by the numbers of an 8-bit float: the nearest, of two the one with the even code.
double nearest(float (*value)(uint8_t), double x) {
  if (std::isnan(x)) return x;
  int best = 0;
  for (int code = 0; code < 128; ++code) {
    const double at = value(static_cast<uint8_t>(code));
    if (!std::isfinite(at)) continue;
    const double here = std::fabs(std::fabs(x) - at),
                 there = std::fabs(std::fabs(x) - value(static_cast<uint8_t>(best)));
    if (here < there || (here == there && code % 2 == 0)) best = code;
  }
  return std::copysign(value(static_cast<uint8_t>(best)), x);
}

struct Rounded {
  std::vector<double> x, magnitude;  // magnitude: of what a value is the difference
};

// Scale and zero point of some values, in f32 as engines compute them.
void gridOf(const ActivationScheme& scheme, const std::vector<float>& values, float* scale, int* zero) {
  *scale = scheme.scale;
  *zero = scheme.zero;
  if (!scheme.dynamic) return;
  float least = INFINITY, most = -INFINITY, peak = 0;
  for (const float x : values) {
    least = std::min(least, x);
    most = std::max(most, x);
    if (scheme.threshold == 0 || std::fabs(x) < scheme.threshold) peak = std::max(peak, std::fabs(x));
  }
  *zero = 0;
  if (scheme.type != ActivationType::kInt8) {
    const float top = scheme.type == ActivationType::kE4M3 ? 448.0f : 57344.0f;
    *scale =
        scheme.grain == ActivationGrain::kGroup ? std::max(peak, 1e-10f) / top : std::max(peak / top, 1 / (top * 512));
  } else if (scheme.symmetric) {
    *scale = peak / 127.0f;
  } else {
    *scale = (most - least) / 255.0f;
    *zero = static_cast<int>(std::nearbyint(-128.0f - least / *scale));
  }
}

Rounded roundAll(const ActivationScheme& scheme, const std::vector<float>& x, int64_t m, int64_t k) {
  Rounded out{std::vector<double>(x.size()), std::vector<double>(x.size())};
  std::vector<bool> keep(static_cast<size_t>(k));
  for (size_t i = 0; i < x.size(); ++i)
    if (scheme.threshold > 0 && std::fabs(x[i]) >= scheme.threshold) keep[i % static_cast<size_t>(k)] = true;
  const int64_t run = scheme.grain == ActivationGrain::kTensor  ? m * k
                      : scheme.grain == ActivationGrain::kToken ? k
                                                                : scheme.groupSize;
  for (int64_t row = 0, begin = 0; begin < m * k; begin = std::min(begin + run, (row + 1) * k)) {
    if (run == m * k) row = m;  // all at once
    while (row < m && begin >= (row + 1) * k) ++row;
    const int64_t end = run == m * k ? m * k : std::min(begin + run, (row + 1) * k);
    float scale;
    int zero;
    gridOf(scheme, {x.begin() + begin, x.begin() + end}, &scale, &zero);
    for (int64_t i = begin; i < end; ++i) {
      const size_t at = static_cast<size_t>(i);
      double value = 0;
      if (keep[static_cast<size_t>(i % k)]) {
        value = x[at];
      } else if (scale > 0) {
        const float exact = x[at] / scale;
        if (scheme.type == ActivationType::kInt8)
          value = std::clamp(std::nearbyint(double{exact}) + zero, -128.0, 127.0) - zero;
        if (scheme.type == ActivationType::kE4M3) value = nearest([](uint8_t b) { return tsq::e4m3ToFloat(b); }, exact);
        if (scheme.type == ActivationType::kE5M2) value = nearest([](uint8_t b) { return tsq::e5m2ToFloat(b); }, exact);
        value *= scale;
      }
      out.x[at] = value;
      out.magnitude[at] = std::fabs(value) + std::fabs(double{scale} * zero);
    }
    if (end == m * k) break;
  }
  return out;
}

struct Shape {
  int64_t m, n, k, groupSize;
};

std::string describe(const KernelTable& table, const ActivationScheme& s, const Shape& shape, const Weight& w) {
  return std::string(table.name) + " type " + std::to_string(static_cast<int>(s.type)) + " grain " +
         std::to_string(static_cast<int>(s.grain)) + (s.dynamic ? " dynamic" : " static") +
         (s.symmetric ? "" : " zero points") + (s.threshold > 0 ? " outliers" : "") + " m " + std::to_string(shape.m) +
         " n " + std::to_string(shape.n) + " k " + std::to_string(shape.k) + " group " +
         std::to_string(shape.groupSize) + " bits " + std::to_string(w.bits) + (w.zeros.empty() ? "" : " zeros") +
         (w.offsets.empty() ? "" : " offsets") + (w.groupIndex.empty() ? "" : " ordered") +
         (w.inputScale.empty() ? "" : " input scale") + (w.book.empty() ? "" : " book");
}

std::vector<float> multiply(const tsq::PackedWeight& weight, const std::vector<uint8_t>& x, Dtype type, int64_t m,
                            const float* bias) {
  std::vector<float> y(static_cast<size_t>(m * weight.shape.n), NAN);
  const tsq::Status status = tsq::matmul({&weight, x.data(), type, weight.shape.k, m, y.data(), Dtype::kF32,
                                          weight.shape.n, bias, tsq::Activations::kScheme});
  CHECK_MSG(status.ok(), status.message());
  return y;
}

// Rows of sizes of their own; some columns far larger than the others.
std::vector<float> activations(Random& random, int64_t m, int64_t k, bool planted) {
  std::vector<float> x(static_cast<size_t>(m * k));
  for (int64_t row = 0; row < m; ++row) {
    const float size = planted ? 1 : std::exp(random.uniform(-3, 3)), shift = random.uniform(-1, 1);
    for (int64_t i = 0; i < k; ++i) x[static_cast<size_t>(row * k + i)] = size * (random.normal() + shift);
  }
  for (int64_t i = 0; planted && i < k; i += 37)
    x[static_cast<size_t>(random.integer(0, m - 1) * k + i)] = 40 + random.normal();
  return x;
}

void checkScheme(Random& random, const ActivationScheme& scheme, const Shape& shape, Weight w, Dtype type) {
  const std::vector<uint8_t> bytes = toBytes(activations(random, shape.m, shape.k, scheme.threshold > 0), type);
  std::vector<float> x = fromBytes(bytes, type);
  for (size_t i = 0; !w.inputScale.empty() && i < x.size(); ++i) x[i] *= w.inputScale[i % w.inputScale.size()];
  const Rounded rounded = roundAll(scheme, x, shape.m, shape.k);
  Weight plain = w;
  plain.inputScale.clear();
  const std::vector<float> bias = random.normals(shape.n);
  std::vector<double> exact(static_cast<size_t>(shape.m * shape.n)), size(exact.size());
  for (int64_t r = 0; r < shape.m; ++r) {
    for (int64_t j = 0; j < shape.n; ++j) {
      double sum = bias[static_cast<size_t>(j)], most = std::fabs(sum);
      for (int64_t i = 0; i < shape.k; ++i) {
        sum += rounded.x[static_cast<size_t>(r * shape.k + i)] * plain.value(j, i);
        most += rounded.magnitude[static_cast<size_t>(r * shape.k + i)] * plain.magnitude(j, i);
      }
      exact[static_cast<size_t>(r * shape.n + j)] = sum;
      size[static_cast<size_t>(r * shape.n + j)] = most;
    }
  }
  tsq::CodesSource source = w.source();
  source.activations = scheme;
  const tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(source);
  CHECK_MSG(packed.ok(), packed.status().message());
  if (!packed.ok()) return;
  forEachTable([&](const KernelTable& table) {
    const std::vector<float> y = multiply(packed.value(), bytes, type, shape.m, bias.data());
    const double error = relativeError(y, exact, size);
    CHECK_MSG(error <= 1e-6, describe(table, scheme, shape, w) + ": error " + std::to_string(error * 1e6) + "e-6");
  });
}

std::vector<float> bookOf(float (*value)(uint8_t)) {
  std::vector<float> book(256);
  for (size_t i = 0; i < book.size(); ++i) book[i] = value(static_cast<uint8_t>(i));
  return book;
}

Weight weightOf(Random& random, const Shape& shape, int trial) {
  WeightOptions options{.bits = trial % 2 == 0 ? 8 : static_cast<int>(random.integer(2, 8))};
  randomCentre(random, options);
  options.order = random.integer(0, 4) == 0;
  options.inputScale = random.integer(0, 4) == 0;
  if (trial % 5 < 3) return randomWeight(random, shape.n, shape.k, shape.groupSize, options);
  options.zeros = options.offsets = false;
  options.bits = trial % 5 == 3 ? 8 : 4;
  Weight w = randomWeight(random, shape.n, shape.k, shape.groupSize, options);
  w.book = trial % 5 == 4 ? random.normals(16)
                          : bookOf(random.integer(0, 1) == 0 ? [](uint8_t b) { return tsq::e4m3ToFloat(b); }
                                                             : [](uint8_t b) { return tsq::e5m2ToFloat(b); });
  for (uint8_t& code : w.codes) {
    while (!std::isfinite(w.book[code])) code = static_cast<uint8_t>(random.integer(0, 255));
  }
  return w;
}

std::vector<ActivationScheme> schemes() {
  using enum ActivationType;
  using enum ActivationGrain;
  std::vector<ActivationScheme> all = {
      of(kInt8, kToken),      of(kInt8, kTensor), of(kInt8, kGroup, 64), of(kInt8, kToken),    of(kInt8, kTensor),
      of(kInt8, kToken),      of(kInt8, kTensor), of(kInt8, kTensor),    of(kE4M3, kToken),    of(kE4M3, kTensor),
      of(kE4M3, kGroup, 128), of(kE4M3, kTensor), of(kE5M2, kToken),     of(kE4M3, kGroup, 40)};
  all[3].symmetric = all[4].symmetric = false;
  all[5].threshold = 6;
  all[6].dynamic = all[7].dynamic = all[11].dynamic = false;
  all[6].scale = 0.0123f;  // saturates some
  all[7].symmetric = false;
  all[7].scale = 0.031f;
  all[7].zero = -37;
  all[11].scale = 0.004f;
  return all;
}

}  // namespace

TEST(scheme_random_products) {
  Random random(61);
  const std::vector<ActivationScheme> all = schemes();
  const Dtype types[] = {Dtype::kF32, Dtype::kF16, Dtype::kBF16};
  for (int trial = 0; trial < 280; ++trial) {
    const int64_t k = random.integer(1, 600), sizes[] = {k, 128, 40, random.integer(1, k)};
    const Shape shape{random.integer(1, 40), random.integer(1, 90), k, std::min(k, sizes[trial / 14 % 4])};
    const ActivationScheme& scheme = all[static_cast<size_t>(trial) % all.size()];
    checkScheme(random, scheme, shape, weightOf(random, shape, trial / 14), types[trial % 3]);
  }
}

// Every number of rows that kernels treat differently, with the codes that schemes are made of.
TEST(scheme_rows) {
  Random random(62);
  const std::vector<ActivationScheme> all = schemes();
  for (const int64_t m : {1, 2, 3, 4, 5, 8, 9, 16, 17, 33}) {
    for (size_t i = 0; i < all.size(); ++i) {
      const int64_t group = all[i].grain == ActivationGrain::kGroup ? all[i].groupSize : 520;
      const Shape shape{m, 70, 520, group};
      const int kind = all[i].type == ActivationType::kInt8 ? 0 : 3;
      Weight w = weightOf(random, shape, kind);
      w.groupIndex.clear();
      checkScheme(random, all[i], shape, w, Dtype::kF32);
    }
  }
}

TEST(scheme_rows_that_are_odd) {
  Random random(63);
  const Weight w = randomWeight(random, 20, 100, 100, {.bits = 8});
  for (ActivationScheme scheme : schemes()) {
    if (scheme.grain == ActivationGrain::kTensor && scheme.dynamic) continue;  // rows share what is odd
    tsq::CodesSource source = w.source();
    source.activations = scheme;
    const tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(source);
    CHECK(packed.ok());
    std::vector<float> x(500);
    for (size_t i = 0; i < 100; ++i) {
      x[i] = 0;                                     // nothing
      x[100 + i] = i == 3 ? NAN : random.normal();  // a NaN is never lost
      x[200 + i] = 2.5f;                            // all the same
      x[300 + i] = 1e-42f * random.normal();        // no scale that an f32 holds
      x[400 + i] = random.normal();
    }
    forEachTable([&](const KernelTable& table) {
      const std::vector<float> y = multiply(packed.value(), toBytes(x, Dtype::kF32), Dtype::kF32, 5, nullptr);
      for (size_t j = 0; j < 20; ++j) {
        const std::string what = std::string(table.name) + " type " + std::to_string(static_cast<int>(scheme.type)) +
                                 " output " + std::to_string(j) + " ";
        CHECK_MSG(std::fabs(y[j]) < 1e-4f, what + "of nothing: " + std::to_string(y[j]));
        CHECK_MSG(std::isnan(y[20 + j]), what + "of a NaN");
        double sum = 0;
        for (int64_t i = 0; i < 100; ++i) sum += w.value(static_cast<int64_t>(j), i);
        const double tolerance = scheme.dynamic ? 0.05 : 2;  // one code; static ones saturate
        if (scheme.dynamic || scheme.type != ActivationType::kInt8)
          CHECK_MSG(std::fabs(y[40 + j] - 2.5 * sum) <= tolerance * (std::fabs(2.5 * sum) + 1),
                    what + "of equal numbers: " + std::to_string(y[40 + j]));
        CHECK_MSG(std::fabs(y[60 + j]) < 1e-4f, what + "of subnormal numbers");
        CHECK_MSG(std::isfinite(y[80 + j]), what + "of a row beside odd ones");
      }
    });
  }
}

TEST(scheme_threads_do_not_matter) {
  Random random(64);
  for (const ActivationScheme& scheme : schemes()) {
    const Shape shape{37, 300, 512, scheme.grain == ActivationGrain::kGroup ? scheme.groupSize : 512};
    Weight w = weightOf(random, shape, scheme.type == ActivationType::kInt8 ? 0 : 3);
    tsq::CodesSource source = w.source();
    source.activations = scheme;
    const tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(source);
    CHECK(packed.ok());
    const std::vector<uint8_t> x = toBytes(activations(random, shape.m, shape.k, true), Dtype::kF32);
    const int before = tsq::ThreadPool::instance().threads();
    std::vector<float> first;
    for (const int threads : {1, 2, 5}) {
      tsq::ThreadPool::instance().setThreads(threads);
      const std::vector<float> y = multiply(packed.value(), x, Dtype::kF32, shape.m, nullptr);
      if (first.empty()) first = y;
      CHECK(std::memcmp(first.data(), y.data(), y.size() * sizeof(float)) == 0);
    }
    tsq::ThreadPool::instance().setThreads(before);
  }
}

// Several products of one input: what they share and what they do not.
TEST(scheme_products_of_one_input) {
  Random random(65);
  std::vector<tsq::PackedWeight> weights;
  const std::vector<ActivationScheme> all = schemes();
  for (const size_t index : {size_t{0}, size_t{0}, size_t{3}, size_t{5}, size_t{5}, size_t{8}}) {
    const Shape shape{1, 48, 256, 256};
    const Weight w = weightOf(random, shape, all[index].type == ActivationType::kInt8 ? 0 : 3);
    tsq::CodesSource source = w.source();
    source.activations = all[index];
    tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(source);
    CHECK(packed.ok());
    weights.push_back(std::move(packed.value()));
  }
  for (const int64_t m : {1, 7, 40}) {
    const std::vector<float> x = activations(random, m, 256, true);
    std::vector<std::vector<float>> outputs(weights.size(), std::vector<float>(static_cast<size_t>(m * 48)));
    std::vector<tsq::MatmulArgs> args;
    for (size_t i = 0; i < weights.size(); ++i)
      args.push_back({&weights[i], x.data(), Dtype::kF32, 256, m, outputs[i].data(), Dtype::kF32, 48, nullptr,
                      tsq::Activations::kScheme});
    CHECK(tsq::matmulGroup(args.data(), static_cast<int>(args.size())).ok());
    for (size_t i = 0; i < weights.size(); ++i) {
      const std::vector<float> alone = multiply(weights[i], toBytes(x, Dtype::kF32), Dtype::kF32, m, nullptr);
      CHECK(std::memcmp(alone.data(), outputs[i].data(), alone.size() * sizeof(float)) == 0);
    }
  }
}

TEST(scheme_refusals) {
  Random random(66);
  const Weight w = randomWeight(random, 4, 32, 32, {.bits = 8});
  const auto refused = [&](ActivationScheme scheme) {
    tsq::CodesSource source = w.source();
    source.activations = scheme;
    CHECK(tsq::packCodes(source).status().code() == tsq::Code::kFormat);
  };
  const ActivationScheme token = of(ActivationType::kInt8, ActivationGrain::kToken);
  ActivationScheme s = token;
  s.scale = NAN;
  refused(s);
  s = token, s.threshold = -1;
  refused(s);
  s = token, s.dynamic = false;
  refused(s);
  s = token, s.zero = 3;
  refused(s);
  s = token, s.groupSize = 8;
  refused(s);
  s = of(ActivationType::kE4M3, ActivationGrain::kToken), s.symmetric = false;
  refused(s);
  s = of(ActivationType::kInt8, ActivationGrain::kGroup);
  refused(s);
  s = of(ActivationType::kInt8, ActivationGrain::kGroup), s.groupSize = 8, s.threshold = 6;
  refused(s);
  s = token, s.type = static_cast<ActivationType>(9);
  refused(s);
}
