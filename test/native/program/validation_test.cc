// Every refusal of Program::create and Program::step, with what its message must name.
#include <atomic>
#include <chrono>
#include <cmath>
#include <functional>
#include <limits>
#include <thread>

#include "check.h"
#include "tiny_model.h"

using namespace tsq;
using tiny::Config;
using tiny::Model;

namespace {

void refused(const Status& status, Code code, const std::string& part, int line) {
  const bool same = status.code() == code && status.message().find(part) != std::string::npos;
  check::report(same, __FILE__, line,
                "line " + std::to_string(line) + ": expected \"" + part + "\", found code " +
                    std::to_string(static_cast<int>(status.code())) + " \"" + status.message() + "\"");
}

// A valid step of the tiny model, to be spoiled in one place.
struct Valid {
  Model model{Config()};
  std::vector<int32_t> tokens = tiny::randomTokens(18, 53, 1), rows = {0, 17}, targets = {5, 6}, sampled = {-1, -1};
  std::vector<float> logits = std::vector<float>(2 * 53), buffer = std::vector<float>(18 * 80);
  std::vector<double> values = std::vector<double>(8);
  std::unique_ptr<Program> program = model.program();
  StepRequest step = tiny::request(model, model.cache(3), tokens, 0, {2, 0});

  Valid() {
    Epilogue& e = step.epilogue;
    e = {EpilogueMode::kLogits,
         rows.data(),
         2,
         logits.data(),
         targets.data(),
         values.data(),
         sampled.data(),
         {},
         buffer.data(),
         48,
         model.head().packed,
         0};
  }
};

void stepRefused(Code code, const std::string& part, int line, const std::function<void(Valid*)>& spoil) {
  static Valid shared;
  const StepRequest valid = shared.step;
  spoil(&shared);
  refused(shared.program->step(shared.step), code, part, line);
  shared.step = valid;
  const Status status = shared.program->step(shared.step);  // and a refused step leaves nothing behind
  CHECK_MSG(status.ok(), status.message());
}

void specRefused(const std::string& part, int line, const std::function<void(ProgramSpec*)>& spoil) {
  ProgramSpec spec = Model(Config()).spec();
  spoil(&spec);
  refused(Program::create(spec).status(), Code::kFormat, part, line);
}

Observer observer(Reduction reduction, std::shared_ptr<Accumulator> a) {
  return {1, 3, Model::kValue, reduction, std::move(a)};
}

std::shared_ptr<Accumulator> accumulator(Reduction kind, int64_t width) {
  auto a = std::make_shared<Accumulator>();
  a->kind = kind;
  a->width = width;
  return a;
}

}  // namespace

#define SPEC_REFUSED(part, ...) specRefused(part, __LINE__, [](ProgramSpec* s) { __VA_ARGS__; })
#define STEP_REFUSED(code, part, ...) stepRefused(Code::code, part, __LINE__, [](Valid* v) { __VA_ARGS__; })

TEST(specs_are_checked) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(Program::create(Model(Config()).spec()).ok());
  SPEC_REFUSED("the program has 0 slots", s->slots.clear());
  SPEC_REFUSED("slot 1 is 0 wide", s->slots[1] = 0);
  SPEC_REFUSED("slot 2 is 2147483648 wide", s->slots[2] = int64_t{1} << 31);
  SPEC_REFUSED("vocabulary is -1", s->vocabulary = -1);
  SPEC_REFUSED("section 1 binds -2 weights", s->sections[1].weights = -2);
  SPEC_REFUSED("section 1 op 3: kind 12 is unknown, expected 0 to 11",
               s->sections[1].ops[3].kind = static_cast<OpKind>(12));
  SPEC_REFUSED("section 1 op 3: kind -1 is unknown", s->sections[1].ops[3].kind = static_cast<OpKind>(-1));
  SPEC_REFUSED("section 1 op 1 (linear): in[0] is slot 14, expected 0 to 13", s->sections[1].ops[1].in[0] = 14);
  SPEC_REFUSED("section 1 op 1 (linear): in[0] is slot -1, expected 0 to 13", s->sections[1].ops[1].in[0] = -1);
  SPEC_REFUSED("section 1 op 1 (linear): in[1] is slot 2 but is not used", s->sections[1].ops[1].in[1] = 2);
  SPEC_REFUSED("section 1 op 1 (linear): out is slot -7", s->sections[1].ops[1].out = -7);
  SPEC_REFUSED("section 2 op 1 (logits): out is slot 3 but is not used", s->sections[2].ops[1].out = 3);
  SPEC_REFUSED("weight[0] is -1, expected an index below the section's 15", s->sections[1].ops[1].weight[0] = -1);
  SPEC_REFUSED("weight[1] is 15, expected -1 or an index below", s->sections[1].ops[1].weight[1] = 15);
  SPEC_REFUSED("section 1 op 10 (add): weight[1] is 0 but is not used", s->sections[1].ops[10].weight[1] = 0);
  SPEC_REFUSED("section 1 op 1 (linear): reads and writes slot 1", s->sections[1].ops[1].out = 1);
  for (int op = 0; op < Model::kBlockOps; ++op) {  // NaN and infinity in every parameter that is used
    const int parameters[] = {3, 0, 0, 0, 3, 3, 4, 4, 6, 0, 0, 3, 0, 0, 1, 0, 0};
    for (int i = 0; i < parameters[op]; ++i) {
      for (const double bad : {nan, HUGE_VAL}) {
        ProgramSpec spec = Model(Config()).spec();
        spec.sections[1].ops[static_cast<size_t>(op)].p[i] = bad;
        refused(Program::create(spec).status(), Code::kFormat, "p[" + std::to_string(i) + "]", __LINE__);
      }
    }
  }
  SPEC_REFUSED("p[0] (scale) is inf", s->sections[0].ops[0].p[0] = HUGE_VAL);
  SPEC_REFUSED("section 1 op 0 (rmsnorm): p[0] (eps) is -1", s->sections[1].ops[0].p[0] = -1);
  SPEC_REFUSED("op 0 (rmsnorm): in[0] (slot 2) is 48 wide", s->slots[1] = 40; s->sections[1].ops[0].in[0] = 2;
               s->slots[2] = 48);
  SPEC_REFUSED("op 4 (rmsnorm): p[1] (segments) is 5, which does not divide the width 48",
               s->sections[1].ops[4].p[1] = 5);
  SPEC_REFUSED("op 4 (rmsnorm): p[1] (segments) is 0, expected an integer from 1 to 48",
               s->sections[1].ops[4].p[1] = 0);
  SPEC_REFUSED("op 6 (rope): p[0] (heads) is 0.5", s->sections[1].ops[6].p[0] = 0.5);
  SPEC_REFUSED("op 6 (rope): in[0] (slot 11) is 48 wide, expected 36 (heads x headDim)",
               s->sections[1].ops[6].p[0] = 3);
  SPEC_REFUSED("op 6 (rope): p[2] (rotaryDim) is 7, expected an even number", s->sections[1].ops[6].p[2] = 7);
  SPEC_REFUSED("op 6 (rope): p[2] (rotaryDim) is 14, expected an integer from 2 to 12",
               s->sections[1].ops[6].p[2] = 14);
  SPEC_REFUSED("op 6 (rope): p[3] (attentionFactor) is 0", s->sections[1].ops[6].p[3] = 0);
  SPEC_REFUSED("op 8 (attention): heads is 4, expected a multiple of kvHeads 3", s->sections[1].ops[8].p[1] = 3);
  SPEC_REFUSED("op 8 (attention): in[0] (slot 2) is 48 wide, expected 96", s->sections[1].ops[8].p[0] = 8);
  SPEC_REFUSED("op 8 (attention): in[1] (slot 12) is 24 wide, expected 12", s->sections[1].ops[8].p[1] = 1);
  SPEC_REFUSED("op 8 (attention): in[2] (slot 4) is 25 wide, expected 24", s->slots[4] = 25);
  SPEC_REFUSED("op 8 (attention): out (slot 5) is 47 wide, expected 48", s->slots[5] = 47);
  SPEC_REFUSED("op 8 (attention): reads and writes slot 2", s->sections[1].ops[8].out = 2);
  SPEC_REFUSED("op 8 (attention): p[3] (scale) is 0, expected more than 0", s->sections[1].ops[8].p[3] = 0);
  SPEC_REFUSED("op 8 (attention): p[4] (window) is -1", s->sections[1].ops[8].p[4] = -1);
  SPEC_REFUSED("op 8 (attention): p[5] (softcap) is -3", s->sections[1].ops[8].p[5] = -3);
  SPEC_REFUSED("op 14 (gated): p[0] (activation) is 3, expected an integer from 0 to 2",
               s->sections[1].ops[14].p[0] = 3);
  SPEC_REFUSED("op 14 (gated): in[1] (slot 1) is 48 wide, expected 80", s->sections[1].ops[14].in[1] = 1);
  SPEC_REFUSED("op 10 (add): in[0] (slot 3) is 24 wide, expected 48", s->sections[1].ops[10].in[0] = 3);
  SPEC_REFUSED("op 1 (logits): p[0] (softcap) is -1", s->sections[2].ops[1].p[0] = -1);
  SPEC_REFUSED("op 1 (logits): must be the last op", s->sections[2].ops.push_back(s->sections[2].ops[0]));
}

TEST(runs_and_weights_are_checked) {
  STEP_REFUSED(kOption, "rows is 0, expected 1", v->step.rows = 0);
  STEP_REFUSED(kOption, "rows is -5", v->step.rows = -5);
  STEP_REFUSED(kOption, "rows is 9223372036854775807", v->step.rows = INT64_MAX);
  STEP_REFUSED(kOption, "runs[1].section is 3, expected 0 to 2", v->step.runs[1].section = 3);
  STEP_REFUSED(kOption, "runs[1] runs ops 0 to 18 of section 1, expected a range within 0 to 17",
               v->step.runs[1].opEnd = 18);
  STEP_REFUSED(kOption, "runs[1] runs ops 5 to 4", v->step.runs[1].opBegin = 5; v->step.runs[1].opEnd = 4);
  STEP_REFUSED(kOption, "runs[1] runs ops -1 to 17", v->step.runs[1].opBegin = -1);
  STEP_REFUSED(kOption, "(weightBase -1), but the step binds 33 weights", v->step.runs[1].weightBase = -1);
  STEP_REFUSED(
      kOption, "runs[2], section 1 op 15 (linear): weight[0] is weights[17] (weightBase 3), but the step binds 17",
      v->step.runs[2].weightBase = 3;
      v->step.weights.resize(17); v->step.weights[3] = v->step.weights[1]; v->step.runs[2] = {1, 14, 17, 3, 1});
  STEP_REFUSED(kOption, "weights[2147483647]", v->step.runs[0].weightBase = INT32_MAX);
  STEP_REFUSED(kDtype, "runs[0], section 0 op 0 (embed): weight[0] is not bound, expected a packed weight [53, 48]",
               v->step.weights[0] = std::monostate());
  STEP_REFUSED(kDtype, "weight[0] is not bound", v->step.weights[0] = std::shared_ptr<const PackedWeight>());
  STEP_REFUSED(kDtype, "runs[1], section 1 op 0 (rmsnorm): weight[0] is a packed weight, expected a vector of 48",
               v->step.weights[1] = v->step.weights[0]);
  STEP_REFUSED(kDtype, "op 1 (linear): weight[0] is a vector, expected a packed weight [48, 48]",
               v->step.weights[2] = v->step.weights[1]);
  STEP_REFUSED(kShape, "op 1 (linear): weight[0] is [53, 48], expected [48, 48]",
               v->step.weights[2] = v->step.weights[0]);
  STEP_REFUSED(kShape, "op 1 (linear): weight[1] has 24 elements, expected 48 (a bias",
               v->step.weights[3] = v->step.weights[5]);
  STEP_REFUSED(kShape, "op 4 (rmsnorm): weight[0] has 48 elements, expected 12",
               v->step.weights[8] = v->step.weights[1]);
  STEP_REFUSED(kShape, "op 6 (rope): weight[0] has 48 elements, expected 6", v->step.weights[10] = v->step.weights[1]);
  STEP_REFUSED(kShape, "section 2 op 1 (logits): weight[0] is [48, 48]", v->step.weights.back() = v->step.weights[2]);
  STEP_REFUSED(kShape, "holds 0 bytes of data", {
    auto empty = std::make_shared<PackedWeight>();
    empty->shape = {layout::WeightKind::kF32, 53, 48, 48};
    v->step.weights[0] = std::shared_ptr<const PackedWeight>(std::move(empty));
  });
  STEP_REFUSED(kShape, "and 0 of scales", {
    auto broken = std::make_shared<PackedWeight>();
    broken->shape = {layout::WeightKind::kU4, 53, 48, 16};
    broken->data = std::move(AlignedBuffer::allocate(1 << 16).value());
    v->step.weights[0] = std::shared_ptr<const PackedWeight>(std::move(broken));
  });
  STEP_REFUSED(kShape, "groups of 0", {
    auto empty = std::make_shared<PackedWeight>();
    empty->shape = {layout::WeightKind::kU4, 53, 48, 0};
    v->step.weights[0] = std::shared_ptr<const PackedWeight>(std::move(empty));
  });
  STEP_REFUSED(kOption, "hiddenSlot is slot 14", v->step.hidden = v->buffer.data(); v->step.hiddenSlot = 14);
}

TEST(tokens_sequences_and_pages_are_checked) {
  static std::vector<int32_t> bad = tiny::randomTokens(18, 53, 2);
  STEP_REFUSED(kOption, "tokens is missing", v->step.tokens = nullptr);
  STEP_REFUSED(kOption, "tokens[7] is 53, expected a token id from 0 to 52", bad[7] = 53; v->step.tokens = bad.data());
  STEP_REFUSED(kOption, "tokens[7] is -1", bad[7] = -1; v->step.tokens = bad.data());
  STEP_REFUSED(kOption, "the sequences cover 0 rows, expected all 18", v->step.sequences.clear());
  STEP_REFUSED(kOption, "the sequences cover 17 rows", v->step.sequences[0].rows = 17);
  STEP_REFUSED(kOption, "sequences[0].rows is 19, expected 1 to 18", v->step.sequences[0].rows = 19);
  STEP_REFUSED(kOption, "sequences[0].rows is 0", v->step.sequences[0].rows = 0);
  STEP_REFUSED(kOption, "sequences[0].rowBegin is 1, expected 0", v->step.sequences[0].rowBegin = 1);
  STEP_REFUSED(kOption, "sequences[1].rowBegin is 3, expected 10: sequences follow each other without gaps",
               v->step.sequences = {{0, 10, 0, 0, 1}, {3, 8, 0, 1, 1}});
  STEP_REFUSED(kOption, "sequences[0].context is -1", v->step.sequences[0].context = -1);
  STEP_REFUSED(kOption, "sequences[0].context is 9223372036854775807", v->step.sequences[0].context = INT64_MAX);
  STEP_REFUSED(kOption, "sequences[0] has 2 pages of 16 positions, expected 3 for 15 + 18 tokens",
               v->step.sequences[0].context = 15);
  STEP_REFUSED(kOption, "sequences[0] has pages 1 to 1 + 2, but the page table has 2",
               v->step.sequences[0].pageBegin = 1);
  STEP_REFUSED(kOption, "sequences[0] has pages -1", v->step.sequences[0].pageBegin = -1);
  STEP_REFUSED(kOption, "+ 9223372036854775807", v->step.sequences[0].pages = INT64_MAX);
  STEP_REFUSED(kOption, "pageTable[1] (sequences[0]) is 3, expected 0 to 2", v->step.pageTable[1] = 3);
  STEP_REFUSED(kOption, "pageTable[0] (sequences[0]) is -1", v->step.pageTable[0] = -1);
  STEP_REFUSED(kOption, "page 2 is used elsewhere", v->step.pageTable[1] = 2);
  STEP_REFUSED(kOption, "pageTable[1] (sequences[1]): page 1 is used elsewhere", v->step.pageTable = {1, 1};
               v->step.sequences = {{0, 9, 0, 0, 1}, {9, 9, 0, 1, 1}});
  STEP_REFUSED(kOption, "pageTable[0] (sequences[0]): page 0 is used elsewhere",
               v->step.pageTable = {0, 1, 0};  // read and written
               v->step.sequences = {{0, 9, 16, 0, 2}, {9, 9, 0, 2, 1}});
  STEP_REFUSED(kOption, "op 8 (attention): needs a KV cache", v->step.cache = nullptr);
  STEP_REFUSED(kOption, "runs[2], section 1 op 8 (attention): layer is 2, expected 0 to 1", v->step.runs[2].layer = 2);
  STEP_REFUSED(kOption, "layer is -1", v->step.runs[2].layer = -1);
  STEP_REFUSED(kShape, "the KV cache has 2 heads of 16, expected 2 heads of 12",
               v->step.cache = KvCache::create(2, 2, 16, 3).value());
  STEP_REFUSED(kShape, "the KV cache has 4 heads of 12", v->step.cache = KvCache::create(2, 4, 12, 3).value());
}

TEST(observers_are_checked) {
  const auto refuse = [](Code code, const std::string& part, int line, const Observer& o) {
    stepRefused(code, part, line, [&](Valid* v) { v->step.observers = {o}; });
  };
  const auto good = accumulator(Reduction::kMean, 24);
  Observer o = observer(Reduction::kMean, good);
  o.run = 4;
  refuse(Code::kOption, "observers[0].run is 4, expected 0 to 3", __LINE__, o);
  o.run = -1;
  refuse(Code::kOption, "observers[0].run is -1", __LINE__, o);
  o = observer(Reduction::kMean, good);
  o.op = 17;
  refuse(Code::kOption, "observers[0].op is 17, expected -1 to 16", __LINE__, o);
  o.op = -2;
  refuse(Code::kOption, "observers[0].op is -2", __LINE__, o);
  o = observer(Reduction::kMean, good);
  o.slot = 14;
  refuse(Code::kOption, "observers[0].slot is slot 14", __LINE__, o);
  refuse(Code::kOption, "observers[0].accumulator is missing", __LINE__, observer(Reduction::kMean, nullptr));
  refuse(Code::kOption, "is 0, but its accumulator is of kind 5", __LINE__, observer(Reduction::kHessian, good));
  refuse(Code::kShape, "the accumulator is 12 wide, slot 4 is 24", __LINE__,
         observer(Reduction::kMean, accumulator(Reduction::kMean, 12)));
  refuse(Code::kOption, "observers[0].reduction is 7", __LINE__, observer(static_cast<Reduction>(7), good));
  refuse(Code::kOption, "observers[0].copy is missing", __LINE__, observer(Reduction::kCopy, nullptr));
  refuse(Code::kOption, "observers[0].reference is missing", __LINE__,
         observer(Reduction::kSquaredError, accumulator(Reduction::kSquaredError, 24)));
  refuse(Code::kOption, "observers[0]: the reservoir's capacity is 0", __LINE__,
         observer(Reduction::kReservoir, accumulator(Reduction::kReservoir, 24)));
  CHECK(good->rows == 0);  // nothing was reduced by a refused step
}

TEST(epilogues_are_checked) {
  static std::vector<int32_t> ids = {0, 53};
  const double nan = std::numeric_limits<double>::quiet_NaN();
  STEP_REFUSED(kOption, "epilogue.mode is 6", v->step.epilogue.mode = static_cast<EpilogueMode>(6));
  STEP_REFUSED(kOption, "epilogue.mode is -1", v->step.epilogue.mode = static_cast<EpilogueMode>(-1));
  STEP_REFUSED(kOption, "no run contains a logits op", v->step.runs.pop_back());
  STEP_REFUSED(kOption, "expected one logits op", v->step.runs.push_back(v->step.runs.back()));
  STEP_REFUSED(kOption, "epilogue.count is -1", v->step.epilogue.count = -1);
  STEP_REFUSED(kOption, "epilogue.count is 9223372036854775807", v->step.epilogue.count = INT64_MAX);
  STEP_REFUSED(kOption, "epilogue.rows is missing: expected 2 row indices", v->step.epilogue.rows = nullptr);
  STEP_REFUSED(kOption, "epilogue.rows[1] is 53, expected 0 to 17", v->step.epilogue.rows = ids.data());
  STEP_REFUSED(kOption, "epilogue.logits is missing", v->step.epilogue.logits = nullptr);
  const auto refuse = [](EpilogueMode mode, Code code, const std::string& part, int line,
                         const std::function<void(Epilogue*)>& spoil) {
    stepRefused(code, part, line, [&](Valid* v) {
      v->step.epilogue.mode = mode;
      spoil(&v->step.epilogue);
    });
  };
  for (const EpilogueMode mode : {EpilogueMode::kNll, EpilogueMode::kDivergence, EpilogueMode::kScore}) {
    refuse(mode, Code::kOption, "epilogue.values is missing", __LINE__, [](Epilogue* e) { e->values = nullptr; });
    refuse(mode, Code::kOption, "epilogue.targets is missing", __LINE__, [](Epilogue* e) { e->targets = nullptr; });
    refuse(mode, Code::kOption, "epilogue.targets[1] is 53", __LINE__, [](Epilogue* e) { e->targets = ids.data(); });
  }
  const EpilogueMode kl = EpilogueMode::kDivergence, sample = EpilogueMode::kSample;
  refuse(kl, Code::kOption, "epilogue.referenceHidden is missing", __LINE__,
         [](Epilogue* e) { e->referenceHidden = nullptr; });
  refuse(kl, Code::kOption, "epilogue.referenceHead is missing", __LINE__,
         [](Epilogue* e) { e->referenceHead = nullptr; });
  refuse(kl, Code::kOption, "epilogue.referenceWidth is 0", __LINE__, [](Epilogue* e) { e->referenceWidth = 0; });
  refuse(kl, Code::kShape, "epilogue.referenceHead is [53, 48], expected [53, 20]", __LINE__,
         [](Epilogue* e) { e->referenceWidth = 20; });
  refuse(kl, Code::kOption, "epilogue.referenceSoftcap is nan", __LINE__,
         [&](Epilogue* e) { e->referenceSoftcap = nan; });
  refuse(sample, Code::kOption, "epilogue.tokens is missing", __LINE__, [](Epilogue* e) { e->tokens = nullptr; });
  refuse(sample, Code::kOption, "temperature is nan", __LINE__, [&](Epilogue* e) { e->sampling.temperature = nan; });
  refuse(sample, Code::kOption, "temperature is -1", __LINE__, [](Epilogue* e) { e->sampling.temperature = -1; });
  refuse(sample, Code::kOption, "topK is -1", __LINE__, [](Epilogue* e) { e->sampling.topK = -1; });
  refuse(sample, Code::kOption, "topP is 0", __LINE__, [](Epilogue* e) { e->sampling.topP = 0; });
  refuse(sample, Code::kOption, "topP is nan", __LINE__, [&](Epilogue* e) { e->sampling.topP = nan; });
  refuse(sample, Code::kOption, "minP is 1.5", __LINE__, [](Epilogue* e) { e->sampling.minP = 1.5; });
  refuse(sample, Code::kOption, "minP is nan", __LINE__, [&](Epilogue* e) { e->sampling.minP = nan; });
  refuse(sample, Code::kOption, "repetitionPenalty is 0", __LINE__,
         [](Epilogue* e) { e->sampling.repetitionPenalty = 0; });
  refuse(sample, Code::kOption, "repetitionPenalty is nan", __LINE__,
         [&](Epilogue* e) { e->sampling.repetitionPenalty = nan; });
  refuse(sample, Code::kOption, "historyCount is -1", __LINE__, [](Epilogue* e) { e->sampling.historyCount = -1; });
  refuse(sample, Code::kOption, "sampling.history is missing", __LINE__, [](Epilogue* e) {
    e->sampling.repetitionPenalty = 2;
    e->sampling.historyCount = 2;
  });
  refuse(sample, Code::kOption, "sampling.history[1] is 53", __LINE__, [](Epilogue* e) {
    e->sampling.repetitionPenalty = 2;
    e->sampling.history = ids.data();
    e->sampling.historyCount = 2;
  });
}

TEST(steps_too_large_for_memory_are_refused) {
  ProgramSpec spec;
  spec.slots = {int64_t{1} << 30, int64_t{1} << 30};
  spec.vocabulary = 1;
  spec.sections = {{{{OpKind::kAdd, {0, 0, -1}, 1, {-1, -1}, {}}}, 0}};
  const std::unique_ptr<Program> program = std::move(Program::create(spec).value());
  StepRequest step;
  step.rows = int64_t{1} << 30;
  refused(program->step(step), Code::kMemory, "run fewer rows", __LINE__);
  step.rows = (int64_t{1} << 29) + 1;
  refused(program->step(step), Code::kMemory, "run fewer rows", __LINE__);
  CHECK(program->bytes() == 0);
}

TEST(any_request_is_answered) {
  // Random integers in random places of a valid request: every step ends with a status, never with a crash.
  std::mt19937_64 random(11);
  const auto any = [&]() -> int64_t {
    const int64_t interesting[] = {-1, 0, 1, 2, 3, 15, 16, 17, 18, 52, 53, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN};
    return interesting[random() % std::size(interesting)];
  };
  const auto any32 = [&] { return static_cast<int32_t>(any()); };
  const std::shared_ptr<Accumulator> mean = accumulator(Reduction::kMean, 24);
  Valid valid;
  const StepRequest pristine = valid.step;
  int ok = 0, failed = 0;
  for (int round = 0; round < 20000; ++round) {
    StepRequest& step = valid.step = pristine;
    step.observers = {observer(Reduction::kMean, mean)};
    step.epilogue.mode = static_cast<EpilogueMode>(random() % 6);
    for (uint64_t spoil = random() % 3; spoil > 0; --spoil) {
      SectionRun& run = step.runs[random() % step.runs.size()];
      Sequence& sequence = step.sequences[0];
      switch (random() % 17) {
        case 0:
          run.section = any32();
          break;
        case 1:
          run.opBegin = any32();
          break;
        case 2:
          run.opEnd = any32();
          break;
        case 3:
          run.weightBase = any32();
          break;
        case 4:
          run.layer = any32();
          break;
        case 5:
          step.rows = std::min<int64_t>(any(), 18);
          break;  // the buffers hold 18 rows
        case 6:
          sequence.rowBegin = any();
          break;
        case 7:
          sequence.rows = any();
          break;
        case 8:
          sequence.context = any();
          break;
        case 9:
          sequence.pageBegin = any();
          break;
        case 10:
          sequence.pages = any();
          break;
        case 11:
          step.pageTable[random() % 2] = any32();
          break;
        case 12:
          step.observers[0].slot = any32();
          break;
        case 13:
          step.observers[0].op = any32();
          break;
        case 14:
          step.epilogue.count = std::min<int64_t>(any(), 2);
          break;
        case 15:
          std::swap(step.weights[random() % step.weights.size()], step.weights[random() % step.weights.size()]);
          break;
        case 16:
          step.sequences.push_back({any(), any(), any(), any(), any(), any32()});
          break;
      }
    }
    ++(valid.program->step(step).ok() ? ok : failed);
  }
  CHECK_MSG(ok > 2000 && failed > 2000, std::to_string(ok) + " ok, " + std::to_string(failed) + " refused");
}

TEST(raised_flag_aborts) {
  Valid valid;
  int32_t flag = 1;
  valid.step.abort = AbortFlag(&flag);
  CHECK(valid.program->step(valid.step).code() == Code::kAborted);
  flag = 0;
  CHECK(valid.program->step(valid.step).ok());
}

TEST(a_flag_raised_during_a_step_aborts_it_soon) {
  Config config;
  config.layers = 400;
  config.kind = tiny::WeightKind::kF16;
  const Model model(config);
  const std::vector<int32_t> tokens = tiny::randomTokens(600, 53, 3);
  std::vector<int32_t> pages(38);
  for (int32_t i = 0; i < 38; ++i) pages[static_cast<size_t>(i)] = i;
  const std::unique_ptr<Program> program = model.program();
  StepRequest step = tiny::request(model, model.cache(38), tokens, 0, pages);
  auto last = accumulator(Reduction::kMean, 48);
  auto first = accumulator(Reduction::kMean, 48);
  step.observers = {{0, 0, Model::kHidden, Reduction::kMean, first}, {400, 16, Model::kHidden, Reduction::kMean, last}};
  alignas(4) int32_t flag = 0;
  step.abort = AbortFlag(&flag);
  std::atomic<bool> started{false};
  std::thread raiser([&] {
    while (!started.load()) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    __atomic_store_n(&flag, 1, __ATOMIC_RELAXED);
  });
  started.store(true);
  CHECK(program->step(step).code() == Code::kAborted);
  raiser.join();
  CHECK(last->rows == 0);  // the step was far from its end
  __atomic_store_n(&flag, 0, __ATOMIC_RELAXED);
  step.runs.resize(3);  // the program runs on after an abort
  step.observers.resize(1);
  CHECK(program->step(step).ok());
}

TEST(steps_of_several_threads_take_turns) {
  const Model model{Config()};
  const std::unique_ptr<Program> program = model.program();
  std::vector<std::vector<float>> found(3, std::vector<float>(20 * 53));
  std::vector<std::vector<int32_t>> tokens;
  std::vector<std::shared_ptr<KvCache>> caches;
  for (uint64_t i = 0; i < 3; ++i) {
    tokens.push_back(tiny::randomTokens(20, 53, 80 + i));
    caches.push_back(model.cache(2));
  }
  std::vector<std::thread> threads;
  std::atomic<int> failures{0};
  for (size_t i = 0; i < 3; ++i) {
    threads.emplace_back([&, i] {
      StepRequest step = tiny::request(model, caches[i], tokens[i], 0, {1, 0});
      std::vector<int32_t> rows;
      for (int repeat = 0; repeat < 5; ++repeat) {
        tiny::wantLogits(&step, 53, &rows, &found[i]);
        failures += !program->step(step).ok();
        failures += program->bytes() == 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(failures == 0);
  for (size_t i = 0; i < 3; ++i) CHECK(tiny::worst(found[i], model.forward(tokens[i])) < 2e-5);
}
