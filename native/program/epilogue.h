// What is made of the logits of chosen rows.
#pragma once
#include <cstdint>
#include <vector>

#include "program/program.h"
#include "program/sampling.h"
#include "runtime/memory.h"

namespace tsq {

struct StepContext;

// Buffers for one chunk of rows.
struct EpilogueWorkspace {
  AlignedBuffer hidden;             // [chunk, width] gathered
  AlignedBuffer logits, reference;  // [chunk, vocabulary]
  AlignedBuffer weights;            // [chunk, vocabulary] exponentials
  std::vector<SamplingScratch> sampling;
  std::vector<Status> statuses;
};

// Rows of a chunk: at most 64, and as few as keep one buffer of logits within 32 MB. Depends on the vocabulary alone.
int64_t epilogueChunk(int64_t vocabulary);

// Runs the logits op as the request's epilogue asks: all chosen rows, chunk by chunk.
Status runEpilogue(const StepContext& step, const SectionRun& run, const Op& op);

}  // namespace tsq
