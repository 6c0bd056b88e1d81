// GPTQ on blocks against algorithm 1 of arXiv 2210.17323 written plainly in float64, one row and one column after the
// other; the scales are those that the encoder gives for what a block has become.
#include "gguf/gptq.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../rounding/gptq_textbook.h"
#include "gguf/blocks.h"

namespace {

using namespace rounding_test;
using tsq::Code;
using tsq::GptqReport;
using tsq::gguf::GptqSpec;
using tsq::gguf::Type;
using Shape = tsq::gguf::Matrix;

struct Kind {
  Type type;
  int64_t block;
  int low, high;  // codes less their zero point; equal: IQ4's table
};
constexpr Kind kKinds[] = {{Type::kQ4_0, 32, -8, 7},    {Type::kQ4_1, 32, 0, 15},     {Type::kQ5_0, 32, -16, 15},
                           {Type::kQ5_1, 32, 0, 31},    {Type::kQ8_0, 32, -128, 127}, {Type::kQ2_K, 256, 0, 3},
                           {Type::kQ3_K, 256, -4, 3},   {Type::kQ4_K, 256, 0, 15},    {Type::kQ5_K, 256, 0, 31},
                           {Type::kQ6_K, 256, -32, 31}, {Type::kIQ4_NL, 32, 0, 0},    {Type::kIQ4_XS, 256, 0, 0}};
constexpr ActOrder kBlockOrders[] = {ActOrder::kNone, ActOrder::kStatic, ActOrder::kGroupAware};

std::string text(const Kind& kind) {
  return "type " + std::to_string(static_cast<int>(kind.type));
}

double nearestStep(const Kind& kind, double x) {
  if (kind.low != kind.high)
    return std::clamp(std::nearbyint(x), static_cast<double>(kind.low), static_cast<double>(kind.high));
  double best = -127;
  for (int value : tsq::gguf::kIq4Values)
    if (std::abs(static_cast<double>(value) - x) <= std::abs(best - x)) best = static_cast<double>(value);
  return best;
}

// Scales and offsets of the block that the encoder makes of x.
void fit(const Kind& kind, const std::vector<float>& x, const float* importance, float* scales, float* offsets) {
  const Shape shape{kind.type, 1, kind.block};
  std::vector<uint8_t> block(static_cast<size_t>(tsq::gguf::rowBytes(kind.type, kind.block).value()));
  CHECK(tsq::gguf::encode(shape, x.data(), importance, block.data(), AbortFlag()).ok());
  std::vector<uint8_t> codes(static_cast<size_t>(kind.block));
  const tsq::gguf::Grid* grid = tsq::gguf::gridOf(kind.type);
  std::fill(offsets, offsets + kind.block / grid->group, 0.f);
  grid->row(block.data(), kind.block, codes.data(), scales, offsets);
}

std::vector<float> textbook(const Kind& kind, const std::vector<float>& w, int64_t n, int64_t k, const Hessian& h,
                            const GptqSpec& spec) {
  const std::vector<int64_t> visit = order(spec.order, h, kind.block);
  const auto at = [&](int64_t i, int64_t j) {
    return static_cast<double>(h.data()[visit[static_cast<size_t>(i)] * k + visit[static_cast<size_t>(j)]]);
  };
  double mean = 0;
  for (int64_t c = 0; c < k; ++c) mean += at(c, c) / static_cast<double>(k);
  rounding_test::Matrix a(static_cast<size_t>(k), std::vector<double>(static_cast<size_t>(k)));
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < k; ++j)
      a[static_cast<size_t>(i)][static_cast<size_t>(j)] = at(i, j) + (i == j ? spec.damp * mean : 0);
  const rounding_test::Matrix u = inverseFactor(a);
  const int64_t group = tsq::gguf::gridOf(kind.type)->group;
  std::vector<float> result(w.size());
  for (int64_t r = 0; r < n; ++r) {
    std::vector<double> row(static_cast<size_t>(k));
    for (int64_t c = 0; c < k; ++c)
      row[static_cast<size_t>(c)] = static_cast<double>(w[static_cast<size_t>(r * k + c)]);
    std::vector<float> scales(static_cast<size_t>(k / group)), offsets = scales;
    std::vector<bool> fitted(static_cast<size_t>(k / kind.block), false);
    const auto fitOf = [&](int64_t b) {
      const std::vector<float> x(row.begin() + b * kind.block, row.begin() + (b + 1) * kind.block);
      fit(kind, x, spec.importance == nullptr ? nullptr : spec.importance + b * kind.block,
          scales.data() + b * kind.block / group, offsets.data() + b * kind.block / group);
      fitted[static_cast<size_t>(b)] = true;
    };
    for (int64_t b = 0; spec.order == ActOrder::kStatic && b < k / kind.block; ++b) fitOf(b);
    for (int64_t j = 0; j < k; ++j) {
      const int64_t c = visit[static_cast<size_t>(j)];
      if (!fitted[static_cast<size_t>(c / kind.block)]) fitOf(c / kind.block);
      const auto scale = static_cast<double>(scales[static_cast<size_t>(c / group)]);
      const auto offset = static_cast<double>(offsets[static_cast<size_t>(c / group)]);
      const double step = scale == 0 ? 0 : nearestStep(kind, (row[static_cast<size_t>(c)] - offset) / scale);
      const double rounded = scale * step + offset;
      result[static_cast<size_t>(r * k + c)] = static_cast<float>(rounded);
      const double error = (row[static_cast<size_t>(c)] - rounded) / u[static_cast<size_t>(j)][static_cast<size_t>(j)];
      for (int64_t i = j; i < k; ++i)
        row[static_cast<size_t>(visit[static_cast<size_t>(i)])] -=
            error * u[static_cast<size_t>(j)][static_cast<size_t>(i)];
    }
  }
  return result;
}

struct Run {
  tsq::Status status;
  GptqReport report;
  std::vector<uint8_t> blocks;
};

Run run(const Kind& kind, const std::vector<float>& w, int64_t n, int64_t k, const Hessian& h, const GptqSpec& spec,
        AbortFlag abort = AbortFlag()) {
  Run done{{}, {}, std::vector<uint8_t>(static_cast<size_t>(n * tsq::gguf::rowBytes(kind.type, k).value()))};
  tsq::Result<GptqReport> result =
      tsq::gguf::gptqEncode({kind.type, n, k}, w.data(), h, spec, done.blocks.data(), abort);
  done.status = result.status();
  if (result.ok()) done.report = result.value();
  return done;
}

std::vector<float> decoded(const Kind& kind, const std::vector<uint8_t>& blocks, int64_t n, int64_t k) {
  std::vector<float> out(static_cast<size_t>(n * k));
  CHECK(tsq::gguf::decode({kind.type, n, k}, blocks.data(), out.data()).ok());
  return out;
}

}  // namespace

TEST(gguf_gptq_follows_the_paper) {
  constexpr int64_t n = 37, k = 512;
  const std::vector<float> w = gaussian(n * k, 11);
  const auto h = hessianOf(activations(700, k, 3), 700, k);
  std::vector<float> importance(k);
  for (int64_t c = 0; c < k; ++c) importance[static_cast<size_t>(c)] = h->data()[c * k + c] / 700;
  for (const Kind& kind : kKinds) {
    for (const ActOrder kindOfOrder : kBlockOrders) {
      GptqSpec spec;
      spec.order = kindOfOrder;
      // Blocks of 32 weigh by the mean square of the row, which the reference does not know.
      spec.importance = kind.block == 256 ? importance.data() : nullptr;
      const Run done = run(kind, w, n, k, *h, spec);
      const std::string what = text(kind) + ", order " + std::to_string(static_cast<int>(kindOfOrder));
      CHECK_MSG(done.status.ok(), what + ": " + done.status.message());
      const std::vector<float> wanted = textbook(kind, w, n, k, *h, spec), found = decoded(kind, done.blocks, n, k);
      int64_t different = 0;
      for (size_t i = 0; i < found.size(); ++i)
        different += std::abs(found[i] - wanted[i]) > 1e-5f * (1 + std::abs(wanted[i])) ? 1 : 0;
      // A weight between two codes may fall to the other side in f32, and what follows in its row with it.
      CHECK_MSG(static_cast<double>(different) < 0.06 * static_cast<double>(n * k),
                what + ": " + std::to_string(different) + " weights differ");
      const double error = tsq::layerError(w.data(), found.data(), n, k, *h).value();
      const double reference = tsq::layerError(w.data(), wanted.data(), n, k, *h).value();
      CHECK_MSG(std::abs(error - reference) < 0.02 * reference,
                what + ": " + std::to_string(error) + " against " + std::to_string(reference));
      CHECK_MSG(std::abs(error - done.report.error) < 1e-4 * error, what);
      CHECK_MSG(!done.report.keptNearest && !done.report.degraded, what);
      CHECK_MSG(done.report.error < 0.9 * done.report.nearestError,
                what + ": " + std::to_string(done.report.error / done.report.nearestError));
    }
  }
}

TEST(gguf_gptq_is_the_same_on_any_number_of_threads_and_in_blocks_of_any_size) {
  constexpr int64_t n = 70, k = 512;
  const std::vector<float> w = gaussian(n * k, 5);
  const auto h = hessianOf(activations(600, k, 9), 600, k);
  auto& pool = tsq::ThreadPool::instance();
  const int threads = pool.threads();
  for (const Kind& kind : kKinds) {
    pool.setThreads(1);
    const Run one = run(kind, w, n, k, *h, {});
    pool.setThreads(3);
    CHECK_MSG(run(kind, w, n, k, *h, {}).blocks == one.blocks, text(kind));
    GptqSpec whole;
    whole.block = 512;
    const Run other = run(kind, w, n, k, *h, whole);
    CHECK_MSG(std::abs(other.report.error - one.report.error) < 0.02 * one.report.error, text(kind));
  }
  pool.setThreads(threads);
}

TEST(gguf_gptq_keeps_the_plain_blocks_where_it_has_nothing_better) {
  constexpr int64_t n = 33, k = 256;
  const std::vector<float> w = gaussian(n * k, 8);
  for (const Kind& kind : kKinds) {
    std::vector<uint8_t> plain(static_cast<size_t>(n * tsq::gguf::rowBytes(kind.type, k).value()));
    CHECK(tsq::gguf::encode({kind.type, n, k}, w.data(), nullptr, plain.data(), AbortFlag()).ok());
    const auto zero = hessianOf(std::vector<float>(k, 0.f), 1, k);
    const Run dead = run(kind, w, n, k, *zero, {});
    CHECK_MSG(dead.status.ok() && dead.report.degraded && dead.report.deadColumns == k, text(kind));
    CHECK_MSG(dead.blocks == plain, text(kind));
    const auto broken = hessianOf(activations(300, k, 2), 300, k);
    broken->mutableData()[5 * k + 7] = std::numeric_limits<float>::quiet_NaN();
    const Run nan = run(kind, w, n, k, *broken, {});
    CHECK_MSG(nan.status.ok() && nan.report.degraded && nan.blocks == plain, text(kind));
    // Some columns were never reached: they are rounded to their nearest, and nothing is spread to or from them.
    std::vector<float> x = activations(300, k, 4);
    for (size_t i = 0; i < x.size(); ++i)
      if (i % k < 40) x[i] = 0;
    const Run some = run(kind, w, n, k, *hessianOf(x, 300, k), {});
    CHECK_MSG(some.status.ok() && some.report.deadColumns == 40 && !some.report.degraded, text(kind));
    CHECK_MSG(some.report.error <= some.report.nearestError, text(kind));
    for (float value : decoded(kind, some.blocks, n, k)) CHECK(std::isfinite(value));
  }
}

TEST(gguf_gptq_refusals) {
  constexpr int64_t n = 2, k = 256;
  std::vector<float> w = gaussian(n * k, 1);
  const auto h = hessianOf(activations(50, k, 2), 50, k);
  const auto code = [&](const Kind& kind, int64_t columns, const GptqSpec& spec = {}, AbortFlag abort = AbortFlag()) {
    std::vector<uint8_t> out(n * k * 4);
    return tsq::gguf::gptqEncode({kind.type, n, columns}, w.data(), *h, spec, out.data(), abort).status().code();
  };
  const Kind q4 = kKinds[7];
  CHECK(code(q4, k) == Code::kOk);
  CHECK(code({Type::kF16, 1, 0, 0}, k) == Code::kUnsupported);
  CHECK(code({Type::kQ8_1, 32, 0, 0}, k) == Code::kUnsupported);
  CHECK(code(q4, 128) == Code::kShape);
  GptqSpec dynamic;
  dynamic.order = ActOrder::kDynamic;
  CHECK(code(q4, k, dynamic) == Code::kUnsupported);
  w[300] = std::numeric_limits<float>::infinity();
  CHECK(code(q4, k) == Code::kNumeric);
}
