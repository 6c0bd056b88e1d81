// One W8A8 product run in the emulation, from rows of weights and activations to y.
#pragma once
#include <cstring>

#include "cuda/emulation/buffer.h"
#include "cuda/w8a8/pack.cuh"
#include "cuda/w8a8/quantize.cuh"
#include "cuda/w8a8/variants_wide.cuh"
#include "w8a8_data.h"

namespace w8a8_test {

using tsq::emulation::Buffer;
using tsq::emulation::Copies;
using tsq::emulation::Launch;
using tsq::emulation::launch;
using tsq::emulation::Order;
using tsq::emulation::Outcome;

inline Choice chosen(const Case& c) {
  static constexpr Variants kS8 = variantsOf<Type::kS8>(), kE4M3 = variantsOf<Type::kE4M3>();
  static constexpr Variants kWideS8 = wideVariantsOf<Type::kS8>(), kWideE4M3 = wideVariantsOf<Type::kE4M3>();
  const bool s8 = c.type == Type::kS8;
  if (c.wide && c.m > 24) return many(s8 ? kWideS8 : kWideE4M3, pairsOf(c.n, c.k), c.m, c.blocks);
  return few(s8 ? kS8 : kE4M3, c.m, c.blocks);
}

// What lies on the device between the steps.
struct Run {
  Buffer<uint16_t> x, bias, y;
  Buffer<uint8_t> rows;
  Buffer<float> rowScales, given;
  Buffer<Words> codes, weights;
  Buffer<float> scales, weightScales;
  Buffer<Floats> blockScales;
  Buffer<int32_t> zeros, sums;
};

inline Outcome quantizeOn(const Case& c, Run& run, Launch how) {
  const w4a16::Shape pairs = pairsOf(c.n, c.k);
  const Quantize p{run.x.global<const uint16_t>(),
                   c.given ? run.given.global<const float>() : Global<const float>{},
                   run.codes.global(),
                   run.scales.global(),
                   c.shifted ? run.zeros.global() : Global<int32_t>{},
                   pairs,
                   c.k,
                   c.k + c.padX,
                   c.m,
                   rowsOf(c.m),
                   c.bf16,
                   (c.k + c.padX) % 8 == 0};
  how.threads = kQuantizeThreads;
  how.sharedBytes = kQuantizeThreads / 32 * 16;
  how.blocks = c.block ? 3 : rowsOf(c.m);
  return launch(how,
                c.block               ? quantizeBlocks
                : c.type == Type::kS8 ? quantizeTokens<Type::kS8>
                                      : quantizeTokens<Type::kE4M3>,
                p);
}

inline Outcome packOn(const Case& c, Run& run, Launch how) {
  const w4a16::Shape pairs = pairsOf(c.n, c.k);
  const PackCodes codes{pairs, c.k, run.rows.global<const uint8_t>(), c.flipped ? 0x80u : 0u, run.weights.global()};
  how.blocks = 3;
  how.threads = kPackThreads;
  Outcome outcome = launch(how, packCodes, codes);
  if (outcome.ok() && c.shifted) outcome = launch(how, sumCodes, SumCodes{codes, run.sums.global()});
  if (!outcome.ok()) return outcome;
  const PackScales scales{pairs,
                          Scales::kF32,
                          c.one,
                          run.rowScales.global<const uint8_t>(),
                          c.block ? Global<float>{} : run.weightScales.global(),
                          c.block ? run.blockScales.global() : Global<Floats>{}};
  return launch(how, packScales, scales);
}

// The activations on the device are those of plain code, bit by bit; padding is zero.
inline bool quantizedRight(const Case& c, const Run& run, const Quantized& want) {
  const int rows = rowsOf(c.m);
  const int64_t tiles = pairsOf(c.n, c.k).tiles(), spans = c.block ? tiles : 1;
  const auto* bytes = reinterpret_cast<const uint8_t*>(run.codes.values().data());
  for (int row = 0; row < rows; ++row) {
    for (int64_t k = 0; k < tiles * kTileK; ++k) {
      const auto at = static_cast<size_t>(activationWord(rows, row, k / 16) * 16 + k % 16);
      const bool inside = row < c.m && k < c.k;
      if (bytes[at] != (inside ? want.codes[static_cast<size_t>(row * c.k + k)] : 0)) return false;
    }
    for (int64_t span = 0; span < spans; ++span) {
      const float scale = row < c.m ? want.scales[static_cast<size_t>(row * spans + span)] : 0;
      const float got = run.scales[static_cast<size_t>(span * rows + row)];
      if (std::memcmp(&scale, &got, 4) != 0 && !(std::isnan(scale) && std::isnan(got))) return false;
    }
    if (c.shifted && run.zeros[static_cast<size_t>(row)] != (row < c.m ? want.zeros[static_cast<size_t>(row)] : 0)) {
      return false;
    }
  }
  return true;
}

// Everything; y gets m rows of n + padY, untouched elements 0xffff.
inline Outcome multiply(const Case& c, const Data& d, const Launch& how, std::vector<uint16_t>* y) {
  const w4a16::Shape pairs = pairsOf(c.n, c.k);
  const int rows = rowsOf(c.m);
  const auto [chosenVariant, blocks] = chosen(c);
  const Variant& variant = *chosenVariant;
  const int64_t strideY = c.n + c.padY;
  const auto spans = static_cast<size_t>(c.block ? pairs.tiles() : 1);
  Run run{{"x", d.x},
          {"bias", d.bias},
          {"y", static_cast<size_t>(c.m * strideY)},
          {"rows", d.weights},
          {"scales of rows", d.scales},
          {"given", std::vector<float>{d.given}},
          {"codes", static_cast<size_t>(activationWords(pairs, rows))},
          {"weights", static_cast<size_t>(pairs.weightWords())},
          {"scales of x", static_cast<size_t>(rows) * spans},
          {"scales of weights", static_cast<size_t>(c.n)},
          {"scales of blocks", static_cast<size_t>(blockScaleWords(pairs))},
          {"zeros", static_cast<size_t>(rows)},
          {"sums", static_cast<size_t>(c.n)}};
  Outcome outcome = quantizeOn(c, run, how);
  if (!outcome.ok()) return outcome;
  CHECK_MSG(quantizedRight(c, run, quantize(c, d)), describe(c) + ": activations as plain code quantizes them");
  outcome = packOn(c, run, how);
  if (!outcome.ok()) return outcome;
  Buffer<Words> partials("partials", static_cast<size_t>(partialCount(variant, pairs, c.m, blocks)));
  Buffer<int> counters("counters", std::vector<int>(static_cast<size_t>(counterCount(variant, pairs, c.m))));
  const Gemm gemm{pairs,
                  run.weights.global<const Words>(),
                  run.codes.global<const Words>(),
                  run.scales.global<const float>(),
                  c.block ? Global<const float>{} : run.weightScales.global<const float>(),
                  c.block ? run.blockScales.global<const Floats>() : Global<const Floats>{},
                  c.shifted ? run.zeros.global<const int32_t>() : Global<const int32_t>{},
                  c.shifted ? run.sums.global<const int32_t>() : Global<const int32_t>{},
                  c.bias ? run.bias.global<const uint16_t>() : Global<const uint16_t>{},
                  run.y.global(),
                  partials.global(),
                  counters.global(),
                  strideY,
                  c.m,
                  rows,
                  blocks,
                  c.bf16,
                  strideY % 4 == 0};
  Launch launched = how;
  launched.blocks = static_cast<int>(w4a16::slabs(variant, c.m)) * w4a16::workOf(variant, pairs, blocks).blocks;
  launched.threads = variant.threads;
  launched.sharedBytes = variant.sharedBytes;
  outcome = launch(launched, variant.kernel, gemm);
  y->resize(run.y.size());
  for (size_t i = 0; i < run.y.size(); ++i) {
    const bool inside = static_cast<int64_t>(i) % strideY < c.n;
    (*y)[i] = run.y.written(i) ? run.y[i] : uint16_t{0xffff};
    if (outcome.ok() && run.y.written(i) != inside)
      check::report(false, __FILE__, __LINE__, describe(c) + ": y written exactly inside its rows");
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
  if (!CHECK_MSG(outcome.ok(), describe(c) + ": " + outcome.error)) return;
  const double worst = worstError(c, d, quantize(c, d), y);
  CHECK_MSG(worst <= 1, describe(c) + ": " + std::to_string(worst) + " of the bound");
}

inline Launch randomLaunch(Draw& draw) {
  Launch how;
  how.order = static_cast<Order>(draw.below(3));
  how.copies = static_cast<Copies>(draw.below(2));
  how.seed = draw.seed();
  how.residentBlocks = 1 + draw.below(4);
  return how;
}

}  // namespace w8a8_test
