#include "program/signature.h"

#include <cmath>

#include "program/message.h"

namespace tsq {

namespace {

constexpr Signature kSignatures[] = {
    {"embed", 0, true, 1, 0, 1, {"scale"}},
    {"rmsnorm", 1, true, 1, 0, 3, {"eps", "segments", "offset"}},
    {"linear", 1, true, 1, 1, 0, {}},
    {"rope", 1, true, 1, 0, 4, {"heads", "headDim", "rotaryDim", "attentionFactor"}},
    {"attention", 3, true, 0, 0, 6, {"heads", "kvHeads", "headDim", "scale", "window", "softcap"}},
    {"gated", 2, true, 0, 0, 1, {"activation"}},
    {"add", 2, true, 0, 0, 0, {}},
    {"logits", 1, false, 1, 0, 1, {"softcap"}},
    {"layernorm", 1, true, 1, 1, 1, {"eps"}},
    {"columns", 1, true, 0, 0, 4, {"begin", "pieces", "length", "stride"}},
    {"positions", 0, true, 1, 0, 1, {"positions"}},
    {"activate", 1, true, 0, 0, 1, {"activation"}},
};

constexpr int64_t kMaxWidth = int64_t{1} << 30;

// Checks one op of a section.
class OpCheck {
 public:
  OpCheck(const ProgramSpec& spec, size_t section, size_t index)
      : spec_(spec), section_(section), index_(index), op_(spec.sections[section].ops[index]) {}

  Status run() {
    signature_ = signatureOf(op_.kind);
    if (signature_ == nullptr) {
      return Status(Code::kFormat, text("section ", section_, " op ", index_, ": kind ", static_cast<int32_t>(op_.kind),
                                        " is unknown, expected 0 to ", std::size(kSignatures) - 1));
    }
    TSQ_RETURN_IF_ERROR(indices());
    for (int i = 0; i < signature_->parameters; ++i) {
      if (!std::isfinite(op_.p[i])) return fail(parameter(i), " is ", op_.p[i], ", expected a finite number");
    }
    switch (op_.kind) {
      case OpKind::kEmbed:
        return Status();
      case OpKind::kRmsNorm:
        return rmsNorm();
      case OpKind::kLinear:
        if (op_.in[0] == op_.out) return fail("reads and writes slot ", op_.out, ": give it another output slot");
        return Status();
      case OpKind::kRope:
        return rope();
      case OpKind::kAttention:
        return attention();
      case OpKind::kGated:
      case OpKind::kActivate:
        TSQ_RETURN_IF_ERROR(integer(0, 0, 2));
        return equalWidths();
      case OpKind::kAdd:
        return equalWidths();
      case OpKind::kLogits:
        if (index_ + 1 != spec_.sections[section_].ops.size()) return fail("must be the last op of its section");
        return notNegative(0);
      case OpKind::kLayerNorm:
        TSQ_RETURN_IF_ERROR(equalWidths());
        return notNegative(0);
      case OpKind::kColumns:
        return columns();
      case OpKind::kPositions:
        return integer(0, 1, kMaxWidth);
    }
    return Status();
  }

 private:
  template <typename... Parts>
  Status fail(const Parts&... parts) const {
    return Status(Code::kFormat, text("section ", section_, " op ", index_, " (", signature_->name, "): ", parts...));
  }

  std::string parameter(int i) const { return text("p[", i, "] (", signature_->parameterNames[i], ")"); }

  int64_t width(int32_t slot) const { return spec_.slots[static_cast<size_t>(slot)]; }

  Status slot(const char* name, int32_t slot, bool used) const {
    const int32_t count = static_cast<int32_t>(spec_.slots.size());
    if (!used && slot != -1) return fail(name, " is slot ", slot, " but is not used: expected -1");
    if (used && (slot < 0 || slot >= count)) return fail(name, " is slot ", slot, ", expected 0 to ", count - 1);
    return Status();
  }

  Status indices() const {
    for (int i = 0; i < 3; ++i)
      TSQ_RETURN_IF_ERROR(slot(text("in[", i, "]").c_str(), op_.in[i], i < signature_->inputs));
    TSQ_RETURN_IF_ERROR(slot("out", op_.out, signature_->output));
    const int32_t count = spec_.sections[section_].weights;
    for (int i = 0; i < 2; ++i) {
      const int32_t weight = op_.weight[i];
      const bool optional = i >= signature_->weights;
      if (i >= signature_->weights + signature_->optionalWeights && weight != -1) {
        return fail("weight[", i, "] is ", weight, " but is not used: expected -1");
      }
      if (optional && weight == -1) continue;
      if (weight < 0 || weight >= count) {
        return fail("weight[", i, "] is ", weight, ", expected ", optional ? "-1 or " : "",
                    "an index below the section's ", count, " weights");
      }
    }
    return Status();
  }

  Status integer(int i, int64_t low, int64_t high) const {
    const double value = op_.p[i];
    if (value != std::floor(value) || value < static_cast<double>(low) || value > static_cast<double>(high)) {
      return fail(parameter(i), " is ", value, ", expected an integer from ", low, " to ", high);
    }
    return Status();
  }

  Status notNegative(int i) const {
    return op_.p[i] < 0 ? fail(parameter(i), " is ", op_.p[i], ", expected 0 or more") : Status();
  }

  Status positive(int i) const {
    return op_.p[i] <= 0 ? fail(parameter(i), " is ", op_.p[i], ", expected more than 0") : Status();
  }

  Status hasWidth(const char* name, int32_t slot, int64_t expected, const char* why) const {
    if (width(slot) == expected) return Status();
    return fail(name, " (slot ", slot, ") is ", width(slot), " wide, expected ", expected, " (", why, ")");
  }

  Status equalWidths() const {
    const int64_t expected = width(op_.out);
    for (int i = 0; i < signature_->inputs; ++i) {
      TSQ_RETURN_IF_ERROR(hasWidth(text("in[", i, "]").c_str(), op_.in[i], expected, "the width of its output slot"));
    }
    return Status();
  }

  Status rmsNorm() const {
    TSQ_RETURN_IF_ERROR(equalWidths());
    TSQ_RETURN_IF_ERROR(notNegative(0));
    TSQ_RETURN_IF_ERROR(integer(1, 1, width(op_.out)));
    if (width(op_.out) % static_cast<int64_t>(op_.p[1]) != 0) {
      return fail(parameter(1), " is ", op_.p[1], ", which does not divide the width ", width(op_.out));
    }
    return Status();
  }

  Status rope() const {
    TSQ_RETURN_IF_ERROR(equalWidths());
    TSQ_RETURN_IF_ERROR(integer(0, 1, kMaxWidth));
    TSQ_RETURN_IF_ERROR(integer(1, 1, kMaxWidth));
    const int64_t headDim = static_cast<int64_t>(op_.p[1]);
    TSQ_RETURN_IF_ERROR(hasWidth("in[0]", op_.in[0], static_cast<int64_t>(op_.p[0]) * headDim, "heads x headDim"));
    TSQ_RETURN_IF_ERROR(integer(2, 2, headDim));
    if (static_cast<int64_t>(op_.p[2]) % 2 != 0) {
      return fail(parameter(2), " is ", op_.p[2], ", expected an even number");
    }
    return positive(3);
  }

  Status columns() const {
    TSQ_RETURN_IF_ERROR(integer(0, 0, kMaxWidth));
    for (int i = 1; i < 4; ++i) TSQ_RETURN_IF_ERROR(integer(i, 1, kMaxWidth));
    const ColumnsParameters p = columnsParameters(op_);
    if (p.stride < p.length) return fail(parameter(3), " is ", p.stride, ", expected at least the length ", p.length);
    const int64_t end = p.begin + (p.pieces - 1) * p.stride + p.length;
    if (end > width(op_.in[0])) {
      return fail("the last piece ends at column ", end, ", but in[0] (slot ", op_.in[0], ") is ", width(op_.in[0]),
                  " wide");
    }
    if (op_.out == op_.in[0]) return fail("reads and writes slot ", op_.out, ": give it another output slot");
    return hasWidth("out", op_.out, p.pieces * p.length, "pieces x length");
  }

  Status attention() const {
    for (int i = 0; i < 3; ++i) TSQ_RETURN_IF_ERROR(integer(i, 1, kMaxWidth));
    TSQ_RETURN_IF_ERROR(positive(3));
    TSQ_RETURN_IF_ERROR(integer(4, 0, int64_t{1} << 40));
    TSQ_RETURN_IF_ERROR(notNegative(5));
    const AttentionParameters p = attentionParameters(op_);
    if (p.heads % p.kvHeads != 0) return fail("heads is ", p.heads, ", expected a multiple of kvHeads ", p.kvHeads);
    TSQ_RETURN_IF_ERROR(hasWidth("in[0]", op_.in[0], p.heads * p.headDim, "heads x headDim"));
    TSQ_RETURN_IF_ERROR(hasWidth("in[1]", op_.in[1], p.kvHeads * p.headDim, "kvHeads x headDim"));
    TSQ_RETURN_IF_ERROR(hasWidth("in[2]", op_.in[2], p.kvHeads * p.headDim, "kvHeads x headDim"));
    TSQ_RETURN_IF_ERROR(hasWidth("out", op_.out, p.heads * p.headDim, "heads x headDim"));
    if (op_.out == op_.in[0]) return fail("reads and writes slot ", op_.out, ": give it another output slot");
    return Status();
  }

  const ProgramSpec& spec_;
  size_t section_, index_;
  const Op& op_;
  const Signature* signature_ = nullptr;
};

}  // namespace

const Signature* signatureOf(OpKind kind) {
  const int32_t index = static_cast<int32_t>(kind);
  return index >= 0 && index < static_cast<int32_t>(std::size(kSignatures)) ? &kSignatures[index] : nullptr;
}

AttentionParameters attentionParameters(const Op& op) {
  return {static_cast<int64_t>(op.p[0]), static_cast<int64_t>(op.p[1]), static_cast<int64_t>(op.p[2]),
          static_cast<int64_t>(op.p[4]), static_cast<float>(op.p[3]),   static_cast<float>(op.p[5])};
}

ColumnsParameters columnsParameters(const Op& op) {
  return {static_cast<int64_t>(op.p[0]), static_cast<int64_t>(op.p[1]), static_cast<int64_t>(op.p[2]),
          static_cast<int64_t>(op.p[3])};
}

Status validateSpec(const ProgramSpec& spec) {
  constexpr size_t kMaxSlots = 1 << 16;
  if (spec.slots.empty() || spec.slots.size() > kMaxSlots) {
    return Status(Code::kFormat, text("the program has ", spec.slots.size(), " slots, expected 1 to ", kMaxSlots));
  }
  for (size_t i = 0; i < spec.slots.size(); ++i) {
    if (spec.slots[i] < 1 || spec.slots[i] > kMaxWidth) {
      return Status(Code::kFormat, text("slot ", i, " is ", spec.slots[i], " wide, expected 1 to ", kMaxWidth));
    }
  }
  if (spec.vocabulary < 1 || spec.vocabulary > kMaxWidth) {
    return Status(Code::kFormat, text("vocabulary is ", spec.vocabulary, ", expected 1 to ", kMaxWidth));
  }
  for (size_t s = 0; s < spec.sections.size(); ++s) {
    const Section& section = spec.sections[s];
    if (section.weights < 0) {
      return Status(Code::kFormat, text("section ", s, " binds ", section.weights, " weights, expected 0 or more"));
    }
    for (size_t i = 0; i < section.ops.size(); ++i) TSQ_RETURN_IF_ERROR(OpCheck(spec, s, i).run());
  }
  return Status();
}

}  // namespace tsq
