// Quantized caches: what is written, what is read, and that cutting a sequence into steps changes neither.
#include "program/kv_cache.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>

#include "check.h"
#include "program/kv_rotation.h"
#include "program/kv_writer.h"
#include "tiny_model.h"

using namespace tsq;
using layout::KvCoding;
using layout::KvPart;
using layout::KvScales;
using layout::KvType;
using tiny::Config;
using tiny::Model;

namespace {

struct Named {
  const char* name;
  KvFormat format;
};

KvFormat format(KvCoding keys, KvCoding values, bool rotate = false, int64_t sinks = 0, int64_t window = 0) {
  KvFormat format;
  format.keys = keys;
  format.values = values;
  format.rotateKeys = format.rotateValues = rotate;
  format.sinkPages = sinks;
  format.windowPages = window;
  return format;
}

const KvCoding kF16 = {KvType::kF16};

KvCoding token(KvType type, int64_t group, bool offsets = false) {
  return {type, KvScales::kToken, offsets, group};
}

std::vector<Named> formats(int64_t headDim) {
  const KvCoding int8 = token(KvType::kI8, headDim), int4 = token(KvType::kI4, headDim, true);
  const KvCoding channel4 = {KvType::kI4, KvScales::kChannel, true};
  return {
      {"f16", format(kF16, kF16)},
      {"int8", format(int8, int8)},
      {"int8, sinks", format(int8, int8, false, 1, 0)},
      {"fp8", format(token(KvType::kE4M3, headDim), token(KvType::kE4M3, headDim))},
      {"int4 rotated, sinks and window", format(int4, int4, true, 1, 3)},
      {"int4, a page of window", format(int4, int4, false, 0, 1)},
      {"int4 by channel, sinks and window", format(channel4, int4, false, 1, 2)},
      {"keys int8, values int4", format(int8, token(KvType::kI4, headDim), true, 2, 5)},
  };
}

Config config(int64_t window = 0) {
  Config config;
  config.layers = 2;
  config.heads = 4;
  config.kvHeads = 2;
  config.headDim = 16;
  config.rotaryDim = 16;
  config.window = window;
  return config;
}

std::vector<int32_t> shuffledPages(int64_t count) {
  std::vector<int32_t> pages(static_cast<size_t>(count));
  std::iota(pages.rbegin(), pages.rend(), 0);
  std::swap(pages[0], pages[pages.size() / 2]);
  return pages;
}

KvFormat sized(KvFormat format, int64_t pages) {
  format.exactPages = format.sinkPages + format.windowPages > 0 ? pages : 0;
  return format;
}

template <typename T>
double rms(const std::vector<float>& found, const std::vector<T>& expected) {
  if (!CHECK(found.size() == expected.size())) return 0;
  double sum = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    const double error = static_cast<double>(found[i]) - static_cast<double>(expected[i]);
    sum += error * error;
  }
  return std::sqrt(sum / static_cast<double>(found.size()));
}

double decode(const KvPart& part, const uint8_t* page, int64_t byte, int nibble, int64_t scale, double* step) {
  const auto half = [&](int64_t at) {
    uint16_t bits;
    std::memcpy(&bits, page + at, 2);
    return static_cast<double>(f16ToFloat(bits));
  };
  if (part.type == KvType::kF16) {
    *step = std::fabs(half(byte)) / 1024;
    return half(byte);
  }
  const double unit = half(part.scaleAt + 2 * scale);
  *step = std::fabs(unit);
  if (part.type == KvType::kI8) return unit * static_cast<int8_t>(page[byte]);
  if (part.type == KvType::kE4M3) {
    const double code = e4m3ToFloat(page[byte]);
    *step = std::fabs(unit) * std::max(std::fabs(code) / 8, std::exp2(-9.0));
    return unit * code;
  }
  const int code = nibble == 0 ? page[byte] & 15 : page[byte] >> 4;
  return part.offsets ? unit * code + half(part.offsetAt + 2 * scale) : unit * (code - 8);
}

}  // namespace

TEST(a_rotation_is_its_own_inverse_and_keeps_products) {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  for (const int64_t headDim : {1, 2, 7, 32, 80, 96, 128, 256}) {
    std::vector<float> a(static_cast<size_t>(headDim)), b(a);
    for (float& x : a) x = normal(engine);
    for (float& x : b) x = normal(engine);
    std::vector<float> ra = a, rb = b;
    rotateHead(ra.data(), headDim);
    rotateHead(rb.data(), headDim);
    const double product = std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
    CHECK(std::fabs(std::inner_product(ra.begin(), ra.end(), rb.begin(), 0.0) - product) < 1e-4);
    if (headDim == 96) CHECK(rotationBlock(96) == 32);
    rotateHead(ra.data(), headDim);
    for (size_t i = 0; i < a.size(); ++i) CHECK(std::fabs(ra[i] - a[i]) < 1e-5);
  }
  std::vector<float> spike(64);
  spike[5] = 8;
  rotateHead(spike.data(), 64);
  for (const float x : spike) CHECK(std::fabs(std::fabs(x) - 1) < 1e-6);
}

// Every number lies within half a step of what was written, wherever it lies; steps are as wide as the range asks for.
TEST(what_is_written_lies_within_half_a_step) {
  std::mt19937 engine(2);
  std::normal_distribution<float> normal;
  for (const int64_t headDim : {8, 33, 64, 80, 128}) {
    for (const Named& named : formats(headDim)) {
      KvFormat plain = sized(named.format, 2);
      plain.rotateKeys = plain.rotateValues = false;
      const auto created = KvCache::create(1, 1, headDim, 2, plain);
      if (!CHECK_MSG(created.ok(), created.status().message())) return;
      const KvCache& cache = *created.value();
      std::vector<float> keys(static_cast<size_t>(16 * headDim)), values(keys);
      for (float& x : keys) x = normal(engine) * 3 + 1;
      for (float& x : values) x = normal(engine);
      KvTargets targets = {cache.block(0, 1, 0), {nullptr, nullptr}};
      if (cache.hasExact()) targets.exact[0] = cache.exactBlock(0, 1, 0);
      writeKv(cache, 0, targets, 0, {keys.data(), values.data(), headDim, 5});
      writeKv(cache, 0, targets, 5, {keys.data() + 5 * headDim, values.data() + 5 * headDim, headDim, 11});
      double worst = 0;
      for (int64_t p = 0; p < 16; ++p) {
        for (int64_t d = 0; d < headDim; ++d) {
          const layout::KvPage& page = cache.page();
          const bool own = page.keys.scales != KvScales::kNone;
          const size_t at = static_cast<size_t>(p * headDim + d);
          double step = 0;
          const double key = decode(page.keys, targets.page, layout::kvKeyByte(page.keys, d, p), layout::kvKeyNibble(d),
                                    own ? layout::kvKeyScale(page.keys, d, p) : 0, &step);
          worst = std::max(worst, std::fabs(key - keys[at]) / step);
          const double value =
              decode(page.values, targets.page, layout::kvValueByte(page.values, d, p), layout::kvValueNibble(d),
                     own ? layout::kvValueScale(page.values, d, p) : 0, &step);
          worst = std::max(worst, std::fabs(value - values[at]) / step);
        }
      }
      // A scale rounded to f16 clips the largest by a little; symmetric four bits have no code for -lowest.
      const bool symmetric4 = plain.values.type == KvType::kI4 && !plain.values.offsets;
      CHECK_MSG(worst < (symmetric4 ? 1.02 : 0.57), std::string(named.name) + ": " + std::to_string(worst) +
                                                        " steps at head dimension " + std::to_string(headDim));
    }
  }
}

TEST(a_row_that_is_not_finite_is_not_hidden) {
  KvFormat int8 = format(token(KvType::kI8, 8), token(KvType::kI4, 8, true));
  const auto cache = KvCache::create(1, 1, 8, 1, int8);
  std::vector<float> keys(8, 1.0f), values(8, 1.0f);
  keys[3] = std::numeric_limits<float>::infinity();
  values[2] = std::numeric_limits<float>::quiet_NaN();
  writeKv(*cache.value(), 0, {cache.value()->block(0, 0, 0), {nullptr, nullptr}}, 0,
          {keys.data(), values.data(), 8, 1});
  const layout::KvPage& page = cache.value()->page();
  const uint8_t* at = cache.value()->block(0, 0, 0);
  double step;
  CHECK(std::isnan(decode(page.keys, at, layout::kvKeyByte(page.keys, 0, 0), 0, 0, &step)));
  CHECK(std::isnan(decode(page.values, at, layout::kvValueByte(page.values, 0, 0), 0, 0, &step)));
}

// Rotation alone changes nothing but last bits.
TEST(a_rotated_f32_cache_computes_the_same) {
  const Model model(config());
  const std::vector<int32_t> tokens = tiny::randomTokens(60, model.config().vocabulary, 3);
  KvFormat rotated;
  rotated.rotateKeys = rotated.rotateValues = true;
  const std::vector<float> found = tiny::logitsInPieces(model, tokens, {40, 1, 19}, shuffledPages(4), 4, rotated);
  CHECK(tiny::worst(found, model.forward(tokens)) < 2e-5);
}

TEST(a_window_over_everything_is_f16) {
  const Model model(config());
  const std::vector<int32_t> tokens = tiny::randomTokens(150, model.config().vocabulary, 4);
  const KvCoding int4 = token(KvType::kI4, 16, true);
  const std::vector<float> f16 = tiny::logitsInPieces(model, tokens, {150}, shuffledPages(10), 10, format(kF16, kF16));
  for (const KvFormat& whole : {format(int4, int4, false, 0, 10), format(int4, int4, false, 10, 0)}) {
    const std::vector<float> found =
        tiny::logitsInPieces(model, tokens, {100, 50}, shuffledPages(10), 10, sized(whole, 10));
    CHECK(tiny::worst(found, f16) < 2e-5);
  }
  CHECK(tiny::worst(f16, model.forward(tokens)) < 5e-3);
}

// A whole text in one step reads what decoding it token by token reads: quantized where that is quantized.
TEST(cutting_into_steps_does_not_change_what_is_read) {
  constexpr int64_t kTokens = 140, kPages = 9;
  for (const int64_t window : {0, 50}) {
    const Model model(config(window));
    const std::vector<int32_t> tokens = tiny::randomTokens(kTokens, model.config().vocabulary, 5);
    const std::vector<double> exact = model.forward(tokens);
    for (const Named& named : formats(16)) {
      const KvFormat used = sized(named.format, kPages);
      const std::vector<float> once =
          tiny::logitsInPieces(model, tokens, {kTokens}, shuffledPages(kPages), kPages, used);
      const double damage = rms(once, exact);
      const bool four = used.keys.type == KvType::kI4 || used.values.type == KvType::kI4;
      CHECK_MSG(damage > 1e-5 && damage < (four ? 0.2 : 0.1), std::string(named.name) + ": " + std::to_string(damage));
      const std::vector<int64_t> ones(static_cast<size_t>(kTokens), 1);
      for (const std::vector<int64_t>& pieces :
           {ones, std::vector<int64_t>{7, 60, 1, 2, 16, 54}, std::vector<int64_t>{16, 1, 95, 28}}) {
        // Products of one row and of many add in another order, so that now and then a code is another one.
        const double error =
            rms(tiny::logitsInPieces(model, tokens, pieces, shuffledPages(kPages), kPages, used), once);
        CHECK_MSG(error < 0.1 * damage,
                  std::string(named.name) + ": " + std::to_string(error) + " of " + std::to_string(damage));
      }
    }
  }
}

TEST(quantized_attention_is_the_same_for_any_thread_count_and_when_run_again) {
  constexpr int64_t kPages = 80;
  Config large = config();
  large.layers = 1;
  const Model model(large);
  const std::vector<int32_t> tokens = tiny::randomTokens(1250, large.vocabulary, 6);
  ThreadPool& pool = ThreadPool::instance();
  const int before = pool.threads();
  for (const Named& named : formats(16)) {
    const KvFormat used = sized(named.format, kPages);
    std::vector<float> first;
    for (const int threads : {1, 3}) {
      pool.setThreads(threads);
      const std::unique_ptr<Program> program = model.program();
      const std::shared_ptr<KvCache> cache = model.cache(kPages, used);
      std::vector<int32_t> rows;
      std::vector<float> logits, again;
      int64_t context = 0;
      // The second and the third run twice, as if they had been aborted the first time.
      for (const int64_t piece : {1200, 1, 49}) {
        const std::vector<int32_t> part(tokens.begin() + context, tokens.begin() + context + piece);
        StepRequest step = tiny::request(model, cache, part, context, shuffledPages(kPages));
        if (cache->hasExact()) step.exactTable = step.pageTable;
        tiny::wantLogits(&step, large.vocabulary, &rows, &logits);
        CHECK(program->step(step).ok());
        again = logits;
        if (context > 0) CHECK(program->step(step).ok());
        CHECK(std::memcmp(again.data(), logits.data(), logits.size() * 4) == 0);
        context += piece;
      }
      if (first.empty()) first = logits;
      CHECK_MSG(std::memcmp(first.data(), logits.data(), logits.size() * 4) == 0, named.name);
    }
  }
  pool.setThreads(before);
}

TEST(a_quantized_cache_is_smaller) {
  const auto bytes = [](const KvFormat& format) { return KvCache::bytesOf(2, 4, 128, 64, format).value(); };
  const uint64_t f32 = bytes({});
  CHECK(f32 == 2u * 4 * 64 * 16 * 256 * 4);
  CHECK(bytes(format(kF16, kF16)) == f32 / 2);
  CHECK(bytes(format(token(KvType::kI8, 128), token(KvType::kI8, 128))) == f32 / 4 + 2 * 4 * 64 * 16 * 4);
  CHECK(bytes(format(token(KvType::kI4, 128), token(KvType::kI4, 128))) == f32 / 8 + 2 * 4 * 64 * 16 * 4);
  KvFormat window = format(token(KvType::kI8, 128), token(KvType::kI8, 128), false, 1, 2);
  window.exactPages = 5;
  CHECK(bytes(window) == f32 / 4 + 2 * 4 * 64 * 16 * 4 + 2u * 4 * 5 * 16 * 256 * 2);
}

TEST(formats_that_cannot_be_are_refused) {
  const auto code = [](const KvFormat& format) { return KvCache::create(2, 1, 64, 1, format).status().code(); };
  CHECK(code(format({KvType::kI8}, {})) == Code::kOption);
  CHECK(code(format({}, {KvType::kI8, KvScales::kChannel})) == Code::kOption);
  CHECK(code(format({KvType::kI8, KvScales::kChannel}, {})) == Code::kOption);
  CHECK(code(format(token(KvType::kI8, 16), {})) == Code::kOption);
  CHECK(code(format(token(KvType::kI8, 0), {})) == Code::kOption);
  CHECK(code(format(token(KvType::kI8, 64, true), {})) == Code::kOption);
  CHECK(code(format({KvType::kE4M3, KvScales::kTensor}, {})) == Code::kShape);
  KvFormat scaled = format({KvType::kE4M3, KvScales::kTensor}, {});
  scaled.keyScales = {1, -1};
  CHECK(code(scaled) == Code::kNumeric);
  scaled.keyScales = {1, 2};
  CHECK(code(scaled) == Code::kOk);
  KvFormat rotated;
  rotated.rotateKeys = true;
  CHECK(KvCache::create(1, 1, 2048, 1, rotated).status().code() == Code::kUnsupported);
}

TEST(exact_pages_that_are_missing_or_shared_are_refused) {
  const Model model(config());
  const KvCoding int8 = token(KvType::kI8, 16);
  const std::shared_ptr<KvCache> cache = model.cache(8, sized(format(int8, int8, false, 1, 2), 4));
  const std::unique_ptr<Program> program = model.program();
  const std::vector<int32_t> tokens = tiny::randomTokens(40, 53, 7);
  const auto refused = [&](std::vector<int32_t> exact, const char* why) {
    StepRequest step = tiny::request(model, cache, tokens, 0, {3, 4, 5});
    step.exactTable = std::move(exact);
    const Status status = program->step(step);
    CHECK_MSG(!status.ok() && status.message().find(why) != std::string::npos, status.message());
  };
  refused({}, "exactTable has 0 entries");
  refused({-1, 0, 1}, "exactTable[0] (sequences[0]) is -1, expected 0 to 3");
  refused({0, -1, 1}, "exactTable[1] (sequences[0]) is -1");
  refused({0, 4, 1}, "exactTable[1] (sequences[0]) is 4");
  refused({0, 1, 1}, "exact page 1 is used elsewhere");
  refused({-7, 1, 2}, "exactTable[0] (sequences[0]) is -7");
}
