// Programs and steps: native/program/program.h.
#include "program/program.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "bindings/exports.h"
#include "bindings/work.h"

namespace tsq {
namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();

// An element of a Float64Array that stands for an integer in [min, max].
int64_t wholeNumber(double value, const char* name, int64_t index, int64_t min, int64_t max) {
  if (value >= static_cast<double>(min) && value <= static_cast<double>(max) && value == std::trunc(value))
    return static_cast<int64_t>(value);
  refuse(Code::kFormat, std::string(name) + "[" + std::to_string(index) + "] is " + std::to_string(value) +
                            ", expected an integer from " + std::to_string(min) + " to " + std::to_string(max));
}

Napi::Value createProgram(Arguments& a) {
  constexpr int64_t kFields = 16;
  const auto slots = a.copy<double>(a[0], "slots");
  const auto sectionWeights = a.copy<int32_t>(a[1], "sectionWeights");
  const auto ops = a.copy<double>(a[2], "ops");
  ProgramSpec spec;
  spec.vocabulary = a.integer(a[3], "vocabulary", 0, kMaxInt32);
  for (size_t i = 0; i < slots.size(); ++i)
    spec.slots.push_back(wholeNumber(slots[i], "slots", static_cast<int64_t>(i), 1, kMaxInt32));
  for (size_t i = 0; i < sectionWeights.size(); ++i) {
    (void)wholeNumber(sectionWeights[i], "sectionWeights", static_cast<int64_t>(i), 0, kMaxInt32);
    spec.sections.push_back({{}, sectionWeights[i]});
  }
  if (ops.size() % kFields != 0)
    refuse(Code::kShape,
           "createProgram: ops has " + std::to_string(ops.size()) + " elements, expected a multiple of 16");
  for (int64_t first = 0; first < static_cast<int64_t>(ops.size()); first += kFields) {
    const auto whole = [&](int64_t field, int64_t min, int64_t max) {
      return static_cast<int32_t>(wholeNumber(ops[static_cast<size_t>(first + field)], "ops", first + field, min, max));
    };
    const int64_t sections = static_cast<int64_t>(spec.sections.size());
    const int32_t section = whole(0, 0, sections - 1);
    Op op{};
    op.kind = static_cast<OpKind>(whole(1, 0, kMaxInt32));
    for (int64_t i = 0; i < 3; ++i) op.in[i] = whole(2 + i, -1, kMaxInt32);
    op.out = whole(5, -1, kMaxInt32);
    for (int64_t i = 0; i < 2; ++i) op.weight[i] = whole(6 + i, -1, kMaxInt32);
    std::copy_n(ops.begin() + first + 8, 8, op.p);
    spec.sections[static_cast<size_t>(section)].ops.push_back(op);
  }
  auto shared = std::make_shared<SharedProgram>();
  shared->program = take(Program::create(std::move(spec)));
  shared->bytes = shared->program->bytes();
  return a.environment().hold(std::move(shared));
}

// Arguments of a cache: layers, kvHeads, headDim, pages, format, scales.
struct CacheArguments {
  int64_t layers, kvHeads, headDim, pages;
  KvFormat format;
};

// Eight numbers of a coding, then four of the whole; null: f32.
KvFormat kvFormat(Arguments& a, int64_t layers) {
  KvFormat format;
  if (!a.isNull(a[4])) {
    constexpr size_t kFields = 13;
    const std::vector<int32_t> values = a.copy<int32_t>(a[4], "format");
    if (values.size() != kFields) {
      refuse(Code::kShape, "format has " + std::to_string(values.size()) + " elements, expected 13");
    }
    const auto whole = [&](size_t field, int64_t max) {
      return wholeNumber(values[field], "format", static_cast<int64_t>(field), 0, max);
    };
    const auto coding = [&](size_t first) {
      return layout::KvCoding{
          static_cast<layout::KvType>(whole(first, static_cast<int64_t>(layout::kLastKvType))),
          static_cast<layout::KvScales>(whole(first + 1, static_cast<int64_t>(layout::kLastKvScales))),
          whole(first + 2, 1) == 1, whole(first + 3, kMaxInt32)};
    };
    format.keys = coding(0);
    format.values = coding(4);
    format.rotateKeys = whole(8, 1) == 1;
    format.rotateValues = whole(9, 1) == 1;
    format.sinkPages = whole(10, kMaxInt32);
    format.windowPages = whole(11, kMaxInt32);
    format.exactPages = whole(12, kMaxInt32);
  }
  if (!a.isNull(a[5])) {
    const std::vector<float> scales = a.copy<float>(a[5], "scales");
    if (static_cast<int64_t>(scales.size()) != 2 * layers) {
      refuse(Code::kShape, "scales has " + std::to_string(scales.size()) + " elements, expected " +
                               std::to_string(2 * layers) + ": of the keys of every layer, then of the values");
    }
    format.keyScales.assign(scales.begin(), scales.begin() + layers);
    format.valueScales.assign(scales.begin() + layers, scales.end());
  }
  return format;
}

CacheArguments cacheArguments(Arguments& a) {
  CacheArguments c{};
  c.layers = a.integer(a[0], "layers", 1, kMaxInt32);
  c.kvHeads = a.integer(a[1], "kvHeads", 1, kMaxInt32);
  c.headDim = a.integer(a[2], "headDim", 1, kMaxInt32);
  c.pages = a.integer(a[3], "pages", 1, kMaxInt32);
  c.format = kvFormat(a, c.layers);
  // K and V of every page; V rows are padded to 16 floats. Below this bound no size inside overflows.
  (void)product({c.layers, c.kvHeads, c.headDim + 16, c.pages, KvCache::kPage, 2}, "cache");
  (void)product({c.layers, c.kvHeads, c.headDim + 16, c.format.exactPages + 1, KvCache::kPage, 2}, "cache");
  return c;
}

Napi::Value createCache(Arguments& a) {
  CacheArguments c = cacheArguments(a);
  return a.environment().hold(take(KvCache::create(c.layers, c.kvHeads, c.headDim, c.pages, std::move(c.format))));
}

Napi::Value cacheBytes(Arguments& a) {
  const CacheArguments c = cacheArguments(a);
  const uint64_t bytes = take(KvCache::bytesOf(c.layers, c.kvHeads, c.headDim, c.pages, c.format));
  return Napi::Number::New(a.env(), static_cast<double>(bytes));
}

uint64_t handleOf(double value, const char* name, int64_t index) {
  return static_cast<uint64_t>(wholeNumber(value, name, index, 1, kMaxSize));
}

Napi::Value createAdapter(Arguments& a) {
  const auto handles = a.copy<double>(a[0], "weights");
  const auto scales = a.copy<double>(a[1], "scales");
  if (handles.size() != 3 * scales.size())
    refuse(Code::kShape, std::string("createAdapter: weights has ") + std::to_string(handles.size()) +
                             " elements, expected base, A and B for each of " + std::to_string(scales.size()) +
                             " scales");
  const auto weight = [&](size_t i) -> const std::shared_ptr<const PackedWeight>& {
    return a.environment().handles.get<const PackedWeight>(handleOf(handles[i], "weights", static_cast<int64_t>(i)));
  };
  std::vector<LowRank> products;
  for (size_t i = 0; i < scales.size(); ++i) {
    if (!std::isfinite(static_cast<float>(scales[i])))
      refuse(Code::kNumeric, std::string("createAdapter: scales[") + std::to_string(i) + "] is " +
                                 std::to_string(scales[i]) + ", expected a number that f32 holds");
    products.push_back({weight(3 * i), weight(3 * i + 1), weight(3 * i + 2), static_cast<float>(scales[i])});
  }
  return a.environment().hold(take(Adapter::create(std::move(products))));
}

// Reads a StepRequest into memory of its own: everything that is an index is copied, everything large is a view.
class RequestReader {
 public:
  RequestReader(Arguments& a, Napi::Value object, const ProgramSpec& spec) : a_(a), object_(object), spec_(spec) {}

  struct Step {
    StepRequest request;
    std::vector<std::shared_ptr<SharedAccumulator>>
        accumulators;  // of the observers, each once, in the order to lock them
    std::vector<int32_t> tokens, epilogueRows, targets, history;  // what the request's pointers point to
    std::vector<uint64_t> grown;                                  // handles whose memory a step may enlarge
  };

  std::unique_ptr<Step> read() {
    StepRequest& request = step_->request;
    request.rows = a_.integer(field("rows"), "rows", 0, kMaxInt32);
    readRuns();
    readWeights();
    readSequences();
    if (!a_.isNull(field("tokens"))) request.tokens = indices(field("tokens"), "tokens", request.rows, &step_->tokens);
    if (!a_.isNull(field("cache"))) request.cache = a_.object<KvCache>(field("cache"), "cache");
    request.hiddenSlot = static_cast<int32_t>(a_.integer(field("hiddenSlot"), "hiddenSlot", 0, kMaxInt32));
    const Napi::Value hidden = field("hidden");
    if (!a_.isNull(hidden))
      request.hidden = a_.view<float>(hidden, "hidden", rowsOf(request.hiddenSlot, "hiddenSlot")).data;
    request.activations = activations(field("activations"), "activations");
    readObservers();
    const Napi::Value epilogue = field("epilogue");
    if (!a_.isNull(epilogue)) readEpilogue(epilogue);
    return std::move(step_);
  }

 private:
  Napi::Value field(const char* key) const { return a_.property(object_, key, "request"); }

  // Absent: exact.
  Activations activations(Napi::Value value, const char* name) const {
    return a_.isNull(value) ? Activations::kExact : static_cast<Activations>(a_.integer(value, name, 0, 2));
  }

  // Floats of all rows of a slot.
  int64_t rowsOf(int64_t slot, const char* name) const {
    if (slot < 0 || slot >= static_cast<int64_t>(spec_.slots.size()))
      refuse(Code::kOption, std::string("step: ") + name + " is slot " + std::to_string(slot) +
                                ", but the program has " + std::to_string(spec_.slots.size()));
    return product({step_->request.rows, spec_.slots[static_cast<size_t>(slot)]}, name);
  }

  const int32_t* indices(Napi::Value value, const char* name, int64_t count, std::vector<int32_t>* store) const {
    *store = a_.copy<int32_t>(value, name);
    if (static_cast<int64_t>(store->size()) < count)
      refuse(Code::kShape, std::string("step: ") + name + " has " + std::to_string(store->size()) +
                               " elements, expected at least " + std::to_string(count));
    return store->data();
  }

  std::vector<int32_t> table(const char* key, size_t fields) const {
    std::vector<int32_t> values = a_.copy<int32_t>(field(key), key);
    if (values.size() % fields != 0)
      refuse(Code::kShape, std::string("step: ") + key + " has " + std::to_string(values.size()) +
                               " elements, expected a multiple of " + std::to_string(fields));
    return values;
  }

  void readRuns() {
    const std::vector<int32_t> runs = table("runs", 5);
    for (size_t i = 0; i < runs.size(); i += 5)
      step_->request.runs.push_back({runs[i], runs[i + 1], runs[i + 2], runs[i + 3], runs[i + 4]});
  }

  void readSequences() {
    const std::vector<int32_t> values = table("sequences", 6);
    for (size_t i = 0; i < values.size(); i += 6)
      step_->request.sequences.push_back(
          {values[i], values[i + 1], values[i + 2], values[i + 3], values[i + 4], values[i + 5]});
    const std::vector<double> adapters = a_.copy<double>(field("adapters"), "adapters");
    for (size_t i = 0; i < adapters.size(); ++i)
      step_->request.adapters.push_back(
          a_.environment().handles.get<const Adapter>(handleOf(adapters[i], "adapters", static_cast<int64_t>(i))));
    step_->request.pageTable = a_.copy<int32_t>(field("pageTable"), "pageTable");
    if (!a_.isNull(field("exactTable")))
      step_->request.exactTable = a_.copy<int32_t>(field("exactTable"), "exactTable");
  }

  void readWeights() {
    const std::vector<double> handles = a_.copy<double>(field("weights"), "weights");
    for (size_t i = 0; i < handles.size(); ++i) {
      WeightRef weight;
      if (handles[i] != -1) {
        const uint64_t handle = handleOf(handles[i], "weights", static_cast<int64_t>(i));
        const NativeObject& object = a_.environment().handles.object(handle);
        if (const auto* packed = std::get_if<std::shared_ptr<const PackedWeight>>(&object)) {
          weight = *packed;
        } else {
          weight = a_.environment().handles.get<const Vector>(handle);
        }
      }
      step_->request.weights.push_back(std::move(weight));
    }
  }

  void readObservers() {
    const Napi::Value list = field("observers");
    if (!list.IsArray()) refuse(Code::kOption, "step: observers is no array");
    const auto array = list.As<Napi::Array>();
    const uint32_t count = array.Length();
    for (uint32_t i = 0; i < count; ++i) readObserver(array.Get(i));
    auto& accumulators = step_->accumulators;
    std::sort(accumulators.begin(), accumulators.end());
    accumulators.erase(std::unique(accumulators.begin(), accumulators.end()), accumulators.end());
  }

  void readObserver(Napi::Value object) {
    const auto read = [&](const char* key) { return a_.property(object, key, "observer"); };
    Observer observer{};
    observer.run = static_cast<int32_t>(a_.integer(read("run"), "observer.run", 0, kMaxInt32));
    observer.op = static_cast<int32_t>(a_.integer(read("op"), "observer.op", -1, kMaxInt32));
    observer.slot = static_cast<int32_t>(a_.integer(read("slot"), "observer.slot", 0, kMaxInt32));
    observer.reduction = static_cast<Reduction>(
        a_.integer(read("reduction"), "observer.reduction", 0, static_cast<int64_t>(kLastReduction)));
    if (const Napi::Value routes = read("routes"); !a_.isNull(routes)) {
      observer.routes = static_cast<int32_t>(a_.integer(routes, "observer.routes", 0, kMaxInt32));
      observer.expert = static_cast<int32_t>(a_.integer(read("expert"), "observer.expert", 0, kMaxInt32));
    }
    const int64_t floats = rowsOf(observer.slot, "observer.slot");
    if (observer.reduction == Reduction::kCopy) {
      observer.copy = a_.view<float>(read("out"), "observer.out", floats).data;
    } else {
      const Napi::Value handle = read("accumulator");
      auto shared = a_.object<SharedAccumulator>(handle, "observer.accumulator");
      step_->grown.push_back(a_.handle(handle, "observer.accumulator"));
      // Shares ownership with the guarded accumulator.
      observer.accumulator = std::shared_ptr<Accumulator>(shared, &shared->accumulator);
      step_->accumulators.push_back(std::move(shared));
    }
    if (needsReference(observer.reduction))
      observer.reference = a_.view<float>(read("reference"), "observer.reference", floats).data;
    if (const Napi::Value inputs = read("inputs"); !a_.isNull(inputs))
      observer.inputs = static_cast<int32_t>(a_.integer(inputs, "observer.inputs", 0, kMaxInt32));
    step_->request.observers.push_back(std::move(observer));
  }

  void readEpilogue(Napi::Value object) {
    const auto read = [&](const char* key) { return a_.property(object, key, "epilogue"); };
    Epilogue& epilogue = step_->request.epilogue;
    epilogue.mode = static_cast<EpilogueMode>(a_.integer(read("mode"), "epilogue.mode", 1, 5));
    epilogue.rows = indices(read("rows"), "epilogue.rows", 0, &step_->epilogueRows);
    epilogue.count = static_cast<int64_t>(step_->epilogueRows.size());
    const auto values = [&](int64_t each) {
      return a_.view<double>(read("values"), "epilogue.values", product({epilogue.count, each}, "epilogue.values"))
          .data;
    };
    switch (epilogue.mode) {
      case EpilogueMode::kNone:
        return;
      case EpilogueMode::kLogits:
        epilogue.logits = a_.view<float>(read("logits"), "epilogue.logits",
                                         product({epilogue.count, spec_.vocabulary}, "epilogue.logits"))
                              .data;
        return;
      case EpilogueMode::kSample:
        epilogue.tokens = a_.view<int32_t>(read("tokens"), "epilogue.tokens", epilogue.count).data;
        readSampling(read("sampling"));
        return;
      case EpilogueMode::kDivergence:
        epilogue.referenceWidth = a_.integer(read("referenceWidth"), "epilogue.referenceWidth", 1);
        epilogue.referenceHead = a_.object<const PackedWeight>(read("referenceHead"), "epilogue.referenceHead");
        epilogue.referenceSoftcap = optionalNumber(read("referenceSoftcap"), "epilogue.referenceSoftcap", 0, 1e30, 0);
        epilogue.referenceActivations = activations(read("referenceActivations"), "epilogue.referenceActivations");
        epilogue.referenceHidden =
            a_.view<float>(read("referenceHidden"), "epilogue.referenceHidden",
                           product({epilogue.count, epilogue.referenceWidth}, "epilogue.referenceHidden"))
                .data;
        epilogue.values = values(4);
        break;
      case EpilogueMode::kNll:
        epilogue.values = values(1);
        break;
      case EpilogueMode::kScore:
        epilogue.values = values(2);
        break;
    }
    epilogue.targets = indices(read("targets"), "epilogue.targets", epilogue.count, &step_->targets);
  }

  void readSampling(Napi::Value object) {
    const auto read = [&](const char* key) { return a_.property(object, key, "sampling"); };
    Sampling& sampling = step_->request.epilogue.sampling;
    sampling.temperature = a_.number(read("temperature"), "sampling.temperature", 0, 1e30);
    sampling.topK = static_cast<int32_t>(a_.integer(read("topK"), "sampling.topK", 0, kMaxInt32));
    sampling.topP = a_.number(read("topP"), "sampling.topP", 0, 1);
    sampling.minP = a_.number(read("minP"), "sampling.minP", 0, 1);
    sampling.repetitionPenalty = a_.number(read("repetitionPenalty"), "sampling.repetitionPenalty", 0, 1e30);
    sampling.seed = static_cast<uint64_t>(a_.integer(read("seed"), "sampling.seed"));
    sampling.position = static_cast<uint64_t>(a_.integer(read("position"), "sampling.position"));
    const Napi::Value history = read("history");
    if (a_.isNull(history)) return;
    sampling.history = indices(history, "sampling.history", 0, &step_->history);
    sampling.historyCount = static_cast<int64_t>(step_->history.size());
  }

  double optionalNumber(Napi::Value value, const char* name, double min, double max, double otherwise) const {
    return a_.isNull(value) ? otherwise : a_.number(value, name, min, max);
  }

  Arguments& a_;
  Napi::Value object_;
  const ProgramSpec& spec_;
  std::unique_ptr<Step> step_ = std::make_unique<Step>();
};

Status runStep(SharedProgram& shared, const RequestReader::Step& step) {
  // In the order of addresses, and all before the program: no two steps can wait for each other.
  std::vector<std::unique_lock<std::shared_mutex>> locks;
  for (const auto& accumulator : step.accumulators) locks.emplace_back(accumulator->mutex);
  const std::lock_guard one(shared.mutex);
  const Status status = shared.program->step(step.request);
  shared.bytes = shared.program->bytes();
  for (const auto& accumulator : step.accumulators) accumulator->fed();
  return status;
}

Napi::Value step(Arguments& a) {
  const auto program = a.object<SharedProgram>(a[0], "program");
  std::shared_ptr<RequestReader::Step> step = RequestReader(a, a[1], program->program->spec()).read();
  step->request.abort = a.abortFlag(a[2]);
  step->grown.push_back(a.handle(a[0], "program"));
  return promise(
      a, [program, step] { return runStep(*program, *step); },
      [step](Napi::Env env) {
        for (const uint64_t handle : step->grown) Environment::of(env).handles.account(handle);
        return env.Undefined();
      });
}

constexpr Export kExports[] = {
    {"createProgram", createProgram, false},
    {"createCache", createCache, false},
    {"createAdapter", createAdapter, false},
    {"cacheBytes", cacheBytes, false},
    {"step", step, true},
};

}  // namespace

std::span<const Export> programExports() {
  return kExports;
}

}  // namespace tsq
