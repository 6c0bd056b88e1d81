// Causal attention over the paged cache.
#pragma once
#include <cstdint>
#include <vector>

#include "program/program.h"
#include "runtime/memory.h"

namespace tsq {

struct StepContext;

// Queries that share a KV head and read its keys and values together, against one range of positions. The (row, head of
// the group) pairs of a sequence are counted rows slowest.
struct AttentionTask {
  int32_t sequence, kvHead;
  int64_t begin, end;  // queries
  int64_t from, to;    // positions, `to` exclusive
  int64_t part;        // place among the partial results; -1: the only range, which writes the output
  bool appends;        // writes the new keys and values of its head and range before it reads them
};

// Queries whose ranges' results have to be put together: parts [part, part + ranges), `count` queries in each.
struct AttentionMerge {
  int32_t sequence, kvHead;
  int64_t begin, count;
  int64_t part, ranges;
};

// Exact pages of a sequence whose step begins more pages than its window keeps: all that its queries read but the
// first ones of the sequence.
struct StagedPages {
  int64_t block = -1;  // the first one's place in the sequence; -1: they are read where the cache keeps them
  int64_t first = 0;   // its place in the staging area
};

struct AttentionWorkspace {
  std::vector<AttentionTask> tasks;
  std::vector<AttentionMerge> merges;
  std::vector<int64_t> appends;  // by sequence: pages that are written before the tasks run, those before it included
  std::vector<StagedPages> staged;   // by sequence
  std::vector<int32_t> stagedTable;  // 0, 1, 2 …
  AlignedBuffer scratch;             // one area per worker
  AlignedBuffer partial;             // by part: outputs [queries][headDim], peaks, sums
  AlignedBuffer staging;             // [page][KV head], f16
};

// Appends this step's keys and values to the cache, then computes every row's output: softmax(scale q K^T) V over the
// positions that the row sees, its own included. Which of them it sees as they were and which quantized follows from
// its position and theirs (KvFormat), never from how the sequence was cut into steps.
Status runAttention(const StepContext& step, const SectionRun& run, const Op& op);

}  // namespace tsq
