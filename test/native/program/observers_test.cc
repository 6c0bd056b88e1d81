// Every reduction against plain formulas, at every point of a step.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <set>

#include "check.h"
#include "program/observers.h"
#include "tiny_model.h"

using namespace tsq;
using tiny::Config;
using tiny::Model;

namespace {

std::shared_ptr<Accumulator> accumulator(Reduction kind, int64_t width, int64_t capacity = 0, uint64_t seed = 0) {
  auto a = std::make_shared<Accumulator>();
  a->kind = kind;
  a->width = width;
  a->capacity = capacity;
  a->seed = seed;
  return a;
}

bool near(double found, double expected, double tolerance) {
  return std::fabs(found - expected) <= tolerance * (1 + std::fabs(expected));
}

}  // namespace

TEST(observers_reduce_what_a_copy_shows) {
  const Config config;
  const Model model(config);
  const std::unique_ptr<Program> program = model.program();
  const int64_t width = config.intermediate;
  const auto hessian = accumulator(Reduction::kHessian, width), squares = accumulator(Reduction::kSumSquares, width);
  const auto peaks = accumulator(Reduction::kAbsMax, width), mean = accumulator(Reduction::kMean, width);
  const auto error = accumulator(Reduction::kSquaredError, width);
  std::vector<float> all;
  double errorSum = 0, referenceSum = 0;
  for (int call = 0; call < 3; ++call) {  // statistics live across steps
    const int64_t rows = 5 + 11 * call;
    const std::vector<int32_t> tokens = tiny::randomTokens(rows, config.vocabulary, 40 + static_cast<uint64_t>(call));
    const std::vector<float> reference = tiny::randomFloats(rows * width, 50);
    std::vector<float> copy(static_cast<size_t>(rows * width));
    StepRequest step = tiny::request(model, model.cache(2), tokens, 0, {0, 1});
    const auto observe = [&](Reduction reduction, std::shared_ptr<Accumulator> a) {
      step.observers.push_back({2, Model::kGatedOp, Model::kActive, reduction, std::move(a)});
    };
    observe(Reduction::kHessian, hessian);
    observe(Reduction::kSumSquares, squares);
    observe(Reduction::kAbsMax, peaks);
    observe(Reduction::kMean, mean);
    observe(Reduction::kSquaredError, error);
    step.observers.back().reference = reference.data();
    observe(Reduction::kCopy, nullptr);
    step.observers.back().copy = copy.data();
    const Status status = program->step(step);
    CHECK_MSG(status.ok(), status.message());
    for (size_t i = 0; i < copy.size(); ++i) {
      errorSum += std::pow(static_cast<double>(copy[i]) - reference[i], 2);
      referenceSum += std::pow(static_cast<double>(reference[i]), 2);
    }
    all.insert(all.end(), copy.begin(), copy.end());
  }
  const size_t rows = 5 + 16 + 27, columns = static_cast<size_t>(width);
  CHECK(all.size() == rows * columns);
  for (const auto& a : {hessian, squares, peaks, mean, error}) CHECK(a->rows == static_cast<double>(rows));
  hessian->hessian->finish();
  for (size_t i = 0; i < columns; ++i) {
    double square = 0, peak = 0, sum = 0;
    for (size_t r = 0; r < rows; ++r) {
      const double x = all[r * columns + i];
      square += x * x;
      peak = std::max(peak, std::fabs(x));
      sum += x;
    }
    CHECK(near(squares->values[i], square, 1e-6));
    CHECK(peaks->values[i] == peak);
    CHECK(near(mean->values[i], sum / static_cast<double>(rows), 1e-12));
    for (size_t j = 0; j < columns; ++j) {
      double product = 0;
      for (size_t r = 0; r < rows; ++r) product += static_cast<double>(all[r * columns + i]) * all[r * columns + j];
      CHECK(near(hessian->hessian->data()[i * columns + j], product, 1e-5));
    }
  }
  CHECK(near(error->values[0], errorSum, 1e-9) && near(error->values[1], referenceSum, 1e-9));
}

TEST(products_and_two_slots_compare_with_a_reference) {
  const Config config;
  const Model model(config);
  const std::unique_ptr<Program> program = model.program();
  const int64_t inner = config.intermediate, outer = config.hidden, rows = 19;
  const auto products = accumulator(Reduction::kProducts, inner), cross = accumulator(Reduction::kCross, inner, outer);
  const std::vector<float> other = tiny::randomFloats(rows * inner, 51), ahead = tiny::randomFloats(rows * outer, 52);
  std::vector<float> x(static_cast<size_t>(rows * inner)), stream(static_cast<size_t>(rows * outer));
  const std::vector<int32_t> tokens = tiny::randomTokens(rows, config.vocabulary, 41);
  StepRequest step = tiny::request(model, model.cache(2), tokens, 0, {0, 1});
  const Observer at{2, Model::kGatedOp, Model::kActive, Reduction::kCopy, nullptr};
  step.observers.assign(4, at);
  step.observers[0].copy = x.data();
  step.observers[1].slot = 0;
  step.observers[1].copy = stream.data();
  step.observers[2].reduction = Reduction::kProducts;
  step.observers[2].accumulator = products;
  step.observers[2].reference = other.data();
  step.observers[3].slot = 0;
  step.observers[3].inputs = Model::kActive;
  step.observers[3].reduction = Reduction::kCross;
  step.observers[3].accumulator = cross;
  step.observers[3].reference = ahead.data();
  const Status status = program->step(step);
  CHECK_MSG(status.ok(), status.message());
  CHECK(cross->cross->width() == outer && cross->cross->k() == inner);
  for (int64_t j = 0; j < inner; ++j) {
    const auto at = [&](const std::vector<float>& values, int64_t row, int64_t width, int64_t column) {
      return static_cast<double>(values[static_cast<size_t>(row * width + column)]);
    };
    double sum = 0;
    for (int64_t r = 0; r < rows; ++r) sum += at(x, r, inner, j) * at(other, r, inner, j);
    CHECK(near(products->values[static_cast<size_t>(j)], sum, 1e-9));
    for (int64_t i = 0; i < outer; ++i) {
      double drift = 0;
      for (int64_t r = 0; r < rows; ++r)
        drift += (at(ahead, r, outer, i) - at(stream, r, outer, i)) * at(x, r, inner, j);
      CHECK(near(cross->cross->data()[i * inner + j], drift, 1e-4));
    }
  }
  // What does not fit together.
  step.observers[3].inputs = -1;
  CHECK(program->step(step).code() == Code::kOption);
  step.observers[3].inputs = 99;
  CHECK(program->step(step).code() == Code::kShape || program->step(step).code() == Code::kOption);
  step.observers[3].inputs = Model::kActive;
  step.observers[3].slot = Model::kActive;
  CHECK(program->step(step).code() == (inner == outer ? Code::kOk : Code::kShape));
  step.observers[2].inputs = 0;
  CHECK(program->step(step).code() == Code::kOption);
}

TEST(observers_stand_before_and_between_ops) {
  const Config config;
  const Model model(config);
  const std::unique_ptr<Program> program = model.program();
  const std::vector<int32_t> tokens = tiny::randomTokens(9, config.vocabulary, 41);
  std::vector<std::vector<double>> blocks;
  model.forward(tokens, &blocks);
  std::vector<float> entry(9 * 48), exit(9 * 48), last(9 * 48), embedded(9 * 48);
  StepRequest step = tiny::request(model, model.cache(1), tokens, 0, {0});
  const auto copy = [&](int32_t run, int32_t op, std::vector<float>* out) {
    step.observers.push_back({run, op, Model::kHidden, Reduction::kCopy, nullptr, out->data()});
  };
  copy(2, Model::kBlockOps - 1, &last);  // not in the order of execution
  copy(2, -1, &entry);
  copy(1, Model::kBlockOps - 1, &exit);
  copy(0, 0, &embedded);
  CHECK(program->step(step).ok());
  CHECK(entry == exit);  // before the first op of layer 1 = after the last of layer 0
  CHECK(tiny::worst(exit, blocks[0]) < 2e-5);
  CHECK(tiny::worst(last, blocks[1]) < 2e-5);
  CHECK(embedded != exit);
  // A run of no ops is a place to observe as well.
  std::vector<float> kept(9 * 48);
  step.runs = {{1, 4, 4, 1, 0}};
  step.observers.clear();
  copy(0, 3, &kept);
  const Status status = program->step(step);
  CHECK_MSG(status.ok(), status.message());
  CHECK(kept == last);
}

TEST(reservoir_is_a_uniform_sample_by_seed) {
  constexpr int64_t kWidth = 3, kCapacity = 8, kRows = 40;
  std::vector<int> hits(kRows, 0);
  std::vector<float> x;
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t i = 0; i < kWidth; ++i) x.push_back(static_cast<float>(row * 10 + i));
  }
  constexpr int kSeeds = 20000;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const auto a = accumulator(Reduction::kReservoir, kWidth, kCapacity, seed);
    const auto b = accumulator(Reduction::kReservoir, kWidth, kCapacity, seed);
    CHECK(accumulate(a.get(), x.data(), kRows, nullptr).ok());
    CHECK(accumulate(b.get(), x.data(), 5, nullptr).ok());  // the same in pieces
    CHECK(accumulate(b.get(), x.data() + 5 * kWidth, kRows - 5, nullptr).ok());
    CHECK(a->samples == b->samples && a->samples.size() == kCapacity * kWidth && a->rows == kRows);
    std::set<int> chosen;
    for (int64_t i = 0; i < kCapacity; ++i) {
      const float* row = a->samples.data() + i * kWidth;
      const int index = static_cast<int>(row[0]) / 10;
      CHECK(std::memcmp(row, x.data() + index * kWidth, sizeof(float) * kWidth) == 0);
      chosen.insert(index);
    }
    CHECK(chosen.size() == kCapacity);
    for (const int index : chosen) ++hits[static_cast<size_t>(index)];
  }
  // Binomial with p = 1/5: 4000 expected, standard deviation 57; 6 of them are exceeded once in 10^8 cases.
  for (const int count : hits) CHECK_MSG(std::abs(count - 4000) < 340, std::to_string(count));
}

TEST(reservoir_of_few_rows_keeps_them_all) {
  const std::vector<float> x = tiny::randomFloats(12, 3);
  const auto a = accumulator(Reduction::kReservoir, 4, 5);
  CHECK(accumulate(a.get(), x.data(), 3, nullptr).ok());
  CHECK(std::memcmp(a->samples.data(), x.data(), 48) == 0 && a->samples.size() == 20 && a->samples[12] == 0);
}

TEST(wide_statistics_do_not_depend_on_threads) {
  constexpr int64_t kWidth = 1100, kRows = 150;
  const std::vector<float> x = tiny::randomFloats(kWidth * kRows, 60), y = tiny::randomFloats(kWidth * kRows, 61);
  ThreadPool& pool = ThreadPool::instance();
  const int before = pool.threads();
  for (const Reduction kind :
       {Reduction::kSumSquares, Reduction::kAbsMax, Reduction::kMean, Reduction::kSquaredError}) {
    std::vector<double> one;
    for (const int threads : {1, 2, 3}) {
      pool.setThreads(threads);
      const auto a = accumulator(kind, kWidth);
      CHECK(accumulate(a.get(), x.data(), kRows, y.data()).ok());
      CHECK(accumulate(a.get(), y.data(), kRows, x.data()).ok());
      if (threads == 1) one = a->values;
      CHECK(a->values == one);
    }
    double expected = 0;  // of column 700, or of all
    for (int64_t i = 0; i < kWidth * kRows; ++i) {
      const double u = x[static_cast<size_t>(i)], v = y[static_cast<size_t>(i)];
      if (kind == Reduction::kSquaredError) expected += 2 * (u - v) * (u - v);
      if (i % kWidth != 700) continue;
      if (kind == Reduction::kSumSquares) expected += u * u + v * v;
      if (kind == Reduction::kMean) expected += (u + v) / (2 * kRows);
      if (kind == Reduction::kAbsMax) expected = std::max({expected, std::fabs(u), std::fabs(v)});
    }
    CHECK(near(one[kind == Reduction::kSquaredError ? 0 : 700], expected, 1e-6));
  }
  pool.setThreads(before);
}

TEST(accumulators_that_contradict_themselves_are_refused) {
  const auto code = [](const std::shared_ptr<Accumulator>& a) { return checkAccumulator(*a).code(); };
  CHECK(code(accumulator(Reduction::kMean, 4)) == Code::kOk);
  CHECK(code(accumulator(Reduction::kMean, 0)) == Code::kShape);
  CHECK(code(accumulator(Reduction::kReservoir, 4, 0)) == Code::kOption);
  auto a = accumulator(Reduction::kReservoir, 4, 2);
  a->samples.resize(7);
  CHECK(code(a) == Code::kShape);
  a = accumulator(Reduction::kSumSquares, 4);
  a->values.resize(3);
  CHECK(code(a) == Code::kShape);
  a = accumulator(Reduction::kHessian, 4);
  a->hessian = std::move(Hessian::create(5).value());
  CHECK(code(a) == Code::kShape);
  const std::vector<float> x(4);
  CHECK(accumulate(accumulator(Reduction::kSquaredError, 4).get(), x.data(), 1, nullptr).code() == Code::kOption);
  CHECK(accumulate(accumulator(Reduction::kCopy, 4).get(), x.data(), 1, nullptr).code() == Code::kOption);
  a = accumulator(Reduction::kReservoir, int64_t{1} << 30, int64_t{1} << 30);
  CHECK(accumulate(a.get(), x.data(), 1, nullptr).code() == Code::kMemory);
  CHECK(a->rows == 0);
}
