// What products need beside themselves, in the emulation.
#include <array>

#include "cuda/emulation/buffer.h"
#include "cuda/w4a16/scale.cuh"
#include "w4a16_data.h"

using namespace w4a16_test;      // NOLINT
using namespace tsq::emulation;  // NOLINT

TEST(scaled_columns_are_those_of_float32) {
  for (const auto& [m, k, blocks] : {std::array{1, 1, 1}, {3, 70, 2}, {5, 300, 1}, {40, 7, 3}, {2, 1000, 4}}) {
    for (const Type type : {Type::kF16, Type::kBF16}) {
      std::mt19937 random(static_cast<unsigned>(k));
      std::uniform_real_distribution<float> uniform(-2, 2);
      std::vector<uint16_t> x(static_cast<size_t>(m * k));
      std::vector<float> factors(static_cast<size_t>(k));
      for (uint16_t& value : x) value = encode(type, uniform(random));
      for (float& factor : factors) factor = uniform(random);
      Buffer<uint16_t> in("x", x), out("y", x.size());
      Buffer<float> by("factors", factors);
      Launch how;
      how.blocks = blocks;
      how.threads = kScaleThreads;
      how.order = Order::kRandom;
      how.seed = static_cast<uint64_t>(m);
      const Outcome outcome = launch(
          how, scaleColumns,
          ScaleColumns{in.global<const uint16_t>(), by.global<const float>(), out.global(), m, k, type == Type::kBF16});
      if (!CHECK_MSG(outcome.ok(), outcome.error)) continue;
      for (size_t i = 0; i < x.size(); ++i) {
        CHECK(out.written(i) && out[i] == encode(type, decode(type, x[i]) * factors[i % factors.size()]));
      }
    }
  }
}
