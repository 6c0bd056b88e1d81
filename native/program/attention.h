// Causal attention over the paged cache.
#pragma once
#include <cstdint>
#include <vector>

#include "program/program.h"
#include "runtime/memory.h"

namespace tsq {

struct StepContext;

// How one sequence of the step is cut into tasks.
struct SequenceTasks {
  int64_t firstTile, tiles;  // attention tiles of all its KV heads; tiles of one head
  int64_t firstAppend;       // pages to write to
  int64_t pointers, blocks;  // into AttentionWorkspace::keys: [kvHead][blocks]
};

struct AttentionWorkspace {
  std::vector<SequenceTasks> tasks;
  std::vector<const float*> keys, values;  // by block of 16 positions, as AttentionTile wants them
  AlignedBuffer scratch;                   // one area per worker
};

// Appends this step's keys and values to the cache, then computes every row's output: softmax(scale q K^T) V over the
// positions that the row sees, its own included.
Status runAttention(const StepContext& step, const SectionRun& run, const Op& op);

}  // namespace tsq
