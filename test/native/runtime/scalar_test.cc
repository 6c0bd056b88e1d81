// Half and bfloat16 conversions against a formulation that shares nothing with scalar.h: values by ldexp, rounding by
// searching the neighbouring representable values in double.
#include "runtime/scalar.h"

#include <cmath>
#include <limits>
#include <random>
#include <string>

#include "check.h"

namespace {

using namespace tsq;

struct Format {
  const char* name;
  int mantissaBits, bias, exponentBits;
  float (*decode)(uint16_t);
  uint16_t (*encode)(float);
  int maxExponent() const { return (1 << exponentBits) - 1; }
};

const Format kHalf = {
    "f16", 10, 15, 5, [](uint16_t h) { return f16ToFloat(h); }, [](float x) { return floatToF16(x); }};
const Format kBfloat = {
    "bf16", 7, 127, 8, [](uint16_t h) { return bf16ToFloat(h); }, [](float x) { return floatToBf16(x); }};

bool isNan(const Format& f, uint16_t bits) {
  return ((bits >> f.mantissaBits) & f.maxExponent()) == f.maxExponent() && (bits & ((1 << f.mantissaBits) - 1)) != 0;
}

// The value of a pattern by IEEE 754-2019 section 3.4. An all-ones exponent with no mantissa gives the next power of
// two, which is what rounding to infinity is decided by.
double valueOf(const Format& f, uint16_t bits) {
  const int exponent = (bits >> f.mantissaBits) & f.maxExponent();
  const int mantissa = bits & ((1 << f.mantissaBits) - 1);
  const double magnitude = exponent == 0
                               ? std::ldexp(mantissa, 1 - f.bias - f.mantissaBits)
                               : std::ldexp((1 << f.mantissaBits) + mantissa, exponent - f.bias - f.mantissaBits);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

// Round to nearest, ties to even, by bisection over the ordered non-negative patterns.
uint16_t nearest(const Format& f, float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(static_cast<double>(value));
  const int infinity = f.maxExponent() << f.mantissaBits;
  if (magnitude >= valueOf(f, static_cast<uint16_t>(infinity))) return static_cast<uint16_t>(sign | infinity);
  int low = 0, high = infinity;  // value(low) <= magnitude < value(high)
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (valueOf(f, static_cast<uint16_t>(middle)) <= magnitude ? low : high) = middle;
  }
  const double below = magnitude - valueOf(f, static_cast<uint16_t>(low));
  const double above = valueOf(f, static_cast<uint16_t>(high)) - magnitude;
  const bool up = above < below || (above == below && low % 2 == 1);
  return static_cast<uint16_t>(sign | (up ? high : low));
}

std::string show(const Format& f, float input, unsigned found, unsigned expected) {
  char text[128];
  std::snprintf(text, sizeof text, "%s of %a: found 0x%04x, expected 0x%04x", f.name, static_cast<double>(input), found,
                expected);
  return text;
}

void checkEncode(const Format& f, float input) {
  const uint16_t found = f.encode(input), expected = nearest(f, input);
  CHECK_MSG(found == expected, show(f, input, found, expected));
}

void checkRoundTrip(const Format& f) {
  const uint16_t infinity = static_cast<uint16_t>(f.maxExponent() << f.mantissaBits);
  for (unsigned pattern = 0; pattern < 65536; ++pattern) {
    const uint16_t bits = static_cast<uint16_t>(pattern);
    const float value = f.decode(bits);
    if (isNan(f, bits)) {
      // A NaN stays one with its sign, and comes out quiet.
      CHECK_MSG(std::isnan(value) && std::signbit(value) == ((bits & 0x8000) != 0), std::to_string(pattern));
      const uint16_t again = f.encode(value);
      CHECK_MSG(isNan(f, again) && (again & (1 << (f.mantissaBits - 1))) != 0, std::to_string(pattern));
      CHECK((again & 0x8000) == (bits & 0x8000));
      continue;
    }
    if ((bits & 0x7fff) == infinity) {
      CHECK(std::isinf(value) && std::signbit(value) == ((bits & 0x8000) != 0));
    } else {
      CHECK_MSG(static_cast<double>(value) == valueOf(f, bits), std::to_string(pattern));
      CHECK(std::signbit(value) == ((bits & 0x8000) != 0));
    }
    CHECK_MSG(f.encode(value) == bits, show(f, value, f.encode(value), bits));
  }
}

// Every midpoint between two neighbours, and the floats just beside it; the last midpoint is the overflow limit.
void checkTies(const Format& f) {
  const int infinity = f.maxExponent() << f.mantissaBits;
  for (int low = 0; low < infinity; ++low) {
    const double sum = valueOf(f, static_cast<uint16_t>(low)) + valueOf(f, static_cast<uint16_t>(low + 1));
    const float middle = static_cast<float>(sum / 2);
    if (static_cast<double>(middle) != sum / 2) continue;  // finer than float: no such input
    for (const float input : {middle, std::nextafterf(middle, 0.0f), std::nextafterf(middle, INFINITY)}) {
      checkEncode(f, input);
      checkEncode(f, -input);
    }
  }
}

void checkRandomPatterns(const Format& f) {
  std::mt19937 random(20);
  for (int i = 0; i < 300000; ++i) {
    const float input = bitsToFloat(random());
    if (!std::isnan(input)) checkEncode(f, input);
  }
  // Where half's exponents lie: random float patterns rarely fall there.
  std::uniform_int_distribution<uint32_t> near(0x32000000u, 0x48000000u);
  for (int i = 0; i < 300000; ++i) checkEncode(f, bitsToFloat(near(random)));
}

void checkLimits(const Format& f) {
  const float inputs[] = {0.0f,
                          INFINITY,
                          std::numeric_limits<float>::max(),
                          std::numeric_limits<float>::min(),
                          std::numeric_limits<float>::denorm_min(),
                          65519.996f,
                          65520.0f,
                          65536.0f};
  for (const float input : inputs) {
    checkEncode(f, input);
    checkEncode(f, -input);
  }
  for (const uint32_t nan : {0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0xff800001u, 0xffffffffu}) {
    const uint16_t found = f.encode(bitsToFloat(nan));
    CHECK_MSG(isNan(f, found) && (found >> 15) == (nan >> 31), show(f, bitsToFloat(nan), found, 0));
  }
}

}  // namespace

TEST(f16_round_trip) {
  checkRoundTrip(kHalf);
}
TEST(f16_ties) {
  checkTies(kHalf);
}
TEST(f16_random) {
  checkRandomPatterns(kHalf);
}
TEST(f16_limits) {
  checkLimits(kHalf);
}
TEST(bf16_round_trip) {
  checkRoundTrip(kBfloat);
}
TEST(bf16_ties) {
  checkTies(kBfloat);
}
TEST(bf16_random) {
  checkRandomPatterns(kBfloat);
}
TEST(bf16_limits) {
  checkLimits(kBfloat);
}

// Recorded results of ggml's conversions (ggml-impl.h).
TEST(bf16_recorded) {
  const double inputs[] = {1.0,
                           1.00390625,
                           1.005859375,
                           1.01171875,
                           3.1415927410125732,
                           65504.0,
                           9.99994610111476e-41,
                           -2.5,
                           3.3895313892515355e+38};
  const uint16_t words[] = {0x3f80, 0x3f80, 0x3f81, 0x3f82, 0x4049, 0x4780, 0x0001, 0xc020, 0x7f7f};
  for (int i = 0; i < 9; ++i) {
    const float input = static_cast<float>(inputs[i]);
    CHECK_MSG(floatToBf16(input) == words[i], show(kBfloat, input, floatToBf16(input), words[i]));
  }
}

TEST(f16_recorded) {
  const double inputs[] = {1.0,
                           0.10000000149011612,
                           65504.0,
                           65519.0,
                           65520.0,
                           5.960464477539063e-08,
                           2.9802322387695312e-08,
                           6.103515625e-05,
                           -0.3333333134651184};
  const uint16_t words[] = {0x3c00, 0x2e66, 0x7bff, 0x7bff, 0x7c00, 0x0001, 0x0000, 0x0400, 0xb555};
  for (int i = 0; i < 9; ++i) {
    const float input = static_cast<float>(inputs[i]);
    CHECK_MSG(floatToF16(input) == words[i], show(kHalf, input, floatToF16(input), words[i]));
  }
}

TEST(dtype_bytes) {
  CHECK(dtypeBytes(Dtype::kF32) == 4 && dtypeBytes(Dtype::kI32) == 4);
  CHECK(dtypeBytes(Dtype::kF16) == 2 && dtypeBytes(Dtype::kBF16) == 2);
  CHECK(dtypeBytes(Dtype::kI8) == 1 && dtypeBytes(Dtype::kU8) == 1);
}
