// What products need beside themselves, in the emulation.
#include <array>
#include <cstring>

#include "cuda/emulation/buffer.h"
#include "cuda/w4a16/decode.cuh"
#include "cuda/w4a16/pack_host.h"
#include "cuda/w4a16/read.cuh"
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

template <typename T>
static std::vector<uint32_t> wordsOf(const std::vector<T>& packed) {
  std::vector<uint32_t> words(packed.size() * sizeof(T) / sizeof(uint32_t));
  std::memcpy(words.data(), packed.data(), words.size() * sizeof(uint32_t));
  return words;
}

// Bit for bit what packing the dequantized weight gives, padding apart.
TEST(decoded_codes_are_the_packed_weights) {
  unsigned seed = 0;
  for (const int bits : {4, 8}) {
    for (const auto& [n, k, group] :
         {std::array{64, 64, 64}, {100, 200, 32}, {33, 70, 16}, {130, 300, 128}, {70, 90, 90}}) {
      Case c;
      c.type = ++seed % 2 == 0 ? Type::kF16 : Type::kBF16;
      c.shape = {n, k, group, bits};
      c.zeros = seed % 3 == 0;
      c.scalesAreBF16 = seed % 4 == 0;
      c.seed = seed;
      const Data d = draw(c);
      const auto groups = static_cast<size_t>((k + group - 1) / group);
      const auto value = [&](int64_t row, int64_t column) {
        const size_t at = static_cast<size_t>(row) * groups + static_cast<size_t>(column / group);
        const float zero = c.zeros ? toFloat<Type::kF16>(d.zeros[at]) : bits == 4 ? 8 : 128;
        const auto code = static_cast<float>(d.codes[static_cast<size_t>(row * k + column)]);
        return encode(c.type, decode(c.scalesAreBF16 ? Type::kBF16 : Type::kF16, d.scales[at]) * (code - zero));
      };
      const Shape wide = decodedShape(c.shape);
      Buffer<uint32_t> weights("weights", wordsOf(packCodesOnHost(c.shape, d.codes, d.order)));
      Buffer<uint32_t> scales("scales", wordsOf(packScalesOnHost(c.shape, d.scales)));
      Buffer<uint32_t> zeros("zeros", c.zeros ? wordsOf(packScalesOnHost(c.shape, d.zeros)) : std::vector<uint32_t>{});
      Buffer<Words> to("decoded", static_cast<size_t>(wide.weightWords()));
      Launch how;
      how.blocks = 3;
      how.threads = kDecodeThreads;
      const Outcome outcome =
          launch(how, decodeCodes,
                 DecodeCodes{c.shape, weights.global<const uint32_t>(), scales.global<const uint32_t>(),
                             c.zeros ? zeros.global<const uint32_t>() : Global<const uint32_t>{}, to.global(),
                             c.type == Type::kBF16, c.scalesAreBF16});
      if (!CHECK_MSG(outcome.ok(), outcome.error)) continue;
      for (int64_t i = 0; i < wide.weightWords(); ++i) {
        for (int j = 0; j < 4; ++j) {
          const auto inside = [&](int64_t row, int64_t column) { return row < n && column < k; };
          const uint32_t want = packWord(wide, i, j, [&](int64_t row, int64_t column) -> uint32_t {
            return inside(row, column) ? value(row, column) : 0;
          });
          const uint32_t mask = packWord(
              wide, i, j, [&](int64_t row, int64_t column) -> uint32_t { return inside(row, column) ? 0xffff : 0; });
          CHECK_MSG((to[static_cast<size_t>(i)].v[j] & mask) == want, describe(c));
        }
      }
    }
  }
}

// The sink is written exactly where a thread finds the number, so that a word which is not read would show.
TEST(the_read_probe_reads_every_word) {
  for (const size_t words : {size_t{1}, size_t{255}, size_t{5000}}) {
    for (const size_t at : {size_t{0}, words / 2, words - 1, words}) {
      std::vector<Words> values(words);
      if (at < words) values[at].v[at % 4] = 0x12345678u;
      Buffer<Words> from("memory", values);
      Buffer<uint32_t> sink("sink", 1);
      Launch how;
      how.blocks = 2;
      how.threads = kReadThreads;
      const Outcome outcome =
          launch(how, readAll, ReadAll{from.global<const Words>(), static_cast<int64_t>(words), sink.global()});
      CHECK_MSG(outcome.ok(), outcome.error);
      CHECK(sink.written(0) == (at < words));
    }
  }
}
