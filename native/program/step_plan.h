// A request that has been checked: what the operations may rely on.
#pragma once
#include <cstdint>
#include <vector>

#include "program/program.h"

namespace tsq {

// Copies of everything in the request that is used as an index and lies in memory of the caller, who may write to it
// while the step runs, and what follows from the request. Lives in the program, so that a step of a size seen before
// allocates nothing.
struct StepPlan {
  std::vector<int32_t> tokens;        // [rows] where an embed runs
  std::vector<int64_t> positions;     // [rows] position of a row in its sequence, where rope or attention runs
  std::vector<int32_t> epilogueRows;  // [count]
  std::vector<int32_t> targets;       // [count] where the epilogue's mode needs them
  std::vector<int32_t> history;       // of Sampling
  std::vector<int32_t> observers;     // indices into the request's, by (run, op), else in their order
  std::vector<uint8_t> writtenPages;  // [cache pages] 1: this step writes the page
};

// Fills `plan`, or says what is wrong. Nothing has been run or written by then.
Status validateRequest(const ProgramSpec& spec, const StepRequest& request, StepPlan* plan);

// "runs[2], section 1 op 4 (linear)".
std::string opPosition(const ProgramSpec& spec, const StepRequest& request, size_t run, int32_t op);

}  // namespace tsq
