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
  for (const int bits : {4, 8, 16}) {
    for (const Case& c : everyGroupSizeAndVariant(bits)) checkCase(c);
  }
  for (const Case& c : everyGroupSizeAndVariant(4, true)) checkCase(c);
}

static Launch randomLaunch(Draw& draw) {
  Launch how;
  how.order = static_cast<Order>(draw.below(3));
  how.copies = static_cast<Copies>(draw.below(2));
  how.seed = draw.seed();
  how.residentBlocks = 1 + draw.below(4);
  return how;
}

TEST(w4a16_random_shapes) {
  Draw draw(20);
  for (int i = 0; i < 60; ++i) {
    const Case c = randomCase(draw);
    checkCase(c, randomLaunch(draw));
  }
}

TEST(w8a16_and_w16a16_random_shapes) {
  Draw draw(25);
  for (int i = 0; i < 60; ++i) {
    const Case c = randomWidth(draw);
    checkCase(c, randomLaunch(draw));
  }
}

TEST(book_random_shapes) {
  Draw draw(27);
  for (int i = 0; i < 60; ++i) {
    const Case c = randomBook(draw);
    checkCase(c, randomLaunch(draw));
  }
}

SLOW_TEST(w4a16_wide_random_shapes) {
  Draw draw(30);
  for (int i = 0; i < 36; ++i) {
    const Case c = randomWideCase(draw);
    checkCase(c, randomLaunch(draw));
  }
}

SLOW_TEST(w4a16_wide_every_group_size_and_variant) {
  for (const Kind kind : {Kind::kInt4, Kind::kBook4, Kind::kInt8, Kind::kFloat16}) {
    const int bits = kind == Kind::kInt8 ? 8 : kind == Kind::kFloat16 ? 16 : 4;
    for (Case c : everyGroupSizeAndVariant(bits, kind == Kind::kBook4)) {
      c.m = c.m == 3 ? 70 : c.m == 13 ? 40 : 29;
      c.wide = true;
      checkCase(c);
    }
  }
}

// Scales as far apart as the module lets the kernels have them, and rows without any.
TEST(w4a16_wide_extreme_scales) {
  for (const Kind kind : {Kind::kInt4, Kind::kBook4}) {
    Case c;
    c.type = Type::kBF16;
    c.m = 30;
    c.shape = {70, 640, 64, 4, kind == Kind::kBook4};
    c.scalesAreBF16 = true;
    c.wide = true;
    c.blocks = 1;
    Data d = draw(c);
    for (size_t i = 0; i < d.scales.size(); ++i) {
      const size_t n = i / 10, group = i % 10;
      const float value = n == 5 ? 0 : group % 3 == 0 ? 0x1p-40f : group % 3 == 1 ? 0 : n % 2 == 0 ? 0x1p-30f : 0x1p40f;
      d.scales[i] = encode(Type::kBF16, value);
    }
    std::vector<uint16_t> y;
    const Outcome outcome = multiply(c, d, {}, &y);
    if (CHECK_MSG(outcome.ok(), outcome.error)) checkErrors(c, d, y);
  }
}

// Every step of every column belongs to one block, and whoever shares a column knows with whom.
TEST(w4a16_joint_work_is_done_once) {
  Draw draw(31);
  for (int i = 0; i < 300; ++i) {
    const Shape shape{1 + draw.below(3000), 1 + draw.below(draw.below(2) == 0 ? 300 : 4000), 1 << 20};
    const Work work = jointWork(shape, 1 + draw.below(9), 1 + draw.below(140), kWideTilesN);
    std::vector<int> times(static_cast<size_t>(work.columns * work.steps));
    std::vector<int> parts(static_cast<size_t>(work.columns));
    CHECK(work.blocks > 0 && work.whole % work.blocks == 0 && work.whole <= work.columns);
    for (int block = 0; block < work.blocks; ++block) {
      int segments = 0;
      for (Walk walk(work, block); walk.left > 0; walk.nextSegment(work)) {
        if (!CHECK(walk.column < work.columns && walk.count > 0)) return;
        for (int at = 0; at < walk.count; ++at) {
          ++times[static_cast<size_t>(walk.column * work.steps + walk.first + at)];
        }
        ++parts[static_cast<size_t>(walk.column)];
        segments += walk.count < work.steps;
        if (walk.count == work.steps) continue;
        const int begin = (walk.column - work.whole) * work.steps;
        CHECK(begin >= 0 && work.owner(begin + walk.first) == block &&
              work.owner(begin + walk.first + walk.count - 1) == block);
      }
      CHECK(segments <= kPartialSlots);
    }
    for (const int count : times) CHECK(count == 1);
    for (int column = work.whole; column < work.columns; ++column) {
      const int begin = (column - work.whole) * work.steps;
      CHECK(work.owner(begin + work.steps - 1) - work.owner(begin) + 1 == parts[static_cast<size_t>(column)]);
    }
  }
}

// The same bits for every schedule, for every number of tokens beside, and with poison where no value belongs.
static void checkSchedules(const Case& c) {
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
}

SLOW_TEST(w4a16_results_depend_on_nothing_but_their_inputs) {
  Case c;
  c.m = 11;
  c.shape = {200, 900, 128};
  c.zeros = true;
  c.blocks = 5;
  checkSchedules(c);
  Case many = c;
  many.wide = true;
  for (const int m : {30, 140}) {
    many.m = m;
    checkSchedules(many);
  }
  const Data d = draw(c);
  std::vector<uint16_t> first;
  CHECK(multiply(c, d, {}, &first).ok());
  Case one = c;
  one.m = 1;
  Data alone = d;
  alone.x.resize(static_cast<size_t>(c.shape.k));
  std::vector<uint16_t> y;
  CHECK(multiply(one, alone, {}, &y).ok());
  CHECK(std::equal(y.begin(), y.end(), first.begin()));
}

// The kernels among which batch invariance chooses: a row has the same bits in every one of them.
SLOW_TEST(w4a16_rows_do_not_depend_on_their_number) {
  for (const Kind kind : {Kind::kInt4, Kind::kBook4, Kind::kInt8, Kind::kFloat16}) {
    for (const Type type : {Type::kF16, Type::kBF16}) {
      Case c;
      c.type = type;
      c.shape = {200, 700, kind == Kind::kFloat16 ? 700 : 128, kind == Kind::kInt8 ? 8 : 4, kind == Kind::kBook4};
      if (kind == Kind::kFloat16) c.shape.bits = 16;
      c.zeros = kind == Kind::kInt4;
      c.bias = true;
      c.blocks = 5;
      c.m = 100;
      Data d = draw(c);
      std::vector<uint16_t> all;
      Launch how;
      CHECK(multiply(c, d, how, &all).ok());
      for (const int m : {64, 25, 24, 17, 9, 8, 1}) {
        // Other rows than before, each elsewhere.
        const auto k = static_cast<size_t>(c.shape.k), n = static_cast<size_t>(c.shape.n);
        const auto from = static_cast<size_t>(100 - m);
        Case some = c;
        some.m = m;
        Data part = d;
        part.x.assign(d.x.begin() + static_cast<std::ptrdiff_t>(from * k), d.x.end());
        how.order = static_cast<Order>(m % 3);
        some.hopper = m % 2 == 0;  // more stages, the same sums
        std::vector<uint16_t> y;
        CHECK(multiply(some, part, how, &y).ok());
        CHECK_MSG(std::equal(y.begin(), y.end(), all.begin() + static_cast<std::ptrdiff_t>(from * n)),
                  describe(some) + ": the bits of 100 rows");
      }
    }
  }
}

TEST(w4a16_device_packing_is_host_packing) {
  for (const Kind kind : {Kind::kInt4, Kind::kBook4, Kind::kInt8, Kind::kFloat16}) {
    const int bits = kind == Kind::kInt8 ? 8 : kind == Kind::kFloat16 ? 16 : 4;
    Case c;
    c.shape = {100, 200, bits < 16 ? 32 : 200, bits, kind == Kind::kBook4};
    c.order = bits != 8;
    const Data d = draw(c);
    std::vector<uint8_t> rows = d.codes;
    if (bits == 16) rows.resize(d.weights.size() * 2);
    if (bits == 16) std::memcpy(rows.data(), d.weights.data(), rows.size());
    Buffer<uint8_t> codes("codes", rows);
    Buffer<int32_t> order("order", d.order);
    Buffer<Words> packed("packed", static_cast<size_t>(c.shape.weightWords()));
    Launch how;
    how.blocks = 3;
    how.threads = kPackThreads;
    const auto columns = c.order ? order.global<const int32_t>() : Global<const int32_t>{};
    Outcome outcome =
        launch(how, packCodes, PackCodes{c.shape, codes.global<const uint8_t>(), columns, packed.global()});
    CHECK_MSG(outcome.ok(), outcome.error);
    const std::vector<Words> want = packedWeights(c, d);
    CHECK(std::memcmp(want.data(), packed.values().data(), packed.values().size_bytes()) == 0);
    if (bits == 16) continue;
    Buffer<uint16_t> scales("scales", d.scales),
        packedScales("packed scales", static_cast<size_t>(c.shape.scaleWords() * 8));
    outcome = launch(how, packScales, PackScales{c.shape, scales.global<const uint16_t>(), packedScales.global()});
    CHECK_MSG(outcome.ok(), outcome.error);
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

// The same of code books, with every pair of codes in every register.
TEST(book_unpack_finds_every_value) {
  const auto check = [](auto type, const float(&values)[16]) {
    constexpr Type kType = decltype(type)::value;
    const Book book = makeBook<kType>(values);
    for (uint32_t codes = 0; codes < 256; ++codes) {
      for (int r = 0; r < 4; ++r) {
        uint32_t word = 0x5c93a06fu & ~(0xffu << 8 * r);
        for (int half = 0; half < 2; ++half) {
          word |= (codes >> 4 * half & 15) << shiftOf(Kind::kBook4, r, half);
        }
        uint32_t a[4];
        unpackBook(a, word, book);
        for (int half = 0; half < 2; ++half) {
          const double got = double{toFloat<kType>(static_cast<uint16_t>(a[r] >> 16 * half))} * book.scale;
          CHECK(got == bookValue<kType>(book, static_cast<int>(codes >> 4 * half & 15)));
        }
      }
    }
  };
  for (const auto* values : {&kNF4, &kFP4, &kOddBook}) {
    check(std::integral_constant<Type, Type::kF16>(), *values);
    check(std::integral_constant<Type, Type::kBF16>(), *values);
  }
}

// What 16 bits lose of a book, which the bounds of products rest on.
TEST(books_are_close_in_sixteen_bits) {
  CHECK(bookError<Type::kF16>(makeBook<Type::kF16>(kNF4), kNF4) < 1.9e-4);
  CHECK(bookError<Type::kBF16>(makeBook<Type::kBF16>(kNF4), kNF4) < 1.7e-3);
  CHECK(bookError<Type::kF16>(makeBook<Type::kF16>(kFP4), kFP4) < 1e-7);
  CHECK(bookError<Type::kBF16>(makeBook<Type::kBF16>(kFP4), kFP4) < 1e-7);
  CHECK(bookError<Type::kF16>(makeBook<Type::kF16>(kOddBook), kOddBook) < 0x1p-11);
}

TEST(w8a16_unpack_is_exact) {
  for (uint32_t q = 0; q < 256; ++q) {
    // The code in each byte in turn, others beside it.
    for (int byte = 0; byte < 4; ++byte) {
      const uint32_t word = rotateRight(q | 0xa5c30000u | (q ^ 0xffu) << 8, (32 - 8 * byte) % 32);
      uint32_t f16[2], bf16[2];
      unpackBytes<Type::kF16>(f16[0], f16[1], word);
      unpackBytes<Type::kBF16>(bf16[0], bf16[1], word);
      const int half = byte / 2 * 16;
      CHECK(toFloat<Type::kF16>(static_cast<uint16_t>(f16[byte % 2] >> half)) == static_cast<float>(q) - 128);
      CHECK(toFloat<Type::kBF16>(static_cast<uint16_t>(bf16[byte % 2] >> half)) == static_cast<float>(q) - 128);
    }
  }
}
