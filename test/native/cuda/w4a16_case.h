// One W4A16 product run in the emulation.
#pragma once
#include "cuda/emulation/buffer.h"
#include "cuda/w4a16/pack.cuh"
#include "cuda/w4a16/pack_host.h"
#include "cuda/w4a16/variants_wide.cuh"
#include "w4a16_data.h"

namespace w4a16_test {

using tsq::emulation::Buffer;
using tsq::emulation::Copies;
using tsq::emulation::Launch;
using tsq::emulation::launch;
using tsq::emulation::Order;
using tsq::emulation::Outcome;

template <Type kType, Kind kKind>
Kernels kernelsOf(bool hopper) {
  static constexpr auto everywhere = variantsOf<kType, kKind, kSharedEverywhere>();
  static constexpr auto few = variantsOf<kType, kKind, kSharedHopper>();
  static constexpr auto many = wideVariantsOf<kType, kKind>();
  return hopper ? Kernels{few, many} : Kernels{everywhere, {}};
}
template <Type kType>
Kernels kernelsOf(Kind kind, bool hopper) {
  if (kind == Kind::kInt4) return kernelsOf<kType, Kind::kInt4>(hopper);
  if (kind == Kind::kBook4) return kernelsOf<kType, Kind::kBook4>(hopper);
  if (kind == Kind::kInt8) return kernelsOf<kType, Kind::kInt8>(hopper);
  return kernelsOf<kType, Kind::kFloat16>(hopper);
}
inline const Variant& chosenFor(const Case& c) {
  const bool hopper = c.wide || c.hopper;
  const Kind kind = c.shape.kind();
  const Kernels all = c.type == Type::kF16 ? kernelsOf<Type::kF16>(kind, hopper) : kernelsOf<Type::kBF16>(kind, hopper);
  const Variant* many = c.wide ? chooseWide(all.many, c.shape, c.m) : nullptr;
  return many != nullptr ? *many : choose(all.few, c.shape, c.m);
}
inline std::vector<Words> packedWeights(const Case& c, const Data& d) {
  return c.shape.bits < 16 ? packCodesOnHost(c.shape, d.codes, d.order) : packCodesOnHost(c.shape, d.weights, d.order);
}

// Runs the kernel that would be chosen; y gets m rows of n + padY, untouched elements 0xffff.
inline Outcome multiply(const Case& c, const Data& d, const Launch& how, std::vector<uint16_t>* y) {
  const bool scaled = c.shape.bits < 16;
  const Variant& chosen = chosenFor(c);
  const Plan plan = planOf(chosen, c.shape, c.m, c.blocks);
  const int64_t strideX = c.shape.k + c.padX, strideY = c.shape.n + c.padY;
  Buffer<Words> weights("weights", packedWeights(c, d));
  Buffer<uint16_t> scales("scales", packScalesOnHost(c.shape, d.scales));
  Buffer<uint16_t> zeros("zeros", c.zeros ? packScalesOnHost(c.shape, d.zeros) : std::vector<uint16_t>{});
  Buffer<uint16_t> x("x", d.x), bias("bias", d.bias), out("y", static_cast<size_t>(c.m * strideY));
  Buffer<int32_t> order("order", d.order);
  Buffer<Floats> partials("partials", static_cast<size_t>(partialCount(chosen, c.shape, c.m, c.blocks)));
  Buffer<int> counters("counters", std::vector<int>(static_cast<size_t>(counterCount(chosen, c.shape, c.m, c.blocks))));
  Gemm gemm{c.shape,
            weights.global<const Words>(),
            scaled ? scales.global<const Words>() : Global<const Words>{},
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
            plan.blocks,
            c.scalesAreBF16,
            !c.order && strideX % 8 == 0,
            bookOf(c)};
  Launch launched = how;
  launched.blocks = static_cast<int>(plan.grid());
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

inline void checkCase(const Case& c, const Launch& how = {}) {
  const Data d = draw(c);
  std::vector<uint16_t> y;
  const Outcome outcome = multiply(c, d, how, &y);
  if (CHECK_MSG(outcome.ok(), describe(c) + ": " + outcome.error)) checkErrors(c, d, y);
}

}  // namespace w4a16_test
