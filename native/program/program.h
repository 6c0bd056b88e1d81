// A model as a program: sections (prologue, block templates, epilogue) of operations over named slots.
// lib/models describes it, this runs any range of it. See docs/program.md.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "kernels/packed_weight.h"
#include "program/kv_cache.h"
#include "program/low_rank.h"
#include "rounding/cross.h"
#include "rounding/rounding.h"
#include "runtime/status.h"
#include "runtime/thread_pool.h"

namespace tsq {

enum class OpKind : int32_t {
  kEmbed = 0,      // out <- rows of weight w0 by token id                                p: [scale]
  kRmsNorm = 1,    // in0, w0 vector -> out                                               p: [eps, segments, offset]
  kLinear = 2,     // in0, w0 packed, w1 bias vector or -1 -> out                         p: []
  kRope = 3,       // in0, w0 vector of inverse frequencies -> out                        p: [heads, headDim, rotaryDim,
                   // attentionFactor]
  kAttention = 4,  // in0 q, in1 k, in2 v -> out; appends k, v to the cache               p: [heads, kvHeads, headDim,
                   // scale, window, softcap]
  kGated = 5,      // in0 gate, in1 up -> out                                             p: [activation: 0 silu, 1
                   // gelu_tanh, 2 gelu_erf]
  kAdd = 6,        // in0, in1 -> out                                                     p: []
  kLogits = 7,     // in0, w0 packed head: last op of an epilogue; runs per the request   p: [softcap]
  kLayerNorm = 8,  // in0, w0 vector, w1 bias vector or -1 -> out                         p: [eps]
  kColumns = 9,    // in0 -> out: pieces of every row, one after another                  p: [begin, pieces, length,
                   // stride]
  kPositions = 10,  // out <- rows of weight w0 by position                                p: [positions]
  kActivate = 11,   // in0 -> out                                                         p: [activation, as of kGated]
  // A mixture of experts (program/experts.h). Routes: [rows, experts], an expert's share in a row, 0 where it was not
  // chosen. Grouped slots are topK times as wide as a row of theirs: all pairs of a row and an expert, expert by
  // expert.
  kRoute = 14,    // in0 logits -> out routes                                             p: [topK, renormalize]
  kGather = 15,   // in0, in1 routes -> out grouped                                       p: [topK]
  kExperts = 16,  // in0 grouped, in1 routes, w0 packed and those after it, one an expert -> out grouped  p: [topK]
  kCombine = 17,  // in0 grouped, in1 routes -> out: sums of a row's pairs, weighted by its routes        p: [topK]
};

struct Op {
  OpKind kind;
  int32_t in[3];      // slots, -1 unused
  int32_t out;        // slot, -1 unused
  int32_t weight[2];  // indices into the section's weights, -1 unused
  double p[8];
};

struct Section {
  std::vector<Op> ops;
  int32_t weights;  // how many weights one instance of the section binds
};

// A model's description. Slot widths in floats; slot 0 is the residual stream's entry ("hidden in").
struct ProgramSpec {
  std::vector<int64_t> slots;
  std::vector<Section> sections;
  int64_t vocabulary;
};

using Vector = std::vector<float>;
// What a weight index can be bound to.
using WeightRef = std::variant<std::monostate, std::shared_ptr<const PackedWeight>, std::shared_ptr<const Vector>>;

// One execution of ops [opBegin, opEnd) of a section with weights[weightBase …]; attention uses cache layer `layer`.
struct SectionRun {
  int32_t section, opBegin, opEnd, weightBase, layer;
};

// Rows rowBegin … rowBegin + rows are the next `rows` tokens of a sequence that has `context` tokens in the cache
// already.
struct Sequence {
  int64_t rowBegin, rows, context;
  int64_t pageBegin, pages;  // its page table: StepRequest::pageTable[pageBegin … + pages)
  int32_t adapter = -1;      // of StepRequest::adapters, which its linears run with; -1: none
};

enum class Reduction : int32_t {
  kHessian = 0,
  kSumSquares = 1,
  kAbsMax = 2,
  kCopy = 3,
  kSquaredError = 4,
  kMean = 5,
  kReservoir = 6,
  kNonZero = 7,
  kCross = 8,    // of the slot, or of two, with a reference: rounding/cross.h
  kProducts = 9  // of each number of the slot with the reference's
};

// Accumulators that observers write to; they live across steps.
struct Accumulator {
  Reduction kind;
  int64_t width = 0;
  double rows = 0;                   // rows seen
  std::unique_ptr<Hessian> hessian;  // kHessian
  std::unique_ptr<CrossGram> cross;  // kCross
  std::vector<double> values;  // kSumSquares, kAbsMax, kMean, kNonZero, kProducts: [width]; kSquaredError: [2] sum of
                               // squared differences, of squared references
  std::vector<float> samples;  // kReservoir: [capacity, width], uniform sample of the rows by seed
  // kReservoir: rows kept. kCross: columns of the reference and of what it is compared with; 0: those of x, which it is
  // compared with.
  int64_t capacity = 0;
  uint64_t seed = 0;
};

// After op `op` (or before the run's first op when op = opBegin - 1) of runs[run]: reduce `slot`.
struct Observer {
  int32_t run, op, slot;
  Reduction reduction;
  std::shared_ptr<Accumulator> accumulator;  // all but kCopy
  float* copy = nullptr;                     // kCopy: [rows, width] out
  const float* reference = nullptr;          // kSquaredError, kCross, kProducts: [rows, width of slot]
  // Not -1: `slot` is grouped by these routes, and only what belongs to `expert` is reduced, by an accumulator as wide
  // as one row of the group. Any reduction but kCopy; a reference is laid out as the slot.
  int32_t routes = -1, expert = 0;
  int32_t inputs = -1;  // kCross with a capacity: the slot of x, while `slot` is compared with the reference
};

// The last of Reduction.
inline constexpr Reduction kLastReduction = Reduction::kProducts;
inline bool needsReference(Reduction kind) {
  return kind == Reduction::kSquaredError || kind == Reduction::kCross || kind == Reduction::kProducts;
}

struct Sampling {
  double temperature = 0;  // 0: greedy
  int32_t topK = 0;        // 0: off
  double topP = 1, minP = 0, repetitionPenalty = 1;
  uint64_t seed = 0, position = 0;   // the random number depends on both only
  const int32_t* history = nullptr;  // token ids that the repetition penalty applies to
  int64_t historyCount = 0;
};

enum class EpilogueMode : int32_t { kNone = 0, kLogits = 1, kNll = 2, kSample = 3, kDivergence = 4, kScore = 5 };

// What kLogits computes for chosen rows, in chunks that bound memory.
struct Epilogue {
  EpilogueMode mode = EpilogueMode::kNone;
  const int32_t* rows = nullptr;  // [count] row indices of this step
  int64_t count = 0;
  float* logits = nullptr;           // kLogits: [count, vocabulary]
  const int32_t* targets = nullptr;  // kNll, kDivergence, kScore: [count] token ids
  double* values = nullptr;   // kNll: [count] -log p(target) in nats; kDivergence: [count, 4] = KL(ref || this), nll,
                              // ref nll, top token agrees (0/1); kScore: [count, 2] = nll, target is top token (0/1)
  int32_t* tokens = nullptr;  // kSample: [count]
  Sampling sampling;
  // kDivergence: the reference model's epilogue input (rows [count, refWidth], after its final norm) and head.
  const float* referenceHidden = nullptr;
  int64_t referenceWidth = 0;
  std::shared_ptr<const PackedWeight> referenceHead;
  double referenceSoftcap = 0;
  Activations referenceActivations = Activations::kExact;
};

struct StepRequest {
  std::vector<SectionRun> runs;
  std::vector<WeightRef> weights;
  int64_t rows = 0;
  const int32_t* tokens = nullptr;  // [rows], needed by kEmbed
  std::vector<Sequence> sequences;
  std::vector<int32_t> pageTable;
  std::vector<std::shared_ptr<const Adapter>> adapters;
  // Beside pageTable, or empty where the cache keeps nothing exact: page of the cache's f16 pool, -1 none. Needed for
  // what the format keeps and a query of this step reads, but for pages begun in this step that none will read later.
  std::vector<int32_t> exactTable;
  std::shared_ptr<KvCache> cache;  // needed by kAttention
  const float* hidden =
      nullptr;  // [rows, slots[hiddenSlot]] copied into hiddenSlot before the first run; null: keep what is there
  int32_t hiddenSlot = 0;
  std::vector<Observer> observers;
  Epilogue epilogue;
  Activations activations = Activations::kExact;  // what linears and the head multiply with
  AbortFlag abort;
};

// A program and its slots. Steps are serialised; slots keep their contents from step to step while `rows` stays in the
// same size bucket (powers of two), so a suffix of a section can run again with other weights.
class Program {
 public:
  // Validates every index, width and parameter: kFormat with the op's position otherwise.
  static Result<std::unique_ptr<Program>> create(ProgramSpec spec);
  ~Program();
  const ProgramSpec& spec() const;
  // Validates the request (weights' shapes against slot widths, rows, pages, token ids) before anything runs.
  Status step(const StepRequest& request);
  uint64_t bytes() const;  // of the slots

 private:
  Program();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tsq
