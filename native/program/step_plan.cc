#include "program/step_plan.h"

#include <algorithm>

#include "program/message.h"
#include "program/request_check.h"
#include "program/signature.h"

namespace tsq {

namespace {

const Section& sectionOf(const ProgramSpec& spec, const SectionRun& run) {
  return spec.sections[static_cast<size_t>(run.section)];
}

// Checks a request part by part; fills the plan on the way.
class RequestCheck {
 public:
  RequestCheck(const ProgramSpec& spec, const StepRequest& request, StepPlan* plan)
      : spec_(spec), request_(request), plan_(*plan) {}

  Status run() {
    if (request_.rows < 1 || request_.rows > kMaxRows) {
      return optionError("rows is ", request_.rows, ", expected 1 to ", kMaxRows);
    }
    TSQ_RETURN_IF_ERROR(runs());
    if (embeds_) {
      TSQ_RETURN_IF_ERROR(copyTokenIds("tokens", request_.tokens, request_.rows, spec_.vocabulary, &plan_.tokens));
    }
    if (positioned_ || !request_.adapters.empty()) TSQ_RETURN_IF_ERROR(checkSequences(request_, &plan_));
    TSQ_RETURN_IF_ERROR(learnedPositions());
    if (attends_) TSQ_RETURN_IF_ERROR(checkPages(request_, &plan_));
    if (request_.hidden != nullptr) TSQ_RETURN_IF_ERROR(checkSlot("hiddenSlot", request_.hiddenSlot, spec_));
    TSQ_RETURN_IF_ERROR(checkObservers(spec_, request_, &plan_));
    return checkEpilogue(spec_, request_, logits_, &plan_);
  }

 private:
  int64_t width(int32_t slot) const { return spec_.slots[static_cast<size_t>(slot)]; }

  Status runs() {
    const int64_t sections = static_cast<int64_t>(spec_.sections.size());
    for (size_t r = 0; r < request_.runs.size(); ++r) {
      const SectionRun& run = request_.runs[r];
      if (run.section < 0 || run.section >= sections) {
        return optionError("runs[", r, "].section is ", run.section, ", expected 0 to ", sections - 1);
      }
      const int64_t ops = static_cast<int64_t>(sectionOf(spec_, run).ops.size());
      if (run.opBegin < 0 || run.opEnd < run.opBegin || run.opEnd > ops) {
        return optionError("runs[", r, "] runs ops ", run.opBegin, " to ", run.opEnd, " of section ", run.section,
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
      case OpKind::kLayerNorm:
        TSQ_RETURN_IF_ERROR(vector(r, i, 0, width(op.out), "the normalized width"));
        return op.weight[1] < 0 ? Status() : vector(r, i, 1, width(op.out), "a bias for every column");
      case OpKind::kPositions:
        positioned_ = true;
        learned_ = std::min(learned_, static_cast<int64_t>(op.p[0]));
        return matrix(r, i, 0, static_cast<int64_t>(op.p[0]), width(op.out));
      case OpKind::kLogits:
        if (request_.epilogue.mode == EpilogueMode::kNone) return Status();
        if (logits_) {
          return optionError(where(r, i), ": the epilogue runs already in an earlier run, expected one logits op");
        }
        logits_ = true;
        return matrix(r, i, 0, spec_.vocabulary, width(op.in[0]));
      default:
        return Status();
    }
  }

  // Tokens beyond the rows of a table of positions.
  Status learnedPositions() const {
    for (size_t s = 0; s < request_.sequences.size(); ++s) {
      const Sequence& sequence = request_.sequences[s];
      if (learned_ < kUnlimited && sequence.context + sequence.rows > learned_) {
        return optionError("sequences[", s, "] reaches position ", sequence.context + sequence.rows - 1,
                           ", but the model has learned positions 0 to ", learned_ - 1, " only");
      }
    }
    return Status();
  }

  std::string where(size_t r, int32_t i) const { return opPosition(spec_, request_, r, i); }

  // The weight that an op uses, or why there is none.
  Result<const WeightRef*> weight(size_t r, int32_t i, int which) const {
    const SectionRun& run = request_.runs[r];
    const int64_t index = int64_t{run.weightBase} + sectionOf(spec_, run).ops[static_cast<size_t>(i)].weight[which];
    const int64_t count = static_cast<int64_t>(request_.weights.size());
    if (run.weightBase < 0 || index >= count) {
      return optionError(where(r, i), ": weight[", which, "] is weights[", index, "] (weightBase ", run.weightBase,
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
    const Status status = checkPackedWeight(**packed, n, k);
    return status.ok() ? status : named(text(where(r, i), ": weight[", which, "]"), status);
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
    return shapeError(where(r, i), ": weight[", which, "] has ", (*vector)->size(), " elements, expected ", size, " (",
                      why, ")");
  }

  Status attention(size_t r, int32_t i, const Op& op) {
    attends_ = positioned_ = true;
    const SectionRun& run = request_.runs[r];
    const AttentionParameters p = attentionParameters(op);
    if (request_.cache == nullptr) return optionError(where(r, i), ": needs a KV cache, but the step has none");
    const KvCache& cache = *request_.cache;
    if (run.layer < 0 || run.layer >= cache.layers()) {
      return optionError(where(r, i), ": layer is ", run.layer, ", expected 0 to ", cache.layers() - 1,
                         " (the cache's layers)");
    }
    if (cache.kvHeads() != p.kvHeads || cache.headDim() != p.headDim) {
      return shapeError(where(r, i), ": the KV cache has ", cache.kvHeads(), " heads of ", cache.headDim(),
                        ", expected ", p.kvHeads, " heads of ", p.headDim);
    }
    return Status();
  }

  const ProgramSpec& spec_;
  const StepRequest& request_;
  StepPlan& plan_;
  static constexpr int64_t kUnlimited = int64_t{1} << 62;
  int64_t learned_ = kUnlimited;  // positions that every table of this step has
  bool embeds_ = false, positioned_ = false, attends_ = false, logits_ = false;
};

}  // namespace

Status checkSlot(const std::string& name, int32_t slot, const ProgramSpec& spec) {
  const int64_t count = static_cast<int64_t>(spec.slots.size());
  if (slot >= 0 && slot < count) return Status();
  return optionError(name, " is slot ", slot, ", expected 0 to ", count - 1);
}

Status copyTokenIds(const char* name, const int32_t* ids, int64_t count, int64_t vocabulary,
                    std::vector<int32_t>* copy) {
  if (ids == nullptr && count > 0) return optionError(name, " is missing: expected ", count, " token ids");
  copy->assign(ids, ids + count);
  for (int64_t i = 0; i < count; ++i) {
    const int32_t id = (*copy)[static_cast<size_t>(i)];
    if (id < 0 || id >= vocabulary) {
      return optionError(name, "[", i, "] is ", id, ", expected a token id from 0 to ", vocabulary - 1);
    }
  }
  return Status();
}

Status checkPackedWeight(const PackedWeight& weight, int64_t n, int64_t k) {
  const layout::Shape& shape = weight.shape;
  if (shape.n != n || shape.k != k) {
    return shapeError(" is [", shape.n, ", ", shape.k, "], expected [", n, ", ", k, "] from the slots' widths");
  }
  if (shape.kind > layout::kLastKind || shape.groupSize < 1 || shape.groupSize > k) {
    return shapeError(" has kind ", static_cast<int>(shape.kind), " and groups of ", shape.groupSize,
                      ", expected a packed weight with groups of 1 to ", k);
  }
  const uint64_t data = static_cast<uint64_t>(layout::panels(shape) * layout::panelBytes(shape));
  const uint64_t scales = static_cast<uint64_t>(layout::panels(shape) * layout::kPanel * layout::groups(shape));
  const uint64_t scaleBytes = scales * (weight.scaleType == layout::ScaleType::kF32 ? 4 : 2);
  const bool scaled = layout::hasScales(shape.kind);
  const bool whole = weight.data.size() >= data && (!scaled || weight.scales.size() >= scaleBytes) &&
                     (!layout::hasBook(shape.kind) || weight.book.size() == layout::kBookSize) &&
                     (weight.zeros.size() == 0 || weight.zeros.size() >= scales) &&
                     (weight.order.empty() || static_cast<int64_t>(weight.order.size()) == k) &&
                     (weight.inputScale.empty() || static_cast<int64_t>(weight.inputScale.size()) == k);
  if (whole) return Status();
  return shapeError(" [", n, ", ", k, "] holds ", weight.data.size(), " bytes of data and ", weight.scales.size(),
                    " of scales, expected ", data, " and ", scaled ? scaleBytes : 0, ": pack it again");
}

std::string opPosition(const ProgramSpec& spec, const StepRequest& request, size_t run, int32_t op) {
  const SectionRun& r = request.runs[run];
  return text("runs[", run, "], section ", r.section, " op ", op, " (",
              signatureOf(sectionOf(spec, r).ops[static_cast<size_t>(op)].kind)->name, ")");
}

Status validateRequest(const ProgramSpec& spec, const StepRequest& request, StepPlan* plan) {
  return RequestCheck(spec, request, plan).run();
}

}  // namespace tsq
