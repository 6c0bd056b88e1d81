#include "program/program.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <new>
#include <stdexcept>

#include "program/observers.h"
#include "program/ops.h"
#include "program/signature.h"

namespace tsq {

struct Program::Impl {
  explicit Impl(ProgramSpec description) : spec(std::move(description)), slots(spec.slots) {}

  Status step(const StepRequest& request);
  Status observe(const StepContext& context, const Observer& observer);

  const ProgramSpec spec;
  std::mutex mutex;  // one step at a time
  SlotArena slots;
  StepPlan plan;
  Workspace work;
};

Status Program::Impl::observe(const StepContext& context, const Observer& observer) {
  const StepRequest& request = context.request;
  if (observer.routes >= 0) return observeExpert(context, observer);
  const float* x = slots.slot(observer.slot);
  const int64_t floats = request.rows * slots.width(observer.slot);
  if (observer.reduction == Reduction::kCopy) {
    std::memcpy(observer.copy, x, static_cast<size_t>(floats) * sizeof(float));
    return Status();
  }
  if (observer.inputs >= 0)
    return accumulate(observer.accumulator.get(), slots.slot(observer.inputs), request.rows, observer.reference, x);
  return accumulate(observer.accumulator.get(), x, request.rows, observer.reference);
}

Status Program::Impl::step(const StepRequest& request) {
  TSQ_RETURN_IF_ERROR(validateRequest(spec, request, &plan));
  if (request.abort.raised()) return aborted();
  TSQ_RETURN_IF_ERROR(slots.prepare(request.rows));
  work.ropes.beginStep();
  work.experts.forget();
  if (request.hidden != nullptr) {
    const int64_t floats = request.rows * slots.width(request.hiddenSlot);
    std::memcpy(slots.slot(request.hiddenSlot), request.hidden, static_cast<size_t>(floats) * sizeof(float));
  }
  const StepContext context{request, plan, slots, work};
  auto next = plan.observers.begin();
  for (size_t r = 0; r < request.runs.size(); ++r) {
    const SectionRun& run = request.runs[r];
    const Section& section = spec.sections[static_cast<size_t>(run.section)];
    for (int32_t op = run.opBegin - 1; op < run.opEnd; ++op) {
      if (request.abort.raised()) return aborted();
      if (op >= run.opBegin) {
        // An observer sees the slots as they are right after its op.
        const bool observed = next != plan.observers.end() &&
                              request.observers[static_cast<size_t>(*next)].run == static_cast<int32_t>(r);
        const int32_t end =
            observed ? std::min(run.opEnd, request.observers[static_cast<size_t>(*next)].op + 1) : run.opEnd;
        const Op* ops = section.ops.data() + op;
        const int32_t count = opsTogether(ops, end - op);
        TSQ_RETURN_IF_ERROR(runOps(context, run, ops, count));
        op += count - 1;
      }
      for (; next != plan.observers.end(); ++next) {
        const Observer& observer = request.observers[static_cast<size_t>(*next)];
        if (observer.run != static_cast<int32_t>(r) || observer.op != op) break;
        TSQ_RETURN_IF_ERROR(observe(context, observer));
        if (request.abort.raised()) return aborted();
      }
    }
  }
  return Status();
}

Program::Program() = default;
Program::~Program() = default;

Result<std::unique_ptr<Program>> Program::create(ProgramSpec spec) {
  TSQ_RETURN_IF_ERROR(validateSpec(spec));
  std::unique_ptr<Program> program(new Program);
  program->impl_ = std::make_unique<Impl>(std::move(spec));
  return program;
}

const ProgramSpec& Program::spec() const {
  return impl_->spec;
}

uint64_t Program::bytes() const {
  return impl_->slots.bytes();
}

Status Program::step(const StepRequest& request) {
  const std::lock_guard<std::mutex> lock(impl_->mutex);
  const auto noMemory = [] {
    return Status(Code::kMemory, "no memory for the tables of a step; run fewer rows in a step");
  };
  // The standard containers report failed allocations by throwing; callers get a Status like for everything else.
  try {
    return impl_->step(request);
  } catch (const std::bad_alloc&) {
    return noMemory();
  } catch (const std::length_error&) {
    return noMemory();
  }
}

}  // namespace tsq
