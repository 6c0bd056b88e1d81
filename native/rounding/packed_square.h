// A symmetric matrix in panels of 16 columns: the left operand of KernelTable::gramTile for products H D, D of 16 rows
// of a weight.
#pragma once
#include <cstdint>
#include <vector>

#include "rounding/packed_upper.h"
#include "rounding/rounding.h"

namespace tsq::rounding {

// Panel p holds columns [16 p, 16 p + 16) of all `padded` rows: element (row, column) lies at panel(column / 16)[row *
// 16 + column % 16]. Rows and columns beyond k are zero.
class PackedSquare {
 public:
  // kMemory when the system refuses: 4 padded² bytes.
  static Result<PackedSquare> create(int64_t k);
  int64_t k() const { return k_; }
  int64_t padded() const { return roundUpToPanel(k_); }
  int64_t panels() const { return padded() / kPanel; }
  float* panel(int64_t p) { return buffer_.as<float>() + p * kPanel * padded(); }
  const float* panel(int64_t p) const { return buffer_.as<float>() + p * kPanel * padded(); }
  float at(int64_t row, int64_t column) const { return panel(column / kPanel)[row * kPanel + column % kPanel]; }

 private:
  int64_t k_ = 0;
  AlignedBuffer buffer_;
};

// matrix [k, k], row-major, element (i, j) from (columns[i], columns[j]). Threaded.
Result<PackedSquare> packSquare(const float* matrix, int64_t k, const std::vector<int32_t>& columns);

}  // namespace tsq::rounding
