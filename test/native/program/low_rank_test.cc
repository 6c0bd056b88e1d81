// Adapters beside the weights: against weights with the product added, rows of several sequences, refusals.
#include <cmath>
#include <string>

#include "../check.h"
#include "program/low_rank.h"
#include "tiny_model.h"

using namespace tsq;

namespace {

std::shared_ptr<const PackedWeight> pack(const std::vector<float>& values, int64_t n, int64_t k) {
  return std::make_shared<const PackedWeight>(
      std::move(packDense(values.data(), Dtype::kF32, n, k, layout::WeightKind::kF32).value()));
}

struct Case {
  int64_t n, k, rank, rows;
};

// One linear as a program, with sequences of the given rows.
struct Linear {
  explicit Linear(const Case& size) : size(size) {
    weight = tiny::randomFloats(size.n * size.k, 1);
    a = tiny::randomFloats(size.rank * size.k, 2);
    b = tiny::randomFloats(size.n * size.rank, 3);
    x = tiny::randomFloats(size.rows * size.k, 4);
    base = pack(weight, size.n, size.k);
    ProgramSpec spec;
    spec.slots = {size.k, size.n};
    spec.vocabulary = 1;
    spec.sections.push_back({{{OpKind::kLinear, {0, -1, -1}, 1, {0, -1}, {}}}, 1});
    program = std::move(Program::create(std::move(spec)).value());
    out.resize(static_cast<size_t>(size.rows * size.n));
    step.runs = {{0, 0, 1, 0, 0}};
    step.weights = {base};
    step.rows = size.rows;
    step.hidden = x.data();
    Observer observer{};
    observer.slot = 1;
    observer.reduction = Reduction::kCopy;
    observer.copy = out.data();
    step.observers = {observer};
  }
  std::shared_ptr<const Adapter> adapter(float scale) const {
    return Adapter::create({{base, pack(a, size.rank, size.k), pack(b, size.n, size.rank), scale}}).value();
  }
  // x w^T + scale (x a^T) b^T in double, and the sum of magnitudes.
  std::pair<double, double> expected(int64_t row, int64_t column, double scale) const {
    double sum = 0, magnitude = 0;
    for (int64_t j = 0; j < size.k; ++j) {
      double w = weight[static_cast<size_t>(column * size.k + j)], both = std::abs(w);
      for (int64_t r = 0; r < size.rank; ++r) {
        const double part =
            scale * a[static_cast<size_t>(r * size.k + j)] * b[static_cast<size_t>(column * size.rank + r)];
        w += part;
        both += std::abs(part);
      }
      const double value = x[static_cast<size_t>(row * size.k + j)];
      sum += value * w;
      magnitude += std::abs(value) * both;
    }
    return {sum, magnitude};
  }

  Case size;
  std::vector<float> weight, a, b, x, out;
  std::shared_ptr<const PackedWeight> base;
  std::unique_ptr<Program> program;
  StepRequest step;
};

}  // namespace

TEST(adapters_add_their_product) {
  for (const Case& size : {Case{1, 1, 1, 1}, Case{37, 53, 5, 3}, Case{16, 64, 8, 17}, Case{70, 33, 40, 300}}) {
    Linear linear(size);
    linear.step.adapters = {linear.adapter(0.75f)};
    linear.step.sequences = {{0, size.rows, 0, 0, 0, 0}};
    CHECK(linear.program->step(linear.step).ok());
    double worst = 0;
    for (int64_t i = 0; i < size.rows * size.n; ++i) {
      const auto [sum, magnitude] = linear.expected(i / size.n, i % size.n, 0.75);
      worst = std::max(worst, std::abs(linear.out[static_cast<size_t>(i)] - sum) / magnitude);
    }
    CHECK_MSG(worst < 2e-6, std::to_string(worst));
  }
}

TEST(sequences_choose_their_adapters) {
  Linear linear({24, 40, 4, 9});
  linear.step.adapters = {linear.adapter(1), linear.adapter(-2)};
  linear.step.sequences = {{0, 2, 0, 0, 0, 1}, {2, 4, 0, 0, 0, -1}, {6, 3, 0, 0, 0, 0}};
  CHECK(linear.program->step(linear.step).ok());
  const double scales[] = {-2, -2, 0, 0, 0, 0, 1, 1, 1};
  for (int64_t i = 0; i < 9 * 24; ++i) {
    const auto [sum, magnitude] = linear.expected(i / 24, i % 24, scales[i / 24]);
    CHECK(std::abs(linear.out[static_cast<size_t>(i)] - sum) < 2e-6 * magnitude);
  }
}

TEST(neighbours_with_one_adapter_are_one_product) {
  // Sums of one row and of many run in another order on most instruction sets: together they are those of many.
  Linear apart({40, 520, 8, 12}), together({40, 520, 8, 12});
  for (Linear* linear : {&apart, &together}) linear->step.adapters = {linear->adapter(1), linear->adapter(-2)};
  for (int64_t row = 0; row < 6; ++row) apart.step.sequences.push_back({row, 1, 0, 0, 0, 0});
  apart.step.sequences.push_back({6, 2, 0, 0, 0, -1});
  apart.step.sequences.push_back({8, 1, 0, 0, 0, 1});
  apart.step.sequences.push_back({9, 2, 0, 0, 0, 1});
  apart.step.sequences.push_back({11, 1, 0, 0, 0, 0});
  together.step.sequences = {{0, 6, 0, 0, 0, 0}, {6, 2, 0, 0, 0, -1}, {8, 3, 0, 0, 0, 1}, {11, 1, 0, 0, 0, 0}};
  CHECK(apart.program->step(apart.step).ok());
  CHECK(together.program->step(together.step).ok());
  CHECK(apart.out == together.out);
  const double scales[] = {1, 1, 1, 1, 1, 1, 0, 0, -2, -2, -2, 1};
  for (int64_t i = 0; i < 12 * 40; ++i) {
    const auto [sum, magnitude] = apart.expected(i / 40, i % 40, scales[i / 40]);
    CHECK(std::abs(apart.out[static_cast<size_t>(i)] - sum) < 2e-6 * magnitude);
  }
}

TEST(adapters_that_do_not_fit_are_refused) {
  const Linear linear({24, 40, 4, 2});
  const auto a = pack(linear.a, 4, 40), b = pack(linear.b, 24, 4);
  CHECK(Adapter::create({{linear.base, b, a, 1}}).status().code() == Code::kShape);
  CHECK(Adapter::create({{linear.base, a, a, 1}}).status().code() == Code::kShape);
  CHECK(Adapter::create({{linear.base, a, b, 1}, {linear.base, a, b, 1}}).status().code() == Code::kOption);
  Linear one({24, 40, 4, 2});
  one.step.adapters = {one.adapter(1)};
  CHECK(one.program->step(one.step).code() == Code::kOption);  // rows that belong to no sequence
  for (const int32_t index : {-2, 1}) {
    one.step.sequences = {{0, 2, 0, 0, 0, index}};
    CHECK(one.program->step(one.step).code() == Code::kOption);
  }
}
