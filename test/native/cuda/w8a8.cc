// W8A8 in the emulation, s8 and e4m3: activations quantized as plain code does it, products against float64.
#include "w8a8_case.h"

using namespace w8a8_test;  // NOLINT

TEST(w8a8_one_token) {
  for (const Type type : {Type::kS8, Type::kE4M3}) {
    Case c;
    c.type = type;
    checkCase(c);
    c.n = 200;
    c.k = 1000;
    c.bias = true;
    checkCase(c);
  }
}

SLOW_TEST(w8a8_random_shapes) {
  Draw draw(40);
  for (int i = 0; i < 80; ++i) {
    const Case c = randomCase(draw, i % 2 == 0 ? Type::kS8 : Type::kE4M3);
    checkCase(c, randomLaunch(draw));
  }
}

SLOW_TEST(w8a8_wide_random_shapes) {
  Draw draw(41);
  for (int i = 0; i < 24; ++i) {
    const Case c = randomWideCase(draw, i % 2 == 0 ? Type::kS8 : Type::kE4M3);
    checkCase(c, randomLaunch(draw));
  }
}

// Sums of s8 are exact whichever kernel makes them, and how many blocks share them: the bits are the same.
SLOW_TEST(w8a8_integers_are_the_same_in_every_kernel) {
  Case c;
  c.m = 70;
  c.n = 300;
  c.k = 700;
  c.bias = c.shifted = true;
  const Data d = draw(c);
  std::vector<uint16_t> few, many;
  CHECK(multiply(c, d, {}, &few).ok());
  c.wide = true;
  for (const int blocks : {1, 5, 9}) {
    c.blocks = blocks;
    CHECK(multiply(c, d, {}, &many).ok());
    CHECK(few == many);
  }
}

// Sums of s8 at their largest, where float32 could not hold them, and in the last place.
TEST(w8a8_integer_sums_are_exact) {
  Case c;
  c.n = 3;
  c.k = 70001;
  c.given = c.one = true;
  Data d = draw(c);
  d.given = 1;
  d.scales = {0x1p-14f};
  for (size_t i = 0; i < d.x.size(); ++i) {
    d.x[i] = encode(false, i + 1 == d.x.size() ? 1.0f : 127.0f);
    for (size_t n = 0; n < 3; ++n)
      d.weights[n * d.x.size() + i] = static_cast<uint8_t>(n == 0 ? -128 : n == 1 ? 127 : 1);
  }
  std::vector<uint16_t> y;
  const Outcome outcome = multiply(c, d, {}, &y);
  CHECK_MSG(outcome.ok(), outcome.error);
  for (size_t n = 0; n < 3; ++n) {
    const double weight = n == 0 ? -128 : n == 1 ? 127 : 1;
    CHECK(y[n] == encode(false, static_cast<float>((70000.0 * 127 + 1) * weight * 0x1p-14)));
  }
}

// The same bits for every schedule and every number of tokens beside; of s8 also for every number of blocks.
static void checkDependence(Type type, int m, int fewer) {
  Case c;
  c.type = type;
  c.wide = m > 24;
  c.m = m;
  c.n = 300;
  c.k = 900;
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
    Case other = c;
    if (type == Type::kS8) other.blocks = static_cast<int>(seed);
    std::vector<uint16_t> y;
    const Outcome outcome = multiply(other, d, how, &y);
    CHECK_MSG(outcome.ok(), outcome.error);
    CHECK(y == first);
  }
  Case some = c;
  some.m = fewer;
  Data part = d;
  part.x.resize(static_cast<size_t>(fewer * c.k));
  std::vector<uint16_t> y;
  CHECK(multiply(some, part, {}, &y).ok());
  CHECK(std::equal(y.begin(), y.end(), first.begin()));
}

SLOW_TEST(w8a8_results_depend_on_nothing_but_their_inputs) {
  for (const Type type : {Type::kS8, Type::kE4M3}) {
    checkDependence(type, 11, 9);
    checkDependence(type, 40, 33);
  }
  checkDependence(Type::kS8, 11, 1);  // in another kernel
}

// Tokens of zeros, of the smallest numbers, with an infinity or NaN: the others are as ever.
TEST(w8a8_tokens_that_have_no_grid) {
  for (const Type type : {Type::kS8, Type::kE4M3}) {
    for (const bool block : {false, true}) {
      if (block && type == Type::kS8) continue;
      for (const bool shifted : {false, true}) {
        if (shifted && type == Type::kE4M3) continue;
        Case c;
        c.type = type;
        c.m = 6;
        c.n = 70;
        c.k = 300;
        c.bf16 = true;
        c.bias = true;
        c.block = block;
        c.shifted = shifted;
        Data d = draw(c);
        for (size_t i = 0; i < 300; ++i) d.x[i] = 0;
        for (size_t i = 0; i < 300; ++i) d.x[300 + i] = i % 3 == 0 ? 0x0001 : 0x8000;  // 2^-133 and -0
        d.x[2 * 300 + 5] = encode(true, INFINITY);
        d.x[3 * 300 + 299] = encode(true, NAN);
        std::vector<uint16_t> y;
        const Outcome outcome = multiply(c, d, {}, &y);
        CHECK_MSG(outcome.ok(), outcome.error);
        const double worst = worstError(c, d, quantize(c, d), y);
        CHECK_MSG(worst <= 1, describe(c) + ": " + std::to_string(worst) + " of the bound");
        for (size_t n = 0; n < 70; ++n) {
          CHECK(y[n] == d.bias[n] && y[70 + n] == d.bias[n]);
          CHECK(std::isnan(decode(true, y[2 * 70 + n])) && std::isnan(decode(true, y[3 * 70 + n])));
          CHECK(std::isfinite(decode(true, y[4 * 70 + n])));
        }
      }
    }
  }
}

// Every float32 around a border between two codes, and the ends.
TEST(e4m3_is_rounded_to_the_nearest_code) {
  for (int code = 0; code < 0x7f; ++code) {
    const auto low = static_cast<float>(codeValue(Type::kE4M3, static_cast<uint8_t>(code)));
    const float high = code == 0x7e ? 480 : static_cast<float>(codeValue(Type::kE4M3, static_cast<uint8_t>(code + 1)));
    const float middle = (low + high) / 2;
    for (const float x : {low, middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1000.0f), high}) {
      CHECK_MSG(toE4M3(x) == nearestE4M3(x), std::to_string(x));
      CHECK_MSG(toE4M3(-x) == nearestE4M3(-x), std::to_string(-x));
    }
  }
  CHECK(toE4M3(INFINITY) == 0x7e && toE4M3(-INFINITY) == 0xfe && toE4M3(NAN) == 0x7f);
}

TEST(w8a8_layouts_hold_every_element_once) {
  const w4a16::Shape pairs = pairsOf(70, 300);
  CHECK(pairs.weightWords() == 2 * 3 * kTileWords);
  for (const int m : {1, 8, 9, 24, 25, 33, 65, 129}) {
    const int rows = rowsOf(m);
    CHECK(rows >= m && rows % 8 == 0);
    std::vector<int> seen(static_cast<size_t>(activationWords(pairs, rows)));
    for (int row = 0; row < rows; ++row) {
      for (int64_t chunk = 0; chunk < 24; ++chunk) ++seen.at(static_cast<size_t>(activationWord(rows, row, chunk)));
    }
    CHECK(std::all_of(seen.begin(), seen.end(), [](int count) { return count == 1; }));
  }
}
