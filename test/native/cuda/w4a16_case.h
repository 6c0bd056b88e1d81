// One W4A16 product with random contents, run in the emulation and compared with float64.
#pragma once
#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "check.h"
#include "cuda/emulation/buffer.h"
#include "cuda/w4a16/pack.cuh"
#include "cuda/w4a16/pack_host.h"
#include "cuda/w4a16/variants_wide.cuh"

namespace w4a16_test {

using namespace tsq::cuda;         // NOLINT: the vocabulary of kernels
using namespace tsq::cuda::w4a16;  // NOLINT
using tsq::emulation::Buffer;
using tsq::emulation::Copies;
using tsq::emulation::Launch;
using tsq::emulation::launch;
using tsq::emulation::Order;
using tsq::emulation::Outcome;

struct Case {
  Type type = Type::kF16;
  int m = 1;
  Shape shape{64, 64, 64};
  int blocks = 3;
  bool wide = false;
  bool zeros = false, order = false, bias = false, scalesAreBF16 = false;
  int padX = 0, padY = 0;  // elements between rows
  unsigned seed = 1;
};

inline std::string describe(const Case& c) {
  return std::string(c.type == Type::kF16 ? "f16" : "bf16") + " m=" + std::to_string(c.m) +
         " n=" + std::to_string(c.shape.n) + " k=" + std::to_string(c.shape.k) +
         " group=" + std::to_string(c.shape.group) + " blocks=" + std::to_string(c.blocks) + (c.wide ? " wide" : "") +
         (c.zeros ? " zeros" : "") + (c.order ? " order" : "") + (c.bias ? " bias" : "") +
         (c.scalesAreBF16 ? " bf16 scales" : "") + " padX=" + std::to_string(c.padX) +
         " padY=" + std::to_string(c.padY) + " seed=" + std::to_string(c.seed);
}

struct Data {
  std::vector<uint16_t> x, scales, zeros, bias;
  std::vector<uint8_t> codes;
  std::vector<int32_t> order;
};

inline float decode(Type type, uint16_t bits) {
  return type == Type::kF16 ? toFloat<Type::kF16>(bits) : toFloat<Type::kBF16>(bits);
}
inline uint16_t encode(Type type, float value) {
  return type == Type::kF16 ? fromFloat<Type::kF16>(value) : fromFloat<Type::kBF16>(value);
}

inline Data draw(const Case& c) {
  std::mt19937 random(c.seed);
  const auto uniform = [&](float low, float high) { return std::uniform_real_distribution<float>(low, high)(random); };
  const auto n = static_cast<size_t>(c.shape.n), k = static_cast<size_t>(c.shape.k);
  const auto groups = static_cast<size_t>((c.shape.k + c.shape.groupK() - 1) / c.shape.groupK());
  Data d;
  d.x.assign(static_cast<size_t>(c.m) * (k + static_cast<size_t>(c.padX)),
             encode(c.type, NAN));  // between rows: poison
  for (size_t row = 0; row < static_cast<size_t>(c.m); ++row) {
    for (size_t i = 0; i < k; ++i) d.x[row * (k + static_cast<size_t>(c.padX)) + i] = encode(c.type, uniform(-1, 1));
  }
  d.codes.resize(n * k);
  for (uint8_t& code : d.codes) code = static_cast<uint8_t>(random() % 16);
  d.scales.resize(n * groups);
  for (uint16_t& scale : d.scales) scale = encode(c.scalesAreBF16 ? Type::kBF16 : Type::kF16, uniform(0.001f, 0.1f));
  if (c.zeros) d.zeros.resize(n * groups);
  for (uint16_t& zero : d.zeros) zero = fromFloat<Type::kF16>(static_cast<float>(random() % 16));
  if (c.bias) d.bias.resize(n);
  for (uint16_t& bias : d.bias) bias = encode(c.type, uniform(-1, 1));
  if (c.order) d.order.resize(k);
  std::iota(d.order.begin(), d.order.end(), 0);
  std::shuffle(d.order.begin(), d.order.end(), random);
  return d;
}

// Runs the kernel that would be chosen; y gets m rows of n + padY, untouched elements 0xffff.
inline Outcome multiply(const Case& c, const Data& d, const Launch& how, std::vector<uint16_t>* y) {
  static constexpr Variants kF16 = variantsOf<Type::kF16>(), kBF16 = variantsOf<Type::kBF16>();
  static constexpr WideVariants kWideF16 = wideVariantsOf<Type::kF16>(), kWideBF16 = wideVariantsOf<Type::kBF16>();
  const bool f16 = c.type == Type::kF16;
  const Variant* wide = c.wide ? chooseWide(f16 ? kWideF16 : kWideBF16, c.shape, c.m) : nullptr;
  const Variant& chosen = wide != nullptr ? *wide : choose(f16 ? kF16 : kBF16, c.shape, c.m);
  const int64_t strideX = c.shape.k + c.padX, strideY = c.shape.n + c.padY;
  Buffer<Words> weights("weights", packCodesOnHost(c.shape, d.codes, d.order));
  Buffer<uint16_t> scales("scales", packScalesOnHost(c.shape, d.scales));
  Buffer<uint16_t> zeros("zeros", c.zeros ? packScalesOnHost(c.shape, d.zeros) : std::vector<uint16_t>{});
  Buffer<uint16_t> x("x", d.x), bias("bias", d.bias), out("y", static_cast<size_t>(c.m * strideY));
  Buffer<int32_t> order("order", d.order);
  Buffer<Floats> partials("partials", static_cast<size_t>(partialCount(chosen, c.shape, c.m, c.blocks)));
  Buffer<int> counters("counters", std::vector<int>(static_cast<size_t>(counterCount(chosen, c.shape, c.m))));
  Gemm gemm{c.shape,
            weights.global<const Words>(),
            scales.global<const Words>(),
            c.zeros ? zeros.global<const Words>() : Global<const Words>{},
            x.global<const uint16_t>(),
            c.order ? order.global<const int32_t>() : Global<const int32_t>{},
            c.bias ? bias.global<const uint16_t>() : Global<const uint16_t>{},
            out.global(),
            partials.global(),
            counters.global(),
            strideX,
            strideY,
            c.m,
            c.blocks,
            c.scalesAreBF16,
            !c.order && strideX % 8 == 0};
  Launch launched = how;
  launched.blocks = static_cast<int>(slabs(chosen, c.m)) * workOf(chosen, c.shape, c.blocks).blocks;
  launched.threads = chosen.threads;
  launched.sharedBytes = chosen.sharedBytes;
  const Outcome outcome = launch(launched, chosen.kernel, gemm);
  y->resize(out.size());
  for (size_t i = 0; i < out.size(); ++i) {
    const bool inside = static_cast<int64_t>(i) % strideY < c.shape.n;
    (*y)[i] = out.written(i) ? out[i] : uint16_t{0xffff};
    if (outcome.ok() && out.written(i) != inside)
      check::report(false, __FILE__, __LINE__, "y written exactly inside its rows");
  }
  for (int counter : counters.values()) {
    if (outcome.ok() && counter != 0) check::report(false, __FILE__, __LINE__, "counters are zero again");
  }
  return outcome;
}

// The largest error in units of what float32 sums and the rounding of y may lose:
// u (|y| + |bias|) + (k + 32) 2^-24 sum |x| s (1 + q/16 + 1 + z/16) 16, with u half a unit in the last place of y.
// And ||y - want|| / ||want||.
struct Errors {
  double worst, relative;
};
inline Errors errors(const Case& c, const Data& d, const std::vector<uint16_t>& y) {
  const int64_t groups = (c.shape.k + c.shape.groupK() - 1) / c.shape.groupK();
  const double unit = c.type == Type::kF16 ? 0x1p-11 : 0x1p-8;
  double worst = 0, difference = 0, norm = 0;
  for (int64_t row = 0; row < c.m; ++row) {
    for (int64_t n = 0; n < c.shape.n; ++n) {
      double want = 0, size = 0;
      for (int64_t p = 0; p < c.shape.k; ++p) {
        const int64_t k = c.order ? d.order[static_cast<size_t>(p)] : p, group = n * groups + p / c.shape.groupK();
        const double s = decode(c.scalesAreBF16 ? Type::kBF16 : Type::kF16, d.scales[static_cast<size_t>(group)]);
        const double z = c.zeros ? toFloat<Type::kF16>(d.zeros[static_cast<size_t>(group)]) : 8;
        const double q = d.codes[static_cast<size_t>(n * c.shape.k + k)];
        const double x = decode(c.type, d.x[static_cast<size_t>(row * (c.shape.k + c.padX) + k)]);
        want += s * (q - z) * x;
        size += s * (32 + q + z) * std::abs(x);
      }
      if (c.bias) want += decode(c.type, d.bias[static_cast<size_t>(n)]);
      const double got = decode(c.type, y[static_cast<size_t>(row * (c.shape.n + c.padY) + n)]);
      const double bound = unit * std::abs(want) + static_cast<double>(c.shape.k + 32) * 0x1p-24 * size + 0x1p-25;
      const double error = std::abs(got - want) / bound;
      if (!(error <= worst)) worst = error;
      difference += (got - want) * (got - want);
      norm += want * want;
    }
  }
  return {worst, std::sqrt(difference / norm)};
}

inline void checkCase(const Case& c, const Launch& how = {}) {
  const Data d = draw(c);
  std::vector<uint16_t> y;
  const Outcome outcome = multiply(c, d, how, &y);
  if (!CHECK_MSG(outcome.ok(), describe(c) + ": " + outcome.error)) return;
  const Errors found = errors(c, d, y);
  CHECK_MSG(found.worst <= 1, describe(c) + ": " + std::to_string(found.worst) + " of the bound");
  if (c.m * c.shape.n < 64) return;
  CHECK_MSG(found.relative <= (c.type == Type::kF16 ? 6e-4 : 4e-3),
            describe(c) + ": " + std::to_string(found.relative));
}

}  // namespace w4a16_test
