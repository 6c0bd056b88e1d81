// Cosines and sines of a step's positions.
#pragma once
#include <cstdint>
#include <vector>

#include "program/program.h"
#include "runtime/memory.h"

namespace tsq {

// One table for every vector of inverse frequencies and attention factor in use, computed once a step. Vectors are told
// apart by their contents, so it does not matter whether a caller binds the same or an equal one.
class RopeTables {
 public:
  // What was computed belongs to an earlier step.
  void beginStep();
  // [cosines | sines] of every position, each of frequencies.size() floats, rounded from double precision and
  // multiplied by the factor. Valid until the next call.
  Result<const float*> lookup(const Vector& frequencies, double factor, const std::vector<int64_t>& positions,
                              AbortFlag abort);

 private:
  struct Table {
    Vector frequencies;
    double factor;
    AlignedBuffer memory;
    bool filled = false;  // for this step; false as well after an aborted or failed attempt
    uint64_t lastUse = 0;
  };
  Table& find(const Vector& frequencies, double factor);

  std::vector<Table> tables_;
  uint64_t uses_ = 0;
};

}  // namespace tsq
