// The order in which GPTQ visits columns, and which groups they belong to.
#pragma once
#include <cstdint>
#include <vector>

#include "rounding/rounding.h"

namespace tsq::rounding {

struct VisitOrder {
  struct Group {
    int64_t begin, size;  // visit positions
    int64_t id;           // index into scales
  };
  struct Block {
    int64_t begin, end;  // visit positions of one lazy update
  };
  std::vector<int32_t> columns;  // visit position -> column
  std::vector<int32_t> groupOf;  // visit position -> group
  std::vector<Group> groups;     // in visit order; empty where the scales of all groups are fixed beforehand
  std::vector<Block> blocks;
};

// diagonal: diag(H) [k]. Ties keep the order of columns. Blocks hold whole groups or lie inside one, so that the
// weights of a group are up to date when its scales are computed.
VisitOrder makeVisitOrder(ActOrder order, const std::vector<double>& diagonal, const GridSpec& grid, int64_t block);

}  // namespace tsq::rounding
