// Cosines and sines of positions, computed once.
#pragma once
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "program/program.h"
#include "runtime/memory.h"

namespace tsq {

// One table for every vector of inverse frequencies and attention factor in use, filled in blocks of positions as they
// occur. Vectors are told apart by their contents, so it does not matter whether a caller binds the same or an equal
// one.
class RopeTables {
 public:
  // rows[i]: [cosines | sines], each of frequencies.size() floats, of positions[i]: rounded from double precision and
  // multiplied by the factor. Valid until the next call.
  Status lookup(const Vector& frequencies, double factor, const std::vector<int64_t>& positions, AbortFlag abort,
                std::vector<const float*>* rows);

 private:
  struct Block {
    AlignedBuffer memory;
    bool filled = false;  // false as well after an aborted or failed attempt
  };
  struct Table {
    Vector frequencies;
    double factor;
    std::unordered_map<int64_t, Block> blocks;
    uint64_t lastUse;
  };
  Table& find(const Vector& frequencies, double factor);

  std::vector<Table> tables_;
  std::vector<std::pair<int64_t, Block*>> missing_;
  uint64_t uses_ = 0;
};

}  // namespace tsq
