#include "program/epilogue.h"

#include <algorithm>
#include <cmath>
#include <new>

#include "kernels/kernels.h"
#include "program/message.h"
#include "program/parallel.h"
#include "program/step_context.h"

namespace tsq {

namespace {

// log sum exp of x in nats; `weights` [count] receives exp(x - maximum), `total` their sum.
struct LogSum {
  double log = 0, total = 0;
  float maximum = 0;
};

LogSum logSum(const float* x, int64_t count, float* weights) {
  LogSum result;
  result.maximum = kernels().maximum(x, count);
  result.total = kernels().expSum(x, result.maximum, weights, count);
  result.log = std::log(result.total) + result.maximum;
  return result;
}

class EpilogueRun {
 public:
  EpilogueRun(const StepContext& step, const SectionRun& run, const Op& op)
      : step_(step),
        e_(step.request.epilogue),
        work_(step.work.epilogue),
        head_(step.matrix(run, op.weight[0])),
        hidden_(step.slot(op.in[0])),
        vocabulary_(head_.shape.n),
        width_(head_.shape.k),
        softcap_(static_cast<float>(op.p[0])) {}

  Status run() {
    const int64_t chunk = std::min(epilogueChunk(vocabulary_), e_.count);
    TSQ_RETURN_IF_ERROR(grow(&work_.hidden, chunk * width_));
    if (e_.mode != EpilogueMode::kLogits) TSQ_RETURN_IF_ERROR(grow(&work_.logits, chunk * vocabulary_));
    if (e_.mode == EpilogueMode::kDivergence) {
      TSQ_RETURN_IF_ERROR(grow(&work_.reference, chunk * vocabulary_));
      TSQ_RETURN_IF_ERROR(grow(&work_.weights, chunk * vocabulary_));
    }
    if (work_.sampling.size() < static_cast<size_t>(chunk)) work_.sampling.resize(static_cast<size_t>(chunk));
    work_.statuses.assign(static_cast<size_t>(chunk), Status());
    for (begin_ = 0; begin_ < e_.count; begin_ += chunk) {
      if (step_.abort().raised()) return aborted();
      TSQ_RETURN_IF_ERROR(runChunk(std::min(chunk, e_.count - begin_)));
    }
    return Status();
  }

 private:
  static Status grow(AlignedBuffer* buffer, int64_t floats) {
    if (buffer->size() >= static_cast<size_t>(floats) * sizeof(float)) return Status();
    *buffer = AlignedBuffer();
    Result<AlignedBuffer> memory = AlignedBuffer::allocate(static_cast<size_t>(floats) * sizeof(float));
    if (!memory.ok()) return memory.status();
    *buffer = std::move(memory.value());
    return Status();
  }

  // y [rows, vocabulary] = softcap(x [rows, width] head^T)
  Status logits(const PackedWeight& head, const float* x, int64_t rows, Activations activations, double cap,
                float* y) const {
    TSQ_RETURN_IF_ERROR(
        matmul({&head, x, Dtype::kF32, head.shape.k, rows, y, Dtype::kF32, vocabulary_, nullptr, activations}));
    if (cap <= 0) return Status();
    const float c = static_cast<float>(cap);
    parallelBlocks(rows * vocabulary_, kTaskElements / 8, step_.abort(), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) y[i] = c * std::tanh(y[i] / c);
    });
    return Status();
  }

  Status runChunk(int64_t rows) {
    float* x = work_.hidden.as<float>();
    for (int64_t i = 0; i < rows; ++i) {
      const float* row = hidden_ + step_.plan.epilogueRows[static_cast<size_t>(begin_ + i)] * width_;
      std::copy(row, row + width_, x + i * width_);
    }
    float* own = e_.mode == EpilogueMode::kLogits ? e_.logits + begin_ * vocabulary_ : work_.logits.as<float>();
    TSQ_RETURN_IF_ERROR(logits(head_, x, rows, step_.request.activations, softcap_, own));
    if (e_.mode == EpilogueMode::kLogits) return Status();
    if (e_.mode == EpilogueMode::kDivergence) {
      const float* reference = e_.referenceHidden + begin_ * e_.referenceWidth;
      TSQ_RETURN_IF_ERROR(logits(*e_.referenceHead, reference, rows, e_.referenceActivations, e_.referenceSoftcap,
                                 work_.reference.as<float>()));
    }
    parallelBlocks(rows, 1, step_.abort(), [this](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) reduce(i);
    });
    if (step_.abort().raised()) return aborted();
    for (int64_t i = 0; i < rows; ++i) {
      const Status& status = work_.statuses[static_cast<size_t>(i)];
      if (!status.ok()) {
        return Status(status.code(),
                      text("epilogue.rows[", begin_ + i, "] (row ",
                           step_.plan.epilogueRows[static_cast<size_t>(begin_ + i)], "): ", status.message()));
      }
    }
    return Status();
  }

  // One row of the chunk.
  void reduce(int64_t i) {
    float* own = work_.logits.as<float>() + i * vocabulary_;
    const size_t index = static_cast<size_t>(begin_ + i);
    if (e_.mode == EpilogueMode::kNll) {
      const float target = own[step_.plan.targets[index]];
      e_.values[index] = logSum(own, vocabulary_, own).log - target;
    } else if (e_.mode == EpilogueMode::kScore) {
      score(own, step_.plan.targets[index], e_.values + index * 2);
    } else if (e_.mode == EpilogueMode::kDivergence) {
      diverge(i, own, step_.plan.targets[index], e_.values + index * 4);
    } else {
      sample(i, own);
    }
  }

  // The top token is found before its row is overwritten: the first of equal ones.
  void score(float* own, int32_t target, double* values) const {
    const float logit = own[target], maximum = kernels().maximum(own, vocabulary_);
    values[1] = firstMaximum(own, vocabulary_, maximum) == target;
    values[0] = logSum(own, vocabulary_, own).log - logit;
  }

  void sample(int64_t i, float* own) {
    Status& status = work_.statuses[static_cast<size_t>(i)];
    try {
      const uint64_t position = e_.sampling.position + static_cast<uint64_t>(begin_ + i);
      const Result<int32_t> token = sampleToken(own, vocabulary_, e_.sampling, step_.plan.history, position,
                                                &work_.sampling[static_cast<size_t>(i)]);
      status = token.status();
      if (token.ok()) e_.tokens[begin_ + i] = token.value();
    } catch (const std::bad_alloc&) {  // a task may not throw
      status = Status(Code::kMemory, "no memory");
    }
  }

  // KL(reference || own) = sum p_ref ((ref - log Z_ref) - (own - log Z_own)), in double over the full vocabulary.
  void diverge(int64_t i, const float* own, int32_t target, double* values) const {
    const float* reference = work_.reference.as<float>() + i * vocabulary_;
    float* weights = work_.weights.as<float>() + i * vocabulary_;
    const LogSum ownSum = logSum(own, vocabulary_, weights);
    const LogSum referenceSum = logSum(reference, vocabulary_, weights);
    double sum = 0;
    for (int64_t j = 0; j < vocabulary_; ++j) {
      if (weights[j] == 0) continue;  // also keeps -inf - -inf out
      sum += weights[j] * (static_cast<double>(reference[j]) - static_cast<double>(own[j]));
    }
    const double divergence = sum / referenceSum.total - referenceSum.log + ownSum.log;
    values[0] = divergence < 0 ? 0 : divergence;  // rounding; NaN stays
    values[1] = ownSum.log - own[target];
    values[2] = referenceSum.log - reference[target];
    values[3] =
        firstMaximum(own, vocabulary_, ownSum.maximum) == firstMaximum(reference, vocabulary_, referenceSum.maximum);
  }

  const StepContext& step_;
  const Epilogue& e_;
  EpilogueWorkspace& work_;
  const PackedWeight& head_;
  const float* hidden_;
  const int64_t vocabulary_, width_;
  const float softcap_;
  int64_t begin_ = 0;  // of the chunk
};

}  // namespace

int64_t epilogueChunk(int64_t vocabulary) {
  constexpr int64_t kRows = 64, kFloats = int64_t{32} * 1024 * 1024 / 4;
  return std::clamp<int64_t>(kFloats / std::max<int64_t>(1, vocabulary), 1, kRows);
}

Status runEpilogue(const StepContext& step, const SectionRun& run, const Op& op) {
  if (step.request.epilogue.mode == EpilogueMode::kNone || step.request.epilogue.count == 0) return Status();
  return EpilogueRun(step, run, op).run();
}

}  // namespace tsq
