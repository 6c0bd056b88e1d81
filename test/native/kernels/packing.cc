// Packing: every code lands where layout/packed.h says, padding multiplies to nothing, bad input is refused.
#include "kernels/reference/reference.h"
#include "runtime/thread_pool.h"
#include "stored.h"
#include "support.h"

using namespace support;  // NOLINT: a test

namespace {

using tsq::layout::WeightKind;

uint32_t codeAt(const tsq::PackedWeight& weight, int64_t n, int64_t p) {
  return static_cast<uint32_t>(tsq::reference::codeAt(weight.view(), n, p));
}

WeightKind kindOf(int bits) {
  return bits == 2 ? WeightKind::kU2 : bits == 3 ? WeightKind::kU3 : bits == 4 ? WeightKind::kU4 : WeightKind::kU8;
}

void checkPacked(const Weight& w) {
  const tsq::Result<tsq::PackedWeight> result = tsq::packCodes(w.source());
  CHECK_MSG(result.ok(), result.status().message());
  const tsq::PackedWeight& packed = result.value();
  const tsq::layout::Shape& shape = packed.shape;
  CHECK(shape.kind == kindOf(w.bits));
  CHECK(packed.bits == w.bits);
  CHECK(static_cast<int64_t>(packed.data.size()) == tsq::layout::panels(shape) * tsq::layout::panelBytes(shape));

  int64_t wrong = 0, seen = 0;
  for (int64_t n = 0; n < w.n; ++n) {
    for (int64_t i = 0; i < w.k; ++i) {
      const int64_t column = packed.order.empty() ? i : packed.order[static_cast<size_t>(i)];
      wrong += codeAt(packed, n, tsq::layout::packedColumn(shape, i)) != w.codes[static_cast<size_t>(n * w.k + column)];
      ++seen;
    }
    for (int64_t group = 0; group < w.groups; ++group) {
      const size_t at = static_cast<size_t>(n * w.groups + group);
      wrong += tsq::reference::scaleAt(packed.view(), n, group) != w.scales[at];
      const int32_t zero = tsq::reference::zeroAt(packed.view(), n, group);
      wrong += zero != (w.zeros.empty() ? 1 << (w.bits - 1) : w.zeros[at]);
      // Padding columns of a real row hold the zero point.
      const int64_t size = std::min(shape.groupSize, shape.k - group * shape.groupSize);
      for (int64_t p = size; p < tsq::layout::roundUp(size, tsq::layout::groupAlign(shape.kind)); ++p) {
        wrong += codeAt(packed, n, group * tsq::layout::groupStride(shape) + p) != static_cast<uint32_t>(zero);
      }
    }
  }
  CHECK(seen == w.n * w.k);
  CHECK_MSG(wrong == 0, std::to_string(wrong) + " wrong of n " + std::to_string(w.n) + " k " + std::to_string(w.k));
  // Rows that pad the last panel have no scale.
  for (int64_t n = w.n; n < tsq::layout::panels(shape) * 16; ++n) {
    for (int64_t group = 0; group < w.groups; ++group) CHECK(tsq::reference::scaleAt(packed.view(), n, group) == 0.0);
  }
  // unpackRow gives back the value of every column, in the order of the activations.
  std::vector<float> row(static_cast<size_t>(w.k));
  for (int64_t n = 0; n < w.n; n += 7) {
    tsq::unpackRow(packed, n, row.data());
    for (int64_t i = 0; i < w.k; ++i) {
      const double exact = w.value(n, i);
      CHECK(std::fabs(row[static_cast<size_t>(i)] - exact) <= 2e-7 * w.magnitude(n, i));
    }
  }
}

}  // namespace

TEST(pack_codes_places_every_code) {
  Random random(11);
  for (int trial = 0; trial < 200; ++trial) {
    const int64_t n = random.integer(1, 70), k = random.integer(1, 300);
    const int64_t wanted[] = {8, 16, 128, k, random.integer(1, k)};
    WeightOptions options;
    options.bits = static_cast<int>(random.integer(2, 8));
    randomCentre(random, options);
    options.order = random.integer(0, 1) == 1;
    options.inputScale = random.integer(0, 1) == 1;
    checkPacked(randomWeight(random, n, k, std::min(k, wanted[trial % 5]), options));
  }
}

// Rows longer than what is converted at a time, of every width, with and without gaps behind groups.
TEST(pack_codes_long_rows) {
  Random random(15);
  for (int bits = 2; bits <= 8; ++bits) {
    for (int64_t k : {512, 513, 1055, 1536}) {
      for (int64_t groupSize : {int64_t{32}, int64_t{100}, int64_t{3}, k}) {
        const WeightOptions options{
            .bits = bits, .zeros = random.integer(0, 1) == 1, .order = random.integer(0, 2) == 0};
        checkPacked(randomWeight(random, random.integer(1, 33), k, groupSize, options));
      }
    }
  }
}

// Zero points of 2^bits and more are values like others: padding must not spill into other codes.
TEST(pack_codes_zero_points_outside_the_codes) {
  Random random(16);
  for (int bits = 2; bits <= 7; ++bits) {
    Weight w = randomWeight(random, 20, 90, 10, {.bits = bits, .zeros = true});
    for (uint8_t& zero : w.zeros) zero = static_cast<uint8_t>(random.integer(1 << bits, 255));
    const tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(w.source());
    CHECK(packed.ok());
    std::vector<float> row(90);
    for (int64_t n = 0; n < 20; ++n) {
      tsq::unpackRow(packed.value(), n, row.data());
      for (int64_t i = 0; i < 90; ++i) {
        CHECK(std::fabs(row[static_cast<size_t>(i)] - w.value(n, i)) <= 2e-7 * std::fabs(w.value(n, i)));
      }
    }
  }
}

// What a checkpoint stores is packed to the same bytes as its codes: where words are moved as they are and where they
// are not, for whole panels and parts of one, by any number of threads.
TEST(pack_codes_of_every_layout) {
  Random random(18);
  const auto same = [](const tsq::AlignedBuffer& a, const tsq::AlignedBuffer& b) {
    return a.size() == b.size() && (a.size() == 0 || std::memcmp(a.data(), b.data(), a.size()) == 0);
  };
  const int threads = tsq::ThreadPool::instance().threads();
  int64_t layouts = 0;
  for (int trial = 0; trial < 400; ++trial) {
    const int64_t n = trial % 3 == 0 ? 16 * random.integer(1, 9) : 8 * random.integer(1, 9) + trial % 2;
    const int64_t k = trial % 4 == 0 ? random.integer(1, 600) : 16 * random.integer(1, 70);
    const int64_t wanted[] = {16, 128, k, random.integer(1, k), 8 * random.integer(1, 9)};
    const WeightOptions options{.bits = trial % 2 == 0 ? 4 : static_cast<int>(random.integer(2, 8)),
                                .zeros = random.integer(0, 1) == 1,
                                .order = random.integer(0, 3) == 0};
    const Weight w = randomWeight(random, n, k, std::min(k, wanted[trial % 5]), options);
    const tsq::Result<tsq::PackedWeight> expected = tsq::packCodes(w.source());
    CHECK(expected.ok());
    tsq::ThreadPool::instance().setThreads(1 + trial % 3);
    for (const tsq::layout::CodeLayout layout : stored::kLayouts) {
      if (!stored::holds(layout, w.bits, n)) continue;
      const std::vector<uint8_t> bytes = stored::store(w.codes, layout, n, k, w.bits);
      tsq::CodesSource source = w.source();
      source.codes = bytes.data() + 1;
      source.layout = layout;
      const tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(source);
      CHECK_MSG(packed.ok(), packed.status().message());
      const tsq::PackedWeight &a = packed.value(), &b = expected.value();
      CHECK_MSG(same(a.data, b.data) && same(a.scales, b.scales) && same(a.zeros, b.zeros) && a.order == b.order,
                "layout " + std::to_string(static_cast<int>(layout)) + " of " + std::to_string(w.bits) + " bits, n " +
                    std::to_string(n) + " k " + std::to_string(k) + " group size " + std::to_string(w.groupSize));
      ++layouts;
    }
  }
  CHECK(layouts > 1200);
  tsq::ThreadPool::instance().setThreads(threads);

  Weight w = randomWeight(random, 20, 64, 16, {});
  tsq::CodesSource source = w.source();
  source.layout = tsq::layout::CodeLayout::kAwq;
  CHECK(tsq::packCodes(source).status().code() == tsq::Code::kOption);  // 20 rows are no whole words
}

TEST(pack_codes_keeps_scales_exactly_in_the_narrowest_type) {
  Random random(17);
  const auto typeOf = [&](std::vector<float> some) {
    Weight w = randomWeight(random, 40, 300, 7, {});
    for (float& scale : w.scales) scale = 0.25f;
    // The last ones: a scan that ends early would miss them.
    std::copy(some.begin(), some.end(), w.scales.end() - static_cast<int64_t>(some.size()));
    const tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(w.source());
    CHECK(packed.ok());
    for (int64_t n = 0; n < w.n; ++n) {
      for (int64_t group = 0; group < w.groups; ++group) {
        const float kept = static_cast<float>(tsq::reference::scaleAt(packed.value().view(), n, group));
        CHECK(tsq::floatToBits(kept) == tsq::floatToBits(w.scales[static_cast<size_t>(n * w.groups + group)]));
      }
    }
    return packed.value().scaleType;
  };
  using tsq::layout::ScaleType;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  CHECK(typeOf({}) == ScaleType::kF16);
  CHECK(typeOf({0.0f, -0.0f, 65504.0f, -1.5f, kInfinity}) == ScaleType::kF16);
  CHECK(typeOf({0x1p-14f, 0x1.ff8p-15f, 0x1p-24f, -0x1.8p-23f}) == ScaleType::kF16);  // down to the least subnormal
  CHECK(typeOf({0x1p-25f}) == ScaleType::kBF16);
  CHECK(typeOf({65536.0f}) == ScaleType::kBF16);
  CHECK(typeOf({0x1.02p-30f}) == ScaleType::kBF16);
  CHECK(typeOf({0x1.002p+0f}) == ScaleType::kF32);
  CHECK(typeOf({1e-3f}) == ScaleType::kF32);
  CHECK(typeOf({0x1.004p+0f, 0x1p-30f}) == ScaleType::kF32);  // each fits one type, but no type fits both
}

TEST(pack_codes_identity_order_is_dropped) {
  Random random(12);
  Weight w = randomWeight(random, 3, 20, 8, {});
  w.groupIndex.resize(20);
  for (int i = 0; i < 20; ++i) w.groupIndex[static_cast<size_t>(i)] = i / 8;
  const tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(w.source());
  CHECK(packed.ok() && packed.value().order.empty());
  checkPacked(w);
}

TEST(pack_codes_refuses) {
  Random random(13);
  for (int bits = 2; bits <= 7; ++bits) {
    for (int64_t bad : {0, 17, 59, 60 * 33 - 1}) {
      Weight w = randomWeight(random, 33, 60, 20, {.bits = bits});
      w.codes[static_cast<size_t>(bad)] = static_cast<uint8_t>(1 << bits);
      const tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(w.source());
      CHECK(packed.status().code() == tsq::Code::kFormat);
      const std::string where = std::to_string(bad / 60) + ", " + std::to_string(bad % 60);
      CHECK_MSG(packed.status().message().find(where) != std::string::npos, packed.status().message());
    }
  }
  // The same codes are refused in a permuted row too.
  Weight ordered = randomWeight(random, 5, 60, 20, {.order = true});
  ordered.codes[100] = 16;
  CHECK(tsq::packCodes(ordered.source()).status().code() == tsq::Code::kFormat);

  Weight w = randomWeight(random, 4, 12, 4, {.order = true});
  w.groupIndex[3] = 3;
  CHECK(tsq::packCodes(w.source()).status().code() == tsq::Code::kFormat);
  w.groupIndex[3] = -1;
  CHECK(tsq::packCodes(w.source()).status().code() == tsq::Code::kFormat);
  w.groupIndex.assign(12, 0);
  CHECK(tsq::packCodes(w.source()).status().code() == tsq::Code::kFormat);

  const auto code = [&](auto change) {
    const Weight weight = randomWeight(random, 4, 12, 4, {});
    tsq::CodesSource source = weight.source();
    change(source);
    return tsq::packCodes(source).status().code();
  };
  CHECK(code([](tsq::CodesSource& s) { s.n = 0; }) == tsq::Code::kShape);
  CHECK(code([](tsq::CodesSource& s) { s.k = 0; }) == tsq::Code::kShape);
  CHECK(code([](tsq::CodesSource& s) { s.groupSize = 0; }) == tsq::Code::kShape);
  CHECK(code([](tsq::CodesSource& s) { s.groupSize = 13; }) == tsq::Code::kShape);
  CHECK(code([](tsq::CodesSource& s) { s.bits = 1; }) == tsq::Code::kUnsupported);
  CHECK(code([](tsq::CodesSource& s) { s.bits = 9; }) == tsq::Code::kUnsupported);
}

TEST(pack_dense_round_trips) {
  Random random(14);
  const Dtype types[] = {Dtype::kF32, Dtype::kF16, Dtype::kBF16};
  forEachTable([&](const KernelTable&) {
    for (int from = 0; from < 3; ++from) {
      for (int to = 0; to < 3; ++to) {
        const int64_t n = random.integer(1, 40), k = random.integer(1, 90);
        const std::vector<uint8_t> bytes = toBytes(random.normals(n * k), types[from]);
        const std::vector<float> expected = fromBytes(toBytes(fromBytes(bytes, types[from]), types[to]), types[to]);
        const tsq::Result<tsq::PackedWeight> packed =
            tsq::packDense(bytes.data(), types[from], n, k, static_cast<WeightKind>(to));
        CHECK_MSG(packed.ok(), packed.status().message());
        std::vector<float> row(static_cast<size_t>(k));
        for (int64_t j = 0; j < n; ++j) {
          tsq::unpackRow(packed.value(), j, row.data());
          CHECK(sameBytes(row, {expected.begin() + j * k, expected.begin() + (j + 1) * k}));
        }
      }
    }
  });
  // Longer rows, whole panels and not, from memory of any alignment; NaN payloads stay where the type does.
  for (int from = 0; from < 3; ++from) {
    for (int64_t n : {16, 35}) {
      const int64_t k = 530;
      const size_t size = static_cast<size_t>(tsq::dtypeBytes(types[from]));
      std::vector<uint8_t> bytes(1 + size * static_cast<size_t>(n * k));
      for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.integer(0, 255));
      const tsq::Result<tsq::PackedWeight> packed =
          tsq::packDense(bytes.data() + 1, types[from], n, k, static_cast<WeightKind>(from));
      CHECK(packed.ok());
      int64_t wrong = 0;
      for (int64_t j = 0; j < n; ++j) {
        for (int64_t i = 0; i < k; ++i) {
          const size_t at = static_cast<size_t>(tsq::layout::element(packed.value().shape, j, i));
          wrong += std::memcmp(packed.value().data.as<uint8_t>() + at * size,
                               &bytes[1 + size * static_cast<size_t>(j * k + i)], size) != 0;
        }
      }
      CHECK_MSG(wrong == 0, std::to_string(wrong) + " wrong elements");
    }
  }
  const float one = 1;
  CHECK(tsq::packDense(&one, Dtype::kF32, 0, 1, WeightKind::kF32).status().code() == tsq::Code::kShape);
  CHECK(tsq::packDense(&one, Dtype::kI32, 1, 1, WeightKind::kF32).status().code() == tsq::Code::kDtype);
  CHECK(tsq::packDense(&one, Dtype::kF32, 1, 1, WeightKind::kU4).status().code() == tsq::Code::kUnsupported);
}
