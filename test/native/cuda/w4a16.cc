// W4A16 in the emulation, against float64, over shapes, formats and schedules.
#include "w4a16_case.h"

using namespace w4a16_test;  // NOLINT

TEST(w4a16_one_token) {
  for (const Type type : {Type::kF16, Type::kBF16}) {
    Case c;
    c.type = type;
    checkCase(c);
    c.shape = {128, 256, 128};
    checkCase(c);
  }
}

TEST(w4a16_every_group_size_and_variant) {
  unsigned seed = 10;
  for (const Type type : {Type::kF16, Type::kBF16}) {
    for (const int m : {3, 13, 29}) {
      for (const int64_t group : {16, 32, 64, 128, 256, 1000}) {
        Case c;
        c.type = type;
        c.m = m;
        c.shape = {80, 328, group};
        c.zeros = seed % 2 == 0;
        c.scalesAreBF16 = seed % 3 == 0;
        c.seed = seed++;
        checkCase(c);
      }
    }
  }
}

TEST(w4a16_random_shapes) {
  std::mt19937 random(20);
  const auto below = [&](int limit) { return static_cast<int>(random() % static_cast<unsigned>(limit)); };
  for (int i = 0; i < 60; ++i) {
    constexpr int64_t kGroups[] = {16, 32, 64, 128, 192, 256, 4096};
    Case c;
    c.type = below(2) == 0 ? Type::kF16 : Type::kBF16;
    c.m = 1 + (below(4) == 0 ? below(70) : below(18));
    c.shape = {1 + below(300), 1 + below(700), kGroups[below(7)]};
    c.blocks = 1 + below(7);
    c.zeros = below(2) == 0;
    c.order = below(4) == 0;
    c.bias = below(2) == 0;
    c.scalesAreBF16 = below(2) == 0;
    c.padX = below(2) == 0 ? 0 : below(20);
    c.padY = below(2) == 0 ? 0 : below(20);
    c.seed = random();
    Launch how;
    how.order = static_cast<Order>(below(3));
    how.copies = static_cast<Copies>(below(2));
    how.seed = random();
    how.residentBlocks = 1 + below(4);
    checkCase(c, how);
  }
}

TEST(w4a16_wide_random_shapes) {
  std::mt19937 random(30);
  const auto below = [&](int limit) { return static_cast<int>(random() % static_cast<unsigned>(limit)); };
  for (int i = 0; i < 24; ++i) {
    constexpr int64_t kGroups[] = {64, 128, 192, 4096};
    Case c;
    c.wide = true;
    c.type = i % 2 == 0 ? Type::kF16 : Type::kBF16;
    c.m = 25 + below(i % 3 == 0 ? 80 : 10);
    c.shape = {1 + below(400), 1 + below(500), kGroups[below(4)]};
    c.blocks = 1 + below(5);
    c.zeros = below(2) == 0;
    c.order = below(4) == 0;
    c.bias = below(2) == 0;
    c.scalesAreBF16 = below(2) == 0;
    c.padX = below(2) == 0 ? 0 : below(20);
    c.padY = below(2) == 0 ? 0 : below(20);
    c.seed = random();
    Launch how;
    how.order = static_cast<Order>(below(3));
    how.copies = static_cast<Copies>(below(2));
    how.seed = random();
    how.residentBlocks = 1 + below(3);
    checkCase(c, how);
  }
}

// The same bits for every schedule, for every number of tokens beside, and with poison where no value belongs.
TEST(w4a16_results_depend_on_nothing_but_their_inputs) {
  Case c;
  c.m = 11;
  c.shape = {200, 900, 128};
  c.zeros = true;
  c.blocks = 5;
  const Data d = draw(c);
  std::vector<uint16_t> first;
  CHECK(multiply(c, d, {}, &first).ok());
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    Launch how;
    how.order = static_cast<Order>(seed % 3);
    how.copies = static_cast<Copies>(seed % 2);
    how.seed = seed;
    how.residentBlocks = static_cast<int>(seed);
    std::vector<uint16_t> y;
    const Outcome outcome = multiply(c, d, how, &y);
    CHECK_MSG(outcome.ok(), outcome.error);
    CHECK(y == first);
  }
  Case one = c;
  one.m = 1;
  Data alone = d;
  alone.x.resize(static_cast<size_t>(c.shape.k));
  std::vector<uint16_t> y;
  CHECK(multiply(one, alone, {}, &y).ok());
  CHECK(std::equal(y.begin(), y.end(), first.begin()));
}

TEST(w4a16_device_packing_is_host_packing) {
  for (const bool ordered : {false, true}) {
    Case c;
    c.shape = {100, 200, 32};
    c.order = ordered;
    const Data d = draw(c);
    Buffer<uint8_t> codes("codes", d.codes);
    Buffer<int32_t> order("order", d.order);
    Buffer<uint16_t> scales("scales", d.scales),
        packedScales("packed scales", static_cast<size_t>(c.shape.scaleWords() * 8));
    Buffer<Words> packed("packed", static_cast<size_t>(c.shape.weightWords()));
    Launch how;
    how.blocks = 3;
    how.threads = kPackThreads;
    const auto columns = ordered ? order.global<const int32_t>() : Global<const int32_t>{};
    Outcome outcome =
        launch(how, packCodes, PackCodes{c.shape, codes.global<const uint8_t>(), columns, packed.global()});
    CHECK_MSG(outcome.ok(), outcome.error);
    outcome = launch(how, packScales, PackScales{c.shape, scales.global<const uint16_t>(), packedScales.global()});
    CHECK_MSG(outcome.ok(), outcome.error);
    const std::vector<Words> want = packCodesOnHost(c.shape, d.codes, d.order);
    CHECK(std::memcmp(want.data(), packed.values().data(), packed.values().size_bytes()) == 0);
    const std::vector<uint16_t> wantScales = packScalesOnHost(c.shape, d.scales);
    CHECK(std::equal(wantScales.begin(), wantScales.end(), packedScales.values().begin()));
  }
}

// Every code at every place comes out of a word as the value and at the element that the layout says.
TEST(w4a16_unpack_is_exact) {
  for (uint32_t q = 0; q < 16; ++q) {
    for (int r = 0; r < 4; ++r) {
      for (int half = 0; half < 2; ++half) {
        const uint32_t word = rotateRight(q, 32 - (shiftOf(r) + 16 * half) % 32);
        uint32_t f16[4], bf16[4];
        unpack<Type::kF16>(f16, word);
        unpack<Type::kBF16>(bf16, word);
        for (int i = 0; i < 8; ++i) {
          const float want = i == 2 * r + half ? 1 + static_cast<float>(q) / 16 : 1;
          CHECK(toFloat<Type::kF16>(static_cast<uint16_t>(f16[i / 2] >> i % 2 * 16)) == want);
          CHECK(toFloat<Type::kBF16>(static_cast<uint16_t>(bf16[i / 2] >> i % 2 * 16)) == want);
        }
      }
    }
  }
}
