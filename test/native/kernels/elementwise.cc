// Conversions, activations, rotary embedding: every length's remainder, special values, in-place use.
#include "support.h"

using namespace support;  // NOLINT: a test

namespace {

const int64_t kLengths[] = {0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 64, 100, 259};

bool sameOrNan(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) || tsq::floatToBits(a) == tsq::floatToBits(b);
}

}  // namespace

TEST(convert_every_half_and_bfloat) {
  std::vector<uint16_t> all(65536);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  for (const KernelTable* table : tables()) {
    std::vector<float> out(all.size());
    table->toFloat(all.data(), Dtype::kF16, out.data(), 65536);
    int64_t wrong = 0;
    for (size_t i = 0; i < all.size(); ++i) wrong += !sameOrNan(out[i], tsq::f16ToFloat(all[i]));
    table->toFloat(all.data(), Dtype::kBF16, out.data(), 65536);
    for (size_t i = 0; i < all.size(); ++i) wrong += !sameOrNan(out[i], tsq::bf16ToFloat(all[i]));
    CHECK_MSG(wrong == 0, std::string(table->name) + ": " + std::to_string(wrong));
  }
}

TEST(convert_rounds_to_nearest_even) {
  Random random(31);
  // Random bit patterns, every half with its neighbours' midpoints and what lies just beside them.
  std::vector<float> values;
  for (int i = 0; i < 20000; ++i)
    values.push_back(tsq::bitsToFloat(static_cast<uint32_t>(random.integer(0, 0xffffffff))));
  for (int i = 0; i < 0x7c00; i += 3) {
    const float low = tsq::f16ToFloat(static_cast<uint16_t>(i)), high = tsq::f16ToFloat(static_cast<uint16_t>(i + 1));
    if (std::isinf(high)) continue;
    const float middle = low + (high - low) / 2;
    for (float value : {low, middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e30f)}) {
      values.push_back(value);
      values.push_back(-value);
    }
  }
  for (float value : {65504.0f, 65519.99f, 65520.0f, 1e30f, 3.4e38f, 0.0f, -0.0f}) values.push_back(value);
  const int64_t count = static_cast<int64_t>(values.size());
  for (const KernelTable* table : tables()) {
    std::vector<uint16_t> half(values.size()), bfloat(values.size());
    table->fromFloat(values.data(), half.data(), Dtype::kF16, count);
    table->fromFloat(values.data(), bfloat.data(), Dtype::kBF16, count);
    int64_t wrong = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      wrong += !sameOrNan(tsq::f16ToFloat(half[i]), tsq::f16ToFloat(tsq::floatToF16(values[i])));
      wrong += !sameOrNan(tsq::bf16ToFloat(bfloat[i]), tsq::bf16ToFloat(tsq::floatToBf16(values[i])));
    }
    CHECK_MSG(wrong == 0, std::string(table->name) + ": " + std::to_string(wrong) + " of " + std::to_string(count));
  }
}

TEST(convert_lengths) {
  Random random(32);
  for (const KernelTable* table : tables()) {
    for (int64_t count : kLengths) {
      const std::vector<float> x = random.normals(count);
      for (Dtype type : {Dtype::kF32, Dtype::kF16, Dtype::kBF16}) {
        std::vector<uint8_t> bytes(static_cast<size_t>(count * tsq::dtypeBytes(type)));
        table->fromFloat(x.data(), bytes.data(), type, count);
        CHECK(bytes == toBytes(x, type));
        std::vector<float> back(static_cast<size_t>(count));
        table->toFloat(bytes.data(), type, back.data(), count);
        CHECK(sameBytes(back, fromBytes(bytes, type)));
      }
    }
  }
}

TEST(activations) {
  Random random(33);
  for (const KernelTable* table : tables()) {
    for (int64_t count : kLengths) {
      std::vector<float> gate(static_cast<size_t>(count)), up = random.normals(count), y(gate.size());
      for (float& g : gate) g = random.normal() * 10;
      if (count > 4) gate[0] = -100, gate[1] = 100, gate[2] = 0, gate[3] = -1e-20f;
      table->silu(gate.data(), up.data(), y.data(), count);
      for (size_t i = 0; i < y.size(); ++i) {
        const double exact = gate[i] / (1 + std::exp(-static_cast<double>(gate[i]))) * up[i];
        CHECK_MSG(std::fabs(y[i] - exact) <= 1e-6 * std::fabs(exact) + 1e-37,
                  std::string(table->name) + " silu " + std::to_string(gate[i]));
      }
      table->geluTanh(gate.data(), up.data(), y.data(), count);
      for (size_t i = 0; i < y.size(); ++i) {
        const double g = gate[i], u = std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g);
        // The exponent is computed in f32: its error is relative to |2u|, which the factor e^-2u turns into that of the
        // result.
        const double exact = g / (1 + std::exp(-2 * u)) * up[i], tolerance = 1e-6 + 2e-7 * std::fabs(u);
        CHECK_MSG(std::fabs(y[i] - exact) <= tolerance * std::fabs(exact) + 1e-15,
                  std::string(table->name) + " gelu " + std::to_string(g));
      }
      table->geluErf(gate.data(), up.data(), y.data(), count);
      for (size_t i = 0; i < y.size(); ++i) {
        const double g = gate[i], exact = 0.5 * g * std::erfc(-g * std::sqrt(0.5)) * up[i];
        CHECK_MSG(std::fabs(y[i] - exact) <= 2e-6 * std::fabs(exact) + 1e-37,
                  std::string(table->name) + " gelu by erf " + std::to_string(g));
      }
      // Without a second factor: the activation itself.
      const std::vector<float> ones(gate.size(), 1.0f);
      std::vector<float> alone(gate.size());
      for (auto activation : {table->silu, table->geluTanh, table->geluErf}) {
        activation(gate.data(), ones.data(), y.data(), count);
        activation(gate.data(), nullptr, alone.data(), count);
        CHECK(sameBytes(alone, y));
      }
      table->geluTanh(gate.data(), up.data(), y.data(), count);
      const std::vector<float> expected = y;
      table->geluTanh(gate.data(), up.data(), gate.data(), count);  // in place
      CHECK(sameBytes(gate, expected));
    }
  }
}

TEST(add_and_axpy) {
  Random random(34);
  for (const KernelTable* table : tables()) {
    for (int64_t count : kLengths) {
      const std::vector<float> a = random.normals(count), b = random.normals(count);
      std::vector<float> sum(a.size()), scaled = b;
      table->add(a.data(), b.data(), sum.data(), count);
      table->axpy(1.7f, a.data(), scaled.data(), count);
      for (size_t i = 0; i < a.size(); ++i) {
        CHECK(sum[i] == a[i] + b[i]);
        CHECK(scaled[i] == std::fma(1.7f, a[i], b[i]));
      }
    }
  }
}

TEST(rope_rotates_halves) {
  Random random(35);
  const int64_t dims[][2] = {{2, 2}, {4, 4}, {16, 16}, {64, 64}, {80, 32}, {100, 50}, {128, 128}, {33, 10}, {8, 0}};
  for (const KernelTable* table : tables()) {
    for (const auto& dim : dims) {
      const int64_t half = dim[1] / 2;
      const std::vector<float> x = random.normals(dim[0]), angle = random.normals(half);
      std::vector<float> cosine, sine, y(x.size()), inPlace = x;
      for (float a : angle) cosine.push_back(std::cos(a)), sine.push_back(std::sin(a));
      table->rope(x.data(), y.data(), dim[0], dim[1], cosine.data(), sine.data());
      table->rope(inPlace.data(), inPlace.data(), dim[0], dim[1], cosine.data(), sine.data());
      CHECK(sameBytes(y, inPlace));
      for (int64_t i = 0; i < half; ++i) {
        const size_t low = static_cast<size_t>(i), high = static_cast<size_t>(i + half);
        CHECK(std::fabs(y[low] - (double(x[low]) * cosine[low] - double(x[high]) * sine[low])) < 1e-6);
        CHECK(std::fabs(y[high] - (double(x[high]) * cosine[low] + double(x[low]) * sine[low])) < 1e-6);
      }
      for (size_t i = static_cast<size_t>(2 * half); i < x.size(); ++i) CHECK(y[i] == x[i]);
    }
  }
}
