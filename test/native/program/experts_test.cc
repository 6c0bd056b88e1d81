// Mixtures of experts against the definition in float64, and what is refused of them.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "check.h"
#include "kernels/kernels.h"
#include "program/ops.h"
#include "tiny_model.h"

using namespace tsq;
using layout::WeightKind;
using tiny::Matrix;

namespace {

enum Slot { kInput, kScores, kRoutes, kGathered, kGate, kUp, kActive, kDown, kOut };

struct Shape {
  int64_t experts, topK, hidden, inner;
  bool renormalize;
  WeightKind kind;
};

// One block: router, experts, sum.
struct Mixture {
  Shape shape;
  ProgramSpec spec;
  Matrix router;
  std::vector<Matrix> gate, up, down;
  StepRequest step;

  explicit Mixture(const Shape& s) : shape(s) {
    const double k = static_cast<double>(s.topK);
    const int32_t e = static_cast<int32_t>(s.experts);
    spec.vocabulary = 1;
    spec.slots = {s.hidden,         s.experts,        s.experts,         s.topK * s.hidden, s.topK * s.inner,
                  s.topK * s.inner, s.topK * s.inner, s.topK * s.hidden, s.hidden};
    spec.sections = {{{{OpKind::kLinear, {kInput, -1, -1}, kScores, {0, -1}, {}},
                       {OpKind::kRoute, {kScores, -1, -1}, kRoutes, {-1, -1}, {k, s.renormalize ? 1.0 : 0.0}},
                       {OpKind::kGather, {kInput, kRoutes, -1}, kGathered, {-1, -1}, {k}},
                       {OpKind::kExperts, {kGathered, kRoutes, -1}, kGate, {1, -1}, {k}},
                       {OpKind::kExperts, {kGathered, kRoutes, -1}, kUp, {1 + e, -1}, {k}},
                       {OpKind::kGated, {kGate, kUp, -1}, kActive, {-1, -1}, {0}},
                       {OpKind::kExperts, {kActive, kRoutes, -1}, kDown, {1 + 2 * e, -1}, {k}},
                       {OpKind::kCombine, {kDown, kRoutes, -1}, kOut, {-1, -1}, {k}}},
                      1 + 3 * e}};
    router = tiny::randomMatrix(s.experts, s.hidden, WeightKind::kF32, 7);
    for (int64_t i = 0; i < s.experts; ++i) {
      const uint64_t seed = 100 + 3 * static_cast<uint64_t>(i);
      gate.push_back(tiny::randomMatrix(s.inner, s.hidden, s.kind, seed));
      up.push_back(tiny::randomMatrix(s.inner, s.hidden, s.kind, seed + 1));
      down.push_back(tiny::randomMatrix(s.hidden, s.inner, s.kind, seed + 2));
    }
    step.runs = {{0, 0, 8, 0, 0}};
    step.weights = {router.packed};
    for (const auto* list : {&gate, &up, &down}) {
      for (const Matrix& matrix : *list) step.weights.emplace_back(matrix.packed);
    }
  }

  std::vector<float> run(Program* program, const std::vector<float>& x) {
    std::vector<float> y(x.size());
    step.rows = static_cast<int64_t>(x.size()) / shape.hidden;
    step.hidden = x.data();
    step.observers = {{0, 7, kOut, Reduction::kCopy, nullptr, y.data()}};
    const Status status = program->step(step);
    CHECK_MSG(status.ok(), status.message());
    return y;
  }
};

std::vector<double> product(const Matrix& w, const double* x) {
  std::vector<double> y(static_cast<size_t>(w.n));
  for (int64_t i = 0; i < w.n; ++i) {
    for (int64_t j = 0; j < w.k; ++j) y[static_cast<size_t>(i)] += x[j] * w.values[static_cast<size_t>(i * w.k + j)];
  }
  return y;
}

// Indices of the topK largest, the lower index first among equals.
std::vector<size_t> chosen(const std::vector<double>& scores, int64_t topK) {
  std::vector<size_t> order(scores.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  order.resize(static_cast<size_t>(topK));
  return order;
}

std::vector<double> expectedRow(const Mixture& m, const double* x) {
  const std::vector<double> scores = product(m.router, x);
  const std::vector<size_t> experts = chosen(scores, m.shape.topK);
  double total = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    const bool counts = !m.shape.renormalize || std::find(experts.begin(), experts.end(), i) != experts.end();
    if (counts) total += std::exp(scores[i]);
  }
  std::vector<double> sum(static_cast<size_t>(m.shape.hidden));
  for (const size_t e : experts) {
    const std::vector<double> gate = product(m.gate[e], x), up = product(m.up[e], x);
    std::vector<double> active(gate.size());
    for (size_t i = 0; i < gate.size(); ++i) active[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
    const std::vector<double> down = product(m.down[e], active.data());
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += std::exp(scores[e]) / total * down[i];
  }
  return sum;
}

void near(const std::vector<float>& found, const std::vector<double>& expected, const std::string& what) {
  double size = 0;
  for (const double value : expected) size = std::max(size, std::fabs(value));
  const double difference = tiny::worst(found, expected);
  CHECK_MSG(difference <= 2e-5 * std::max(size, 1.0), what + ": differs by " + std::to_string(difference));
}

const WeightKind kF32 = WeightKind::kF32, kU4 = WeightKind::kU4;

// Runs only the ops [begin, 8) on given routes: the slots before were filled by a whole step of as many rows.
std::vector<double> onRoutes(const Mixture& m, const std::vector<float>& x, const std::vector<float>& routes) {
  std::vector<double> y;
  for (size_t row = 0; row * static_cast<size_t>(m.shape.hidden) < x.size(); ++row) {
    const std::vector<double> input(x.begin() + static_cast<int64_t>(row) * m.shape.hidden,
                                    x.begin() + static_cast<int64_t>(row + 1) * m.shape.hidden);
    std::vector<double> sum(input.size());
    for (int64_t e = 0; e < m.shape.experts; ++e) {
      const double share = routes[row * static_cast<size_t>(m.shape.experts) + static_cast<size_t>(e)];
      if (share == 0) continue;
      const auto expert = static_cast<size_t>(e);
      const std::vector<double> gate = product(m.gate[expert], input.data()), up = product(m.up[expert], input.data());
      std::vector<double> active(gate.size());
      for (size_t i = 0; i < gate.size(); ++i) active[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      const std::vector<double> down = product(m.down[expert], active.data());
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += share * down[i];
    }
    y.insert(y.end(), sum.begin(), sum.end());
  }
  return y;
}

std::vector<float> runOnRoutes(Mixture* m, Program* program, const std::vector<float>& x,
                               const std::vector<float>& routes) {
  (void)m->run(program, x);  // fills the input's slot
  std::vector<float> y(x.size());
  StepRequest step = m->step;
  step.runs = {{0, 2, 8, 0, 0}};
  step.hidden = routes.data();
  step.hiddenSlot = kRoutes;
  step.observers = {{0, 7, kOut, Reduction::kCopy, nullptr, y.data()}};
  const Status status = program->step(step);
  CHECK_MSG(status.ok(), status.message());
  return y;
}

}  // namespace

TEST(experts_compute_what_the_definition_says) {
  const Shape shapes[] = {{1, 1, 16, 8, true, kF32},   {2, 1, 17, 5, false, kF32},  {5, 2, 24, 40, true, kF32},
                          {8, 8, 33, 16, true, kF32},  {13, 8, 48, 32, false, kU4}, {40, 6, 64, 48, true, kU4},
                          {128, 8, 32, 16, true, kU4}, {3, 3, 16, 64, false, kU4}};
  for (const Shape& shape : shapes) {
    Mixture m(shape);
    const auto program = std::move(Program::create(m.spec).value());
    for (const int64_t rows : {1, 2, 7, 33, 130}) {
      const std::vector<float> x = tiny::randomFloats(rows * shape.hidden, static_cast<uint64_t>(rows), 2);
      const std::vector<double> input(x.begin(), x.end());
      std::vector<double> expected;
      for (int64_t row = 0; row < rows; ++row) {
        const std::vector<double> y = expectedRow(m, input.data() + row * shape.hidden);
        expected.insert(expected.end(), y.begin(), y.end());
      }
      near(m.run(program.get(), x), expected, std::to_string(shape.experts) + " experts, " + std::to_string(rows));
    }
  }
}

TEST(experts_of_another_number_of_choices_do_not_run_together) {
  const Op gate = {OpKind::kExperts, {kGathered, kRoutes, -1}, kGate, {1, -1}, {2}};
  Op ops[] = {gate, gate};
  ops[1].out = kUp;
  CHECK(opsTogether(ops, 2) == 2);
  ops[1].p[0] = 4;
  CHECK(opsTogether(ops, 2) == 1);
}

TEST(experts_take_any_choice_of_rows) {
  Mixture m({6, 2, 24, 16, true, kU4});
  const auto program = std::move(Program::create(m.spec).value());
  const int64_t rows = 37;
  const std::vector<float> x = tiny::randomFloats(rows * 24, 3);
  const auto check = [&](const char* what, const std::function<float(int64_t, int64_t)>& share) {
    std::vector<float> routes;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t e = 0; e < 6; ++e) routes.push_back(share(row, e));
    }
    near(runOnRoutes(&m, program.get(), x, routes), onRoutes(m, x, routes), what);
  };
  check("all rows to one expert", [](int64_t, int64_t e) { return e == 4 ? 0.7f : 0.0f; });
  check("no row to any", [](int64_t, int64_t) { return 0.0f; });
  check("an expert without rows", [](int64_t row, int64_t e) { return e != 2 && (row + e) % 3 == 0 ? 0.5f : 0.0f; });
  check("some rows to none", [](int64_t row, int64_t e) { return row % 2 == 0 && e < 2 ? -0.25f : 0.0f; });
  // More pairs than there is room for: refused, and the program goes on.
  std::vector<float> all(static_cast<size_t>(rows * 6), 1.0f);
  StepRequest step = m.step;
  for (const int32_t begin : {2, 3, 6, 7}) {
    step.runs = {{0, begin, 8, 0, 0}};
    step.hidden = all.data();
    step.hiddenSlot = kRoutes;
    step.observers = {};
    const Status status = program->step(step);
    CHECK(status.code() == Code::kNumeric);
    CHECK_MSG(status.message().find("choose 222 experts for 37 rows, expected at most 2 a row") != std::string::npos,
              status.message());
  }
  check("after a refusal", [](int64_t row, int64_t e) { return e == row % 6 ? 1.0f : 0.0f; });
}

TEST(routes_break_ties_by_index_and_keep_what_is_not_finite) {
  Mixture m({7, 3, 16, 8, true, kF32});
  const auto program = std::move(Program::create(m.spec).value());
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> scores = {1, 2, 2,  2,   1, 2,     0,    // ties: 1, 2, 3
                                     0, 0, 0,  0,   0, 0,     0,    // all equal: 0, 1, 2
                                     0, 0, 50, 0,   0, -1000, 200,  // shares that are almost nothing
                                     1, 2, 3,  nan, 4, 5,     6,   1, 2, infinity, 0, 0, 0, 0};
  std::vector<float> routes(scores.size());
  StepRequest step = m.step;
  step.rows = 5;
  step.runs = {{0, 1, 2, 0, 0}};
  step.hidden = scores.data();
  step.hiddenSlot = kScores;
  step.observers = {{0, 1, kRoutes, Reduction::kCopy, nullptr, routes.data()}};
  CHECK(program->step(step).ok());
  const float third = 1.0f / 3;
  const float expected[] = {0, third, third, third, 0, 0, 0, third, third, third, 0, 0, 0, 0};
  for (size_t i = 0; i < 14; ++i) CHECK_MSG(std::fabs(routes[i] - expected[i]) < 1e-6f, std::to_string(i));
  CHECK(routes[20] == 1.0f && routes[16] < 1e-30f && routes[19] == 0.0f);
  for (size_t row = 3; row < 5; ++row) {
    const auto begin = routes.begin() + static_cast<int64_t>(row) * 7;
    CHECK(std::count_if(begin, begin + 7, [](float value) { return std::isnan(value); }) == 3);
  }
}

TEST(experts_give_the_same_bytes_for_any_number_of_threads_and_in_a_batch) {
  const int before = ThreadPool::instance().threads();
  Mixture m({16, 4, 96, 64, true, kU4});
  const auto program = std::move(Program::create(m.spec).value());
  const std::vector<float> x = tiny::randomFloats(200 * 96, 5);
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 2, 3, 5}) {
    ThreadPool::instance().setThreads(threads);
    results.push_back(m.run(program.get(), x));
    CHECK(results.back() == results.front());
  }
  ThreadPool::instance().setThreads(before);
  // One row by itself is within what another order of summation does.
  const std::vector<float> one = m.run(program.get(), std::vector<float>(x.begin() + 17 * 96, x.begin() + 18 * 96));
  const std::vector<float> among(results[0].begin() + 17 * 96, results[0].begin() + 18 * 96);
  CHECK(tiny::worst(one, among) < 1e-5);
}

TEST(observers_see_the_rows_of_an_expert) {
  Mixture m({5, 2, 24, 16, true, kF32});
  const auto program = std::move(Program::create(m.spec).value());
  const int64_t rows = 41;
  const std::vector<float> x = tiny::randomFloats(rows * 24, 11);
  std::vector<float> routes(static_cast<size_t>(rows * 5));
  auto counts = std::make_shared<Accumulator>();
  counts->kind = Reduction::kNonZero;
  counts->width = 5;
  std::vector<std::shared_ptr<Accumulator>> squares;
  m.step.rows = rows;
  m.step.hidden = x.data();
  m.step.observers = {{0, 1, kRoutes, Reduction::kCopy, nullptr, routes.data()},
                      {0, 1, kRoutes, Reduction::kNonZero, counts}};
  for (int32_t e = 0; e < 5; ++e) {
    auto a = std::make_shared<Accumulator>();
    a->kind = Reduction::kSumSquares;
    a->width = 24;
    squares.push_back(a);
    m.step.observers.push_back({0, 2, kGathered, Reduction::kSumSquares, a, nullptr, nullptr, kRoutes, e});
  }
  CHECK(program->step(m.step).ok());
  double pairs = 0;
  for (int64_t e = 0; e < 5; ++e) {
    std::vector<double> sums(24);
    double seen = 0;
    for (int64_t row = 0; row < rows; ++row) {
      if (routes[static_cast<size_t>(row * 5 + e)] == 0) continue;
      ++seen;
      for (int64_t i = 0; i < 24; ++i) {
        const double value = x[static_cast<size_t>(row * 24 + i)];
        sums[static_cast<size_t>(i)] += value * value;
      }
    }
    pairs += seen;
    const Accumulator& a = *squares[static_cast<size_t>(e)];
    CHECK(a.rows == seen && counts->values[static_cast<size_t>(e)] == seen);
    for (size_t i = 0; i < 24 && seen > 0; ++i) CHECK(std::fabs(a.values[i] - sums[i]) < 1e-4 * (1 + sums[i]));
  }
  CHECK(pairs == 2.0 * static_cast<double>(rows) && counts->rows == static_cast<double>(rows));

  const auto refused = [&](Observer observer, const char* part) {
    StepRequest step = m.step;
    step.observers = {observer};
    const Status status = program->step(step);
    CHECK_MSG(!status.ok() && status.message().find(part) != std::string::npos, status.message());
  };
  const auto fresh = [](int64_t width) {
    auto a = std::make_shared<Accumulator>();
    a->kind = Reduction::kSumSquares;
    a->width = width;
    return a;
  };
  const Reduction sum = Reduction::kSumSquares;
  refused({0, 2, kGathered, sum, fresh(24), nullptr, nullptr, 9, 0}, "observers[0].routes is slot 9");
  refused({0, 2, kGathered, sum, fresh(24), nullptr, nullptr, -2, 0}, "observers[0].routes is slot -2");
  refused({0, 2, kGathered, sum, fresh(24), nullptr, nullptr, kRoutes, 5}, "observers[0].expert is 5");
  refused({0, 2, kGathered, sum, fresh(24), nullptr, nullptr, kRoutes, -1}, "observers[0].expert is -1");
  refused({0, 2, kGathered, sum, fresh(23), nullptr, nullptr, kRoutes, 0}, "the accumulator is 23 wide");
  refused({0, 2, kGathered, sum, fresh(48), nullptr, nullptr, kRoutes, 0}, "expected at most 1 a row");
  refused({0, 2, kGathered, Reduction::kCopy, nullptr, routes.data(), nullptr, kRoutes, 0}, "is a copy");
}

TEST(mixtures_are_checked) {
  const Shape shape{4, 2, 24, 16, true, kF32};
  const auto refused = [&](const char* part, const std::function<void(ProgramSpec*)>& spoil) {
    ProgramSpec spec = Mixture(shape).spec;
    spoil(&spec);
    const Status status = Program::create(spec).status();
    CHECK_MSG(status.code() == Code::kFormat && status.message().find(part) != std::string::npos, status.message());
  };
  const auto op = [](ProgramSpec* spec, size_t i) { return &spec->sections[0].ops[i]; };
  refused("op 1 (route): p[0] (topK) is 5, expected an integer from 1 to 4", [&](auto* s) { op(s, 1)->p[0] = 5; });
  refused("op 1 (route): p[0] (topK) is 0", [&](auto* s) { op(s, 1)->p[0] = 0; });
  refused("op 1 (route): p[1] (renormalize) is 2", [&](auto* s) { op(s, 1)->p[1] = 2; });
  refused("op 1 (route): reads and writes slot 1", [&](auto* s) { op(s, 1)->out = kScores; });
  refused("op 1 (route): has routes for 5000 experts", [&](auto* s) { s->slots[kScores] = 5000; });
  refused("op 1 (route): in[0] (slot 1) is 3 wide, expected 4", [&](auto* s) { s->slots[kScores] = 3; });
  refused("op 2 (gather): out (slot 3) is 48 wide, expected 24", [&](auto* s) { op(s, 2)->p[0] = 1; });
  refused("op 2 (gather): p[0] (topK) is 1.5", [&](auto* s) { op(s, 2)->p[0] = 1.5; });
  refused("op 2 (gather): reads and writes slot 2", [&](auto* s) { op(s, 2)->out = kRoutes; });
  refused("op 3 (experts): slot 4 is 31 wide, expected a multiple of topK 2", [&](auto* s) { s->slots[kGate] = 31; });
  refused("op 6 (experts): weight[0] is 10, expected 4 weights", [&](auto* s) { op(s, 6)->weight[0] = 10; });
  refused("op 6 (experts): weight[0] is -1", [&](auto* s) { op(s, 6)->weight[0] = -1; });
  refused("op 6 (experts): reads and writes slot 6", [&](auto* s) { op(s, 6)->out = kActive; });
  refused("op 7 (combine): in[0] (slot 7) is 48 wide, expected 24", [&](auto* s) { op(s, 7)->p[0] = 1; });

  Mixture m(shape);
  const auto program = std::move(Program::create(m.spec).value());
  const std::vector<float> x = tiny::randomFloats(3 * 24, 1);
  m.step.rows = 3;
  m.step.hidden = x.data();
  const auto stepRefused = [&](const char* part, const std::function<void(StepRequest*)>& spoil) {
    StepRequest step = m.step;
    spoil(&step);
    const Status status = program->step(step);
    CHECK_MSG(!status.ok() && status.message().find(part) != std::string::npos, status.message());
  };
  stepRefused("op 3 (experts): weight[0] is not bound", [](auto* s) { s->weights[3] = WeightRef(); });
  stepRefused("(expert 2)", [](auto* s) { s->weights[3] = WeightRef(); });
  stepRefused("is [24, 16], expected [16, 24]", [](auto* s) { s->weights[2] = s->weights[12]; });
  stepRefused("weights[12]", [](auto* s) { s->weights.resize(12); });
  CHECK(program->step(m.step).ok());
}
