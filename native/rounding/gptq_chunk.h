// What GPTQ does to chunks of 32 rows of a weight, and what it reads.
#pragma once
#include <cstdint>
#include <vector>

#include "rounding/group_grid.h"
#include "rounding/packed_upper.h"
#include "rounding/visit_order.h"

namespace tsq::rounding {

// What every chunk of rows reads.
struct GptqJob {
  const float* w;
  int64_t n, k;
  const GptqSpec& spec;
  LaneGrid grid;
  int64_t groups;
  VisitOrder visit;
  std::vector<uint8_t> dead;      // [k]
  std::vector<float> importance;  // [k] by column if fixedScales(), else by visit position; empty: ones
  LaneScales tensorScale;         // perTensor
  RoundedWeight out;
  int32_t* groupIndex;  // null unless groups are dynamic
  int64_t longestBlock = 0;

  bool fixedScales() const { return visit.groups.empty(); }
  const float* importanceFrom(int64_t position) const {
    return importance.empty() ? nullptr : importance.data() + position;
  }
};

// Chunks of 32 rows that a task takes at once. They share each pass over the factor, which comes from the last cache:
// codes are the same for any number.
int64_t chunksTogether(int64_t n);

// Bytes of scratch that roundChunks needs for one chunk, a multiple of 64.
uint64_t chunkScratchBytes(const GptqJob& job);

// Rounds chunks [begin, end), rows [32 begin, 32 end), through all columns and writes job.out. u: upper factor of the
// inverse Hessian in visit order. scratch: chunkScratchBytes a chunk, 64-byte aligned. Returns early, with nothing
// promised about job.out, when aborted.
void roundChunks(const GptqJob& job, const PackedUpper<float>& u, int64_t begin, int64_t end, void* scratch,
                 AbortFlag abort);

}  // namespace tsq::rounding
