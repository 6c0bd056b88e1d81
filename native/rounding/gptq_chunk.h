// What GPTQ does to 32 rows of a weight, and what it reads.
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

// Bytes of scratch that roundChunk needs.
uint64_t chunkScratchBytes(const GptqJob& job);

// Rounds rows [32 chunk, +32) through all columns and writes job.out. u: upper factor of the inverse Hessian in visit
// order. scratch: chunkScratchBytes, 64-byte aligned. Returns early, with nothing promised about job.out, when aborted.
void roundChunk(const GptqJob& job, const PackedUpper<float>& u, int64_t chunk, void* scratch, AbortFlag abort);

}  // namespace tsq::rounding
