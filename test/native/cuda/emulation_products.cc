// Products of the emulated tensor cores against float64, through the loads that feed them on a device.
#include <cmath>
#include <string>

#include "check.h"
#include "cuda/emulation/buffer.h"

namespace {

using namespace tsq::cuda;  // NOLINT: the vocabulary of kernels
using tsq::emulation::Buffer;
using tsq::emulation::Launch;
using tsq::emulation::launch;
using tsq::emulation::Outcome;

// y[16][8] = a[16][k] b, where b is given by columns (columnMajor: [8][k]) or by rows ([k][8]). Elements of kBits bits;
// every ldmatrix takes 16 rows of 16 bytes.
template <typename Sum, int kDepth, bool kByRows, typename Multiply>
void oneProduct(Global<const Words> a, Global<const Words> b, Global<Sum> y, Multiply multiply) {
  const int lane = threadIndex();
  const auto sa = sharedMemory<Words>(0), sb = sa + 32;
  copyAsync(sa + lane, a + lane);  // 16 rows of two chunks
  const int chunks = kByRows ? kDepth : 16;
  if (lane < chunks) copyAsync(sb + lane, b + lane);
  commitCopies();
  waitCopies<0>();
  syncThreads();
  uint32_t fa[4], fb[4];
  loadMatrices(fa, sa + (lane % 16 * 2 + lane / 16));
  if (kByRows) {
    loadMatricesTransposed(fb, sb + lane % 16);
  } else {
    loadMatrices(fb, sb + (lane % 8 * 2 + lane / 8 % 2));
  }
  Sum d[4] = {};
  multiply(d, fa, fb[0], fb[1]);
  for (int i = 0; i < 4; ++i) store(y + ((lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2), d[i]);
}

template <Type kType, bool kByRows>
TSQ_KERNEL(32)
productKernel(Global<const Words> a, Global<const Words> b, Global<float> y) {
  oneProduct<float, kType == Type::kE4M3 ? 32 : 16, kByRows>(
      a, b, y, [](float(&d)[4], const uint32_t(&x)[4], uint32_t b0, uint32_t b1) { multiply<kType>(d, x, b0, b1); });
}

TSQ_KERNEL(32) productS8Kernel(Global<const Words> a, Global<const Words> b, Global<int32_t> y) {
  oneProduct<int32_t, 32, false>(
      a, b, y, [](int32_t(&d)[4], const uint32_t(&x)[4], uint32_t b0, uint32_t b1) { multiplyS8(d, x, b0, b1); });
}

// The value of a code, exactly.
double value(Type type, int bytes, uint32_t bits) {
  return tsq::emulation::element(type, bytes == 1 ? bits & 0xff : bits & 0xffff, 0);
}

template <Type kType, bool kByRows>
void checkProduct() {
  constexpr int kBytes = kType == Type::kE4M3 ? 1 : 2, kDepth = 32 / kBytes;
  std::mt19937 random(7);
  const auto draw = [&] {
    const float x = std::uniform_real_distribution<float>(-2, 2)(random);
    if (kType == Type::kE4M3) return static_cast<uint16_t>(random() % 2 * 128 + random() % 0x48);
    return fromFloat<kType>(x);
  };
  std::vector<uint8_t> a(512), b(kByRows ? 256 : 256);
  for (auto* bytes : {&a, &b}) {
    for (size_t i = 0; i < bytes->size(); i += kBytes) {
      const uint16_t bits = draw();
      std::memcpy(bytes->data() + i, &bits, kBytes);
    }
  }
  const auto at = [&](const std::vector<uint8_t>& bytes, int index) {
    uint16_t bits = 0;
    std::memcpy(&bits, bytes.data() + index * kBytes, kBytes);
    return value(kType, kBytes, bits);
  };
  Buffer<uint8_t> da("a", a), db("b", b);
  Buffer<float> y("y", 128);
  Launch how;
  how.sharedBytes = 1024;
  const Outcome outcome =
      launch(how, productKernel<kType, kByRows>, da.global<const Words>(), db.global<const Words>(), y.global());
  CHECK_MSG(outcome.ok(), outcome.error);
  for (int row = 0; row < 16 && outcome.ok(); ++row) {
    for (int column = 0; column < 8; ++column) {
      double want = 0, size = 0;
      for (int k = 0; k < kDepth; ++k) {
        const double term = at(a, row * kDepth + k) * at(b, kByRows ? k * 8 + column : column * kDepth + k);
        want += term;
        size += std::abs(term);
      }
      const double got = y[static_cast<size_t>(row * 8 + column)];
      CHECK_MSG(std::abs(got - want) <= size * kDepth * 0x1p-24, std::to_string(got) + " for " + std::to_string(want));
    }
  }
}

}  // namespace

TEST(mma_f16_multiplies_fragments_that_ldmatrix_loads) {
  checkProduct<Type::kF16, false>();
  checkProduct<Type::kF16, true>();
}
TEST(mma_bf16_multiplies_fragments_that_ldmatrix_loads) {
  checkProduct<Type::kBF16, false>();
  checkProduct<Type::kBF16, true>();
}
TEST(mma_e4m3_multiplies_fragments_that_ldmatrix_loads) {
  checkProduct<Type::kE4M3, false>();
}

TEST(mma_s8_is_exact) {
  std::mt19937 random(8);
  std::vector<int8_t> a(512), b(256);
  for (auto* values : {&a, &b}) {
    for (int8_t& x : *values) x = static_cast<int8_t>(static_cast<int>(random() % 256) - 128);
  }
  Buffer<int8_t> da("a", a), db("b", b);
  Buffer<int32_t> y("y", 128);
  Launch how;
  how.sharedBytes = 1024;
  const Outcome outcome = launch(how, productS8Kernel, da.global<const Words>(), db.global<const Words>(), y.global());
  CHECK_MSG(outcome.ok(), outcome.error);
  for (int row = 0; row < 16 && outcome.ok(); ++row) {
    for (int column = 0; column < 8; ++column) {
      int want = 0;
      for (int k = 0; k < 32; ++k)
        want += a[static_cast<size_t>(row * 32 + k)] * b[static_cast<size_t>(column * 32 + k)];
      CHECK(y[static_cast<size_t>(row * 8 + column)] == want);
    }
  }
}

TEST(e4m3_covers_its_range) {
  using tsq::emulation::e4m3ToFloat;
  CHECK(e4m3ToFloat(0x00) == 0.0f && e4m3ToFloat(0x01) == 0x1p-9f && e4m3ToFloat(0x08) == 0x1p-6f);
  CHECK(e4m3ToFloat(0x38) == 1.0f && e4m3ToFloat(0x7e) == 448.0f && e4m3ToFloat(0xfe) == -448.0f);
  CHECK(std::isnan(e4m3ToFloat(0x7f)) && std::isnan(e4m3ToFloat(0xff)));
}

namespace {
TSQ_KERNEL(64) lanesKernel(Global<uint32_t> y) {
  const int thread = threadIndex(), lane = thread % 32;
  const uint32_t odd = ballot(lane % 2 == 1);
  const float next = shuffleFrom(static_cast<float>(lane), lane + 1);
  uint32_t half = 0;
  if (lane >= 16) {
    half = ballot(lane < 20, 0xffff0000u);
    // Ordered by syncWarp alone: lanes 16 to 31 exchange through shared memory.
    const auto words = sharedMemory<uint32_t>(0) + thread / 32 * 32;
    store(words + lane, odd + static_cast<uint32_t>(lane));
    syncWarp(0xffff0000u);
    half += load(words + (47 - lane));
  }
  store(y + thread, half + static_cast<uint32_t>(next));
}
}  // namespace

TEST(votes_shuffles_and_barriers_of_some_lanes) {
  Buffer<uint32_t> y("y", 64);
  Launch how;
  how.threads = 64;
  how.sharedBytes = 256;
  const Outcome outcome = launch(how, lanesKernel, y.global());
  CHECK_MSG(outcome.ok(), outcome.error);
  for (uint32_t i = 0; i < 64 && outcome.ok(); ++i) {
    const uint32_t lane = i % 32;
    CHECK(y[i] == (lane + 1) % 32 + (lane < 16 ? 0 : 0x000f0000u + 0xaaaaaaaau + 47 - lane));
  }
}

// PTX ISA, prmt: bytes 0 to 3 are the first word's and 4 to 7 the second's; a nibble of 8 and more spreads a sign.
TEST(byte_permutations_find_and_spread_bytes) {
  CHECK(permuteBytes(0x33221100u, 0x77665544u, 0x3210) == 0x33221100u);
  CHECK(permuteBytes(0x33221100u, 0x77665544u, 0x7654) == 0x77665544u);
  CHECK(permuteBytes(0x33221100u, 0x77665544u, 0x5140) == 0x55114400u);
  CHECK(permuteBytes(0x33221100u, 0x77665544u, 0xabcd0027) == 0x00002277u);  // the upper half says nothing
  CHECK(permuteBytes(0x80ff7f00u, 0x7f80ff01u, 0xba98) == 0xffff0000u);
  CHECK(permuteBytes(0x80ff7f00u, 0x7f80ff01u, 0xfedc) == 0x00ffff00u);
}
