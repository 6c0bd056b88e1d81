#include "program/step_plan.h"

#include <algorithm>
#include <cmath>

#include "program/message.h"
#include "program/observers.h"
#include "program/signature.h"

namespace tsq {

namespace {

constexpr int64_t kMaxRows = int64_t{1} << 30;
constexpr int64_t kMaxContext = int64_t{1} << 31;

const Section& sectionOf(const ProgramSpec& spec, const SectionRun& run) {
  return spec.sections[static_cast<size_t>(run.section)];
}

// Checks a request part by part; fills the plan on the way.
class RequestCheck {
 public:
  RequestCheck(const ProgramSpec& spec, const StepRequest& request, StepPlan* plan)
      : spec_(spec), request_(request), plan_(*plan) {}

  Status run() {
    if (request_.rows < 1 || request_.rows > kMaxRows)
      return fail("rows is ", request_.rows, ", expected 1 to ", kMaxRows);
    TSQ_RETURN_IF_ERROR(runs());
    TSQ_RETURN_IF_ERROR(tokens());
    TSQ_RETURN_IF_ERROR(sequences());
    TSQ_RETURN_IF_ERROR(pages());
    if (request_.hidden != nullptr) TSQ_RETURN_IF_ERROR(slot("hiddenSlot", request_.hiddenSlot));
    TSQ_RETURN_IF_ERROR(observers());
    return epilogue();
  }

 private:
  template <typename... Parts>
  static Status fail(const Parts&... parts) {
    return Status(Code::kOption, text(parts...));
  }
  template <typename... Parts>
  static Status failShape(const Parts&... parts) {
    return Status(Code::kShape, text(parts...));
  }

  int64_t width(int32_t slot) const { return spec_.slots[static_cast<size_t>(slot)]; }

  template <typename Name>
  Status slot(const Name& name, int32_t slot) const {
    const int64_t count = static_cast<int64_t>(spec_.slots.size());
    if (slot < 0 || slot >= count) return fail(name, " is slot ", slot, ", expected 0 to ", count - 1);
    return Status();
  }

  Status runs() {
    const int64_t sections = static_cast<int64_t>(spec_.sections.size());
    for (size_t r = 0; r < request_.runs.size(); ++r) {
      const SectionRun& run = request_.runs[r];
      if (run.section < 0 || run.section >= sections) {
        return fail("runs[", r, "].section is ", run.section, ", expected 0 to ", sections - 1);
      }
      const int64_t ops = static_cast<int64_t>(sectionOf(spec_, run).ops.size());
      if (run.opBegin < 0 || run.opEnd < run.opBegin || run.opEnd > ops) {
        return fail("runs[", r, "] runs ops ", run.opBegin, " to ", run.opEnd, " of section ", run.section,
                    ", expected a range within 0 to ", ops);
      }
      for (int32_t i = run.opBegin; i < run.opEnd; ++i) TSQ_RETURN_IF_ERROR(op(r, i));
    }
    return Status();
  }

  Status op(size_t r, int32_t i) {
    const SectionRun& run = request_.runs[r];
    const Op& op = sectionOf(spec_, run).ops[static_cast<size_t>(i)];
    switch (op.kind) {
      case OpKind::kEmbed:
        embeds_ = true;
        return matrix(r, i, 0, spec_.vocabulary, width(op.out));
      case OpKind::kRmsNorm:
        return vector(r, i, 0, width(op.out) / static_cast<int64_t>(op.p[1]), "the normalized width");
      case OpKind::kLinear:
        TSQ_RETURN_IF_ERROR(matrix(r, i, 0, width(op.out), width(op.in[0])));
        return op.weight[1] < 0 ? Status() : vector(r, i, 1, width(op.out), "a bias for every output");
      case OpKind::kRope:
        positioned_ = true;
        return vector(r, i, 0, static_cast<int64_t>(op.p[2]) / 2, "an inverse frequency for every rotated pair");
      case OpKind::kAttention:
        return attention(r, i, op);
      case OpKind::kLogits:
        if (request_.epilogue.mode == EpilogueMode::kNone) return Status();
        if (logits_) return fail(where(r, i), ": the epilogue runs already in an earlier run, expected one logits op");
        logits_ = true;
        return matrix(r, i, 0, spec_.vocabulary, width(op.in[0]));
      default:
        return Status();
    }
  }

  std::string where(size_t r, int32_t i) const { return opPosition(spec_, request_, r, i); }

  // The weight that an op uses, or why there is none.
  Result<const WeightRef*> weight(size_t r, int32_t i, int which) const {
    const SectionRun& run = request_.runs[r];
    const int64_t index = int64_t{run.weightBase} + sectionOf(spec_, run).ops[static_cast<size_t>(i)].weight[which];
    const int64_t count = static_cast<int64_t>(request_.weights.size());
    if (run.weightBase < 0 || index >= count) {
      return fail(where(r, i), ": weight[", which, "] is weights[", index, "] (weightBase ", run.weightBase,
                  "), but the step binds ", count, " weights");
    }
    return &request_.weights[static_cast<size_t>(index)];
  }

  Status matrix(size_t r, int32_t i, int which, int64_t n, int64_t k) const {
    const Result<const WeightRef*> found = weight(r, i, which);
    if (!found.ok()) return found.status();
    const auto* packed = std::get_if<std::shared_ptr<const PackedWeight>>(found.value());
    if (packed == nullptr || *packed == nullptr) {
      return Status(Code::kDtype, text(where(r, i), ": weight[", which, "] is ",
                                       found.value()->index() == 2 ? "a vector" : "not bound",
                                       ", expected a packed weight [", n, ", ", k, "]"));
    }
    return packedWeight(where(r, i) + ": weight[" + std::to_string(which) + "]", **packed, n, k);
  }

  Status vector(size_t r, int32_t i, int which, int64_t size, const char* why) const {
    const Result<const WeightRef*> found = weight(r, i, which);
    if (!found.ok()) return found.status();
    const auto* vector = std::get_if<std::shared_ptr<const Vector>>(found.value());
    if (vector == nullptr || *vector == nullptr) {
      return Status(Code::kDtype, text(where(r, i), ": weight[", which, "] is ",
                                       found.value()->index() == 1 ? "a packed weight" : "not bound",
                                       ", expected a vector of ", size, " (", why, ")"));
    }
    if (static_cast<int64_t>((*vector)->size()) == size) return Status();
    return failShape(where(r, i), ": weight[", which, "] has ", (*vector)->size(), " elements, expected ", size, " (",
                     why, ")");
  }

  // Shape, and that the buffers are as large as the shape says: kernels read them unchecked.
  static Status packedWeight(const std::string& name, const PackedWeight& weight, int64_t n, int64_t k) {
    const layout::Shape& shape = weight.shape;
    if (shape.n != n || shape.k != k) {
      return failShape(name, " is [", shape.n, ", ", shape.k, "], expected [", n, ", ", k, "] from the slots' widths");
    }
    if (shape.kind > layout::WeightKind::kU8 || shape.groupSize < 1 || shape.groupSize > k) {
      return failShape(name, " has kind ", static_cast<int>(shape.kind), " and groups of ", shape.groupSize,
                       ", expected a packed weight with groups of 1 to ", k);
    }
    const uint64_t data = static_cast<uint64_t>(layout::panels(shape) * layout::panelBytes(shape));
    const uint64_t scales = static_cast<uint64_t>(layout::panels(shape) * layout::kPanel * layout::groups(shape)) * 4;
    const bool integer = layout::isInteger(shape.kind);
    const bool whole = weight.data.size() >= data && (!integer || weight.scales.size() >= scales) &&
                       (weight.zeros.size() == 0 || weight.zeros.size() >= scales) &&
                       (weight.order.empty() || static_cast<int64_t>(weight.order.size()) == k) &&
                       (weight.inputScale.empty() || static_cast<int64_t>(weight.inputScale.size()) == k);
    if (whole) return Status();
    return failShape(name, " [", n, ", ", k, "] holds ", weight.data.size(), " bytes of data and ",
                     weight.scales.size(), " of scales, expected ", data, " and ", integer ? scales : 0,
                     ": pack it again");
  }

  Status attention(size_t r, int32_t i, const Op& op) {
    attends_ = positioned_ = true;
    const SectionRun& run = request_.runs[r];
    const AttentionParameters p = attentionParameters(op);
    if (request_.cache == nullptr) return fail(where(r, i), ": needs a KV cache, but the step has none");
    const KvCache& cache = *request_.cache;
    if (run.layer < 0 || run.layer >= cache.layers()) {
      return fail(where(r, i), ": layer is ", run.layer, ", expected 0 to ", cache.layers() - 1,
                  " (the cache's layers)");
    }
    if (cache.kvHeads() != p.kvHeads || cache.headDim() != p.headDim) {
      return failShape(where(r, i), ": the KV cache has ", cache.kvHeads(), " heads of ", cache.headDim(),
                       ", expected ", p.kvHeads, " heads of ", p.headDim);
    }
    return Status();
  }

  Status tokenIds(const char* name, const int32_t* ids, int64_t count, std::vector<int32_t>* copy) const {
    if (ids == nullptr && count > 0) return fail(name, " is missing: expected ", count, " token ids");
    copy->assign(ids, ids + count);
    for (int64_t i = 0; i < count; ++i) {
      const int32_t id = (*copy)[static_cast<size_t>(i)];
      if (id < 0 || id >= spec_.vocabulary) {
        return fail(name, "[", i, "] is ", id, ", expected a token id from 0 to ", spec_.vocabulary - 1);
      }
    }
    return Status();
  }

  Status tokens() {
    if (!embeds_) return Status();
    return tokenIds("tokens", request_.tokens, request_.rows, &plan_.tokens);
  }

  Status sequences() {
    plan_.positions.clear();
    if (!positioned_) return Status();
    int64_t next = 0;
    for (size_t s = 0; s < request_.sequences.size(); ++s) {
      const Sequence& sequence = request_.sequences[s];
      if (sequence.rowBegin != next) {
        return fail("sequences[", s, "].rowBegin is ", sequence.rowBegin, ", expected ", next,
                    ": sequences follow each other without gaps");
      }
      if (sequence.rows < 1 || sequence.rows > request_.rows - next) {
        return fail("sequences[", s, "].rows is ", sequence.rows, ", expected 1 to ", request_.rows - next);
      }
      if (sequence.context < 0 || sequence.context > kMaxContext - sequence.rows) {
        return fail("sequences[", s, "].context is ", sequence.context, ", expected 0 to ",
                    kMaxContext - sequence.rows);
      }
      for (int64_t i = 0; i < sequence.rows; ++i) plan_.positions.push_back(sequence.context + i);
      next += sequence.rows;
    }
    if (next == request_.rows) return Status();
    return fail("the sequences cover ", next, " rows, expected all ", request_.rows,
                " (rope and attention need positions)");
  }

  int32_t page(const Sequence& sequence, int64_t index) const {
    return request_.pageTable[static_cast<size_t>(sequence.pageBegin + index)];
  }

  Status pages() {
    if (!attends_) return Status();
    const int64_t table = static_cast<int64_t>(request_.pageTable.size());
    const int64_t pages = request_.cache->pages();
    plan_.writtenPages.assign(static_cast<size_t>(pages), 0);
    for (size_t s = 0; s < request_.sequences.size(); ++s) {
      const Sequence& q = request_.sequences[s];
      if (q.pageBegin < 0 || q.pages < 0 || q.pageBegin > table || q.pages > table - q.pageBegin) {
        return fail("sequences[", s, "] has pages ", q.pageBegin, " to ", q.pageBegin, " + ", q.pages,
                    ", but the page table has ", table);
      }
      if (q.pages < layout::divideUp(q.context + q.rows, KvCache::kPage)) {
        return fail("sequences[", s, "] has ", q.pages, " pages of ", KvCache::kPage, " positions, expected ",
                    layout::divideUp(q.context + q.rows, KvCache::kPage), " for ", q.context, " + ", q.rows, " tokens");
      }
      for (int64_t i = 0; i < q.pages; ++i) {
        if (page(q, i) < 0 || page(q, i) >= pages) {
          return fail("pageTable[", q.pageBegin + i, "] (sequences[", s, "]) is ", page(q, i), ", expected 0 to ",
                      pages - 1, " (the cache's pages)");
        }
      }
      for (int64_t i = q.context / KvCache::kPage; i * KvCache::kPage < q.context + q.rows; ++i) {
        uint8_t& written = plan_.writtenPages[static_cast<size_t>(page(q, i))];
        if (written != 0) return sharedPage(s, i);
        written = 1;
      }
    }
    // Full pages of earlier positions may be shared by sequences with a common beginning, but nobody may write to them.
    for (size_t s = 0; s < request_.sequences.size(); ++s) {
      const Sequence& q = request_.sequences[s];
      for (int64_t i = 0; i < q.context / KvCache::kPage; ++i) {
        if (plan_.writtenPages[static_cast<size_t>(page(q, i))] != 0) return sharedPage(s, i);
      }
    }
    return Status();
  }

  Status sharedPage(size_t s, int64_t index) const {
    const Sequence& q = request_.sequences[s];
    return fail("pageTable[", q.pageBegin + index, "] (sequences[", s, "]): page ", page(q, index),
                " is used elsewhere in the step while new tokens are written to it; copy it first");
  }

  Status observers() {
    const int64_t runs = static_cast<int64_t>(request_.runs.size());
    plan_.observers.clear();
    for (size_t i = 0; i < request_.observers.size(); ++i) {
      const Observer& observer = request_.observers[i];
      if (observer.run < 0 || observer.run >= runs) {
        return fail("observers[", i, "].run is ", observer.run, ", expected 0 to ", runs - 1);
      }
      const SectionRun& run = request_.runs[static_cast<size_t>(observer.run)];
      if (observer.op < run.opBegin - 1 || observer.op >= std::max(run.opEnd, run.opBegin)) {
        return fail("observers[", i, "].op is ", observer.op, ", expected ", run.opBegin - 1, " to ",
                    std::max(run.opEnd, run.opBegin) - 1, " (the ops of runs[", observer.run, "])");
      }
      TSQ_RETURN_IF_ERROR(slot(text("observers[", i, "].slot"), observer.slot));
      TSQ_RETURN_IF_ERROR(accumulator(i, observer));
      plan_.observers.push_back(static_cast<int32_t>(i));
    }
    std::stable_sort(plan_.observers.begin(), plan_.observers.end(), [this](int32_t a, int32_t b) {
      const Observer& x = request_.observers[static_cast<size_t>(a)];
      const Observer& y = request_.observers[static_cast<size_t>(b)];
      return x.run != y.run ? x.run < y.run : x.op < y.op;
    });
    return Status();
  }

  Status accumulator(size_t i, const Observer& observer) const {
    const int64_t width = this->width(observer.slot);
    if (observer.reduction == Reduction::kCopy) {
      return observer.copy != nullptr ? Status() : fail("observers[", i, "].copy is missing: expected room for a copy");
    }
    if (observer.reduction < Reduction::kHessian || observer.reduction > Reduction::kReservoir) {
      return fail("observers[", i, "].reduction is ", static_cast<int32_t>(observer.reduction), ", expected 0 to ",
                  static_cast<int32_t>(Reduction::kReservoir));
    }
    if (observer.reduction == Reduction::kSquaredError && observer.reference == nullptr) {
      return fail("observers[", i, "].reference is missing: the squared error needs values to compare with");
    }
    const Accumulator* a = observer.accumulator.get();
    if (a == nullptr) return fail("observers[", i, "].accumulator is missing");
    if (a->kind != observer.reduction) {
      return fail("observers[", i, "].reduction is ", static_cast<int32_t>(observer.reduction),
                  ", but its accumulator is of kind ", static_cast<int32_t>(a->kind));
    }
    if (a->width != width) {
      return failShape("observers[", i, "]: the accumulator is ", a->width, " wide, slot ", observer.slot, " is ",
                       width);
    }
    const Status parts = checkAccumulator(*a);
    return parts.ok() ? parts : Status(parts.code(), text("observers[", i, "]: ", parts.message()));
  }

  Status epilogue() {
    const Epilogue& e = request_.epilogue;
    plan_.epilogueRows.clear();
    if (e.mode == EpilogueMode::kNone) return Status();
    if (e.mode < EpilogueMode::kNone || e.mode > EpilogueMode::kDivergence) {
      return fail("epilogue.mode is ", static_cast<int32_t>(e.mode), ", expected 0 to ",
                  static_cast<int32_t>(EpilogueMode::kDivergence));
    }
    if (!logits_) return fail("the epilogue asks for a result, but no run contains a logits op");
    if (e.count < 0 || e.count > kMaxRows) return fail("epilogue.count is ", e.count, ", expected 0 to ", kMaxRows);
    if (e.count == 0) return Status();
    if (e.rows == nullptr) return fail("epilogue.rows is missing: expected ", e.count, " row indices");
    plan_.epilogueRows.assign(e.rows, e.rows + e.count);
    for (int64_t i = 0; i < e.count; ++i) {
      const int32_t row = plan_.epilogueRows[static_cast<size_t>(i)];
      if (row < 0 || row >= request_.rows) {
        return fail("epilogue.rows[", i, "] is ", row, ", expected 0 to ", request_.rows - 1);
      }
    }
    switch (e.mode) {
      case EpilogueMode::kLogits:
        return present("epilogue.logits", e.logits);
      case EpilogueMode::kSample:
        TSQ_RETURN_IF_ERROR(present("epilogue.tokens", e.tokens));
        return sampling();
      default:
        break;
    }
    TSQ_RETURN_IF_ERROR(present("epilogue.values", e.values));
    TSQ_RETURN_IF_ERROR(tokenIds("epilogue.targets", e.targets, e.count, &plan_.targets));
    return e.mode == EpilogueMode::kDivergence ? reference() : Status();
  }

  static Status present(const char* name, const void* pointer) {
    return pointer != nullptr ? Status() : fail(name, " is missing: expected room for the result");
  }

  Status reference() const {
    const Epilogue& e = request_.epilogue;
    if (e.referenceHidden == nullptr) return fail("epilogue.referenceHidden is missing");
    if (e.referenceHead == nullptr) return fail("epilogue.referenceHead is missing");
    if (e.referenceWidth < 1) return fail("epilogue.referenceWidth is ", e.referenceWidth, ", expected 1 or more");
    if (!std::isfinite(e.referenceSoftcap) || e.referenceSoftcap < 0) {
      return fail("epilogue.referenceSoftcap is ", e.referenceSoftcap, ", expected 0 or more");
    }
    return packedWeight("epilogue.referenceHead", *e.referenceHead, spec_.vocabulary, e.referenceWidth);
  }

  Status sampling() {
    const Sampling& s = request_.epilogue.sampling;
    if (!std::isfinite(s.temperature) || s.temperature < 0) {
      return fail("sampling.temperature is ", s.temperature, ", expected 0 (greedy) or more");
    }
    if (s.topK < 0) return fail("sampling.topK is ", s.topK, ", expected 0 (off) or more");
    if (!(s.topP > 0 && s.topP <= 1))
      return fail("sampling.topP is ", s.topP, ", expected more than 0, at most 1 (off)");
    if (!(s.minP >= 0 && s.minP <= 1)) return fail("sampling.minP is ", s.minP, ", expected 0 (off) to 1");
    if (!std::isfinite(s.repetitionPenalty) || s.repetitionPenalty <= 0) {
      return fail("sampling.repetitionPenalty is ", s.repetitionPenalty, ", expected more than 0 (1: off)");
    }
    if (s.historyCount < 0) return fail("sampling.historyCount is ", s.historyCount, ", expected 0 or more");
    plan_.history.clear();
    if (s.repetitionPenalty == 1) return Status();
    return tokenIds("sampling.history", s.history, s.historyCount, &plan_.history);
  }

  const ProgramSpec& spec_;
  const StepRequest& request_;
  StepPlan& plan_;
  bool embeds_ = false, positioned_ = false, attends_ = false, logits_ = false;
};

}  // namespace

std::string opPosition(const ProgramSpec& spec, const StepRequest& request, size_t run, int32_t op) {
  const SectionRun& r = request.runs[run];
  return text("runs[", run, "], section ", r.section, " op ", op, " (",
              signatureOf(sectionOf(spec, r).ops[static_cast<size_t>(op)].kind)->name, ")");
}

Status validateRequest(const ProgramSpec& spec, const StepRequest& request, StepPlan* plan) {
  return RequestCheck(spec, request, plan).run();
}

}  // namespace tsq
