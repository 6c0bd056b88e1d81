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

template <Type kType>
Variants variants(Kind kind) {
  static constexpr auto k4 = variantsOf<kType, Kind::kInt4>(), kBook = variantsOf<kType, Kind::kBook4>();
  static constexpr auto k8 = variantsOf<kType, Kind::kInt8>();
  static constexpr auto k16 = variantsOf<kType, Kind::kFloat16>();
  return kind == Kind::kInt4    ? Variants(k4)
         : kind == Kind::kBook4 ? Variants(kBook)
         : kind == Kind::kInt8  ? Variants(k8)
                                : Variants(k16);
}
inline Variants variants(Type type, Kind kind) {
  return type == Type::kF16 ? variants<Type::kF16>(kind) : variants<Type::kBF16>(kind);
}
template <Type kType>
Variants wideVariants(Kind kind) {
  static constexpr auto k4 = wideVariantsOf<kType, Kind::kInt4>(), kBook = wideVariantsOf<kType, Kind::kBook4>();
  static constexpr auto k8 = wideVariantsOf<kType, Kind::kInt8>();
  static constexpr auto k16 = wideVariantsOf<kType, Kind::kFloat16>();
  return kind == Kind::kInt4    ? Variants(k4)
         : kind == Kind::kBook4 ? Variants(kBook)
         : kind == Kind::kInt8  ? Variants(k8)
                                : Variants(k16);
}
inline Variants wideVariants(Type type, Kind kind) {
  return type == Type::kF16 ? wideVariants<Type::kF16>(kind) : wideVariants<Type::kBF16>(kind);
}
inline std::vector<Words> packedWeights(const Case& c, const Data& d) {
  return c.shape.bits < 16 ? packCodesOnHost(c.shape, d.codes, d.order) : packCodesOnHost(c.shape, d.weights, d.order);
}

// Runs the kernel that would be chosen; y gets m rows of n + padY, untouched elements 0xffff.
inline Outcome multiply(const Case& c, const Data& d, const Launch& how, std::vector<uint16_t>* y) {
  const bool scaled = c.shape.bits < 16;
  const Variant* wide = c.wide ? chooseWide(wideVariants(c.type, c.shape.kind()), c.shape, c.m) : nullptr;
  const Variant& chosen = wide != nullptr ? *wide : choose(variants(c.type, c.shape.kind()), c.shape, c.m);
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
