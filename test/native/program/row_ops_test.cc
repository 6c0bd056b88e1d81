// Layer norm, columns, learned positions and plain activations: what they compute, and what they refuse.
#include <cmath>
#include <functional>

#include "check.h"
#include "tiny_model.h"

using namespace tsq;

namespace {

constexpr int64_t kWidth = 12, kRows = 5, kPositions = 9;

// Slots: 0 x, 1 … results. Weights: 0 norm's weight, 1 its bias, 2 the table of positions.
ProgramSpec spec() {
  ProgramSpec spec;
  spec.vocabulary = 7;
  spec.slots = {kWidth, kWidth, kWidth, 6, kWidth, kWidth, kWidth};
  spec.sections = {{{{OpKind::kLayerNorm, {0, -1, -1}, 1, {0, 1}, {1e-5}},
                     {OpKind::kLayerNorm, {0, -1, -1}, 2, {0, -1}, {1e-5}},
                     {OpKind::kColumns, {0, -1, -1}, 3, {-1, -1}, {1, 3, 2, 4}},
                     {OpKind::kPositions, {-1, -1, -1}, 4, {2, -1}, {kPositions}},
                     {OpKind::kActivate, {0, -1, -1}, 5, {-1, -1}, {2}},
                     {OpKind::kGated, {0, 1, -1}, 6, {-1, -1}, {2}}},
                    3}};
  return spec;
}

struct Fixture {
  tiny::Matrix table = tiny::randomMatrix(kPositions, kWidth, tiny::WeightKind::kF16, 3);
  std::vector<float> x = tiny::randomFloats(kRows * kWidth, 1, 2);
  std::vector<float> weight = tiny::randomFloats(kWidth, 2), bias = tiny::randomFloats(kWidth, 4);
  std::vector<std::vector<float>> copies;
  StepRequest step;

  Fixture() {
    for (int64_t width : spec().slots) copies.emplace_back(static_cast<size_t>(kRows * width));
    step.runs = {{0, 0, 6, 0, 0}};
    step.weights = {std::make_shared<const Vector>(weight), std::make_shared<const Vector>(bias), table.packed};
    step.rows = kRows;
    step.sequences = {{0, 3, 4, 0, 0}, {3, 2, 7, 0, 0}};  // positions 4, 5, 6 and 7, 8
    step.hidden = x.data();
    for (int32_t slot = 1; slot < 7; ++slot) {
      step.observers.push_back({0, 5, slot, Reduction::kCopy, nullptr, copies[static_cast<size_t>(slot)].data()});
    }
  }
};

double gelu(double x) {
  return 0.5 * x * std::erfc(-x * std::sqrt(0.5));
}

}  // namespace

TEST(row_ops_compute_what_they_say) {
  Fixture f;
  Result<std::unique_ptr<Program>> program = Program::create(spec());
  CHECK_MSG(program.ok(), program.status().message());
  const Status status = program.value()->step(f.step);
  CHECK_MSG(status.ok(), status.message());
  const int64_t positions[] = {4, 5, 6, 7, 8};
  for (size_t row = 0; row < kRows; ++row) {
    const float* x = f.x.data() + row * kWidth;
    double mean = 0, variance = 0;
    for (size_t i = 0; i < kWidth; ++i) mean += x[i] / static_cast<double>(kWidth);
    for (size_t i = 0; i < kWidth; ++i) variance += (x[i] - mean) * (x[i] - mean) / static_cast<double>(kWidth);
    for (size_t i = 0; i < kWidth; ++i) {
      const size_t at = row * kWidth + i;
      const double normed = (x[i] - mean) / std::sqrt(variance + 1e-5) * static_cast<double>(f.weight[i]);
      CHECK(std::fabs(f.copies[1][at] - (normed + static_cast<double>(f.bias[i]))) < 2e-6);
      CHECK(std::fabs(f.copies[2][at] - normed) < 2e-6);
      const size_t place = static_cast<size_t>(positions[row]) * kWidth + i;
      CHECK(static_cast<double>(f.copies[4][at]) == f.table.values[place]);
      CHECK(std::fabs(f.copies[5][at] - gelu(x[i])) < 1e-6);
      CHECK(std::fabs(f.copies[6][at] - gelu(x[i]) * (normed + static_cast<double>(f.bias[i]))) < 4e-6);
    }
    const size_t columns[] = {1, 2, 5, 6, 9, 10};
    for (size_t i = 0; i < 6; ++i) CHECK(f.copies[3][row * 6 + i] == x[columns[i]]);
  }
}

TEST(row_ops_are_checked) {
  const auto refused = [](const std::string& part, const std::function<void(ProgramSpec*)>& spoil) {
    ProgramSpec bad = spec();
    spoil(&bad);
    const Status status = Program::create(bad).status();
    CHECK_MSG(status.code() == Code::kFormat && status.message().find(part) != std::string::npos,
              part + " / " + status.message());
  };
  auto op = [](size_t i) { return [i](ProgramSpec* s) -> Op& { return s->sections[0].ops[i]; }; };
  refused("op 0 (layernorm): p[0] (eps) is -1", [&](ProgramSpec* s) { op(0)(s).p[0] = -1; });
  refused("op 0 (layernorm): in[0] (slot 0) is 12 wide, expected 6", [&](ProgramSpec* s) { op(0)(s).out = 3; });
  refused("p[0] (begin) is -1", [&](ProgramSpec* s) { op(2)(s).p[0] = -1; });
  refused("p[1] (pieces) is 0", [&](ProgramSpec* s) { op(2)(s).p[1] = 0; });
  refused("p[2] (length) is 1.5", [&](ProgramSpec* s) { op(2)(s).p[2] = 1.5; });
  refused("p[3] (stride) is 1, expected at least the length 2", [&](ProgramSpec* s) { op(2)(s).p[3] = 1; });
  refused("the last piece ends at column 13, but in[0] (slot 0) is 12 wide",
          [&](ProgramSpec* s) { op(2)(s).p[0] = 3; });
  refused("out (slot 3) is 6 wide, expected 4 (pieces x length)", [&](ProgramSpec* s) { op(2)(s).p[1] = 2; });
  refused("reads and writes slot 0", [&](ProgramSpec* s) { op(2)(s).out = 0; });
  refused("p[0] (positions) is 0", [&](ProgramSpec* s) { op(3)(s).p[0] = 0; });
  refused("p[0] (activation) is 3, expected an integer from 0 to 2", [&](ProgramSpec* s) { op(4)(s).p[0] = 3; });
  refused("in[0] (slot 0) is 12 wide, expected 6", [&](ProgramSpec* s) { op(4)(s).out = 3; });

  Result<std::unique_ptr<Program>> program = Program::create(spec());
  const auto stepRefused = [&](Code code, const std::string& part, const std::function<void(Fixture*)>& spoil) {
    Fixture f;
    spoil(&f);
    const Status status = program.value()->step(f.step);
    CHECK_MSG(status.code() == code && status.message().find(part) != std::string::npos,
              part + " / " + status.message());
  };
  stepRefused(Code::kOption, "sequences[1] reaches position 9, but the model has learned positions 0 to 8 only",
              [](Fixture* f) { f->step.sequences[1].context = 8; });
  stepRefused(Code::kOption, "the sequences cover 0 rows", [](Fixture* f) { f->step.sequences.clear(); });
  stepRefused(Code::kShape, "op 3 (positions): weight[0] is [8, 12], expected [9, 12]",
              [](Fixture* f) { f->step.weights[2] = tiny::randomMatrix(8, kWidth, tiny::WeightKind::kF16, 3).packed; });
  stepRefused(Code::kShape, "weight[1] has 11 elements, expected 12 (a bias for every column)",
              [](Fixture* f) { f->step.weights[1] = std::make_shared<const Vector>(Vector(11)); });
}
