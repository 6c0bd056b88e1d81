// What an operation sees of the step that it runs in.
#pragma once
#include "program/attention.h"
#include "program/epilogue.h"
#include "program/low_rank.h"
#include "program/rope_tables.h"
#include "program/slot_arena.h"
#include "program/step_plan.h"

namespace tsq {

// Memory that operations reuse from step to step.
struct Workspace {
  RopeTables ropes;
  AttentionWorkspace attention;
  EpilogueWorkspace epilogue;
  LowRankWorkspace lowRank;
};

struct StepContext {
  const StepRequest& request;
  const StepPlan& plan;
  SlotArena& slots;
  Workspace& work;

  int64_t rows() const { return request.rows; }
  AbortFlag abort() const { return request.abort; }
  int64_t width(int32_t slot) const { return slots.width(slot); }
  float* slot(int32_t index) const { return slots.slot(index); }
  // Checked by validateRequest: there, and of the right kind.
  const PackedWeight& matrix(const SectionRun& run, int32_t weight) const {
    return **std::get_if<1>(&bound(run, weight));
  }
  const Vector& vector(const SectionRun& run, int32_t weight) const { return **std::get_if<2>(&bound(run, weight)); }

 private:
  const WeightRef& bound(const SectionRun& run, int32_t weight) const {
    return request.weights[static_cast<size_t>(int64_t{run.weightBase} + weight)];
  }
};

inline Status aborted() {
  return Status(Code::kAborted, "the step was aborted");
}

}  // namespace tsq
