// 16 rows of a weight on their way to the codes of least output error, each row a lane.
#pragma once
#include <cstdint>
#include <vector>

#include "rounding/learned.h"
#include "rounding/packed_square.h"
#include "rounding/row_loops.h"
#include "runtime/thread_pool.h"

namespace tsq::rounding {

// What all rows share. Columns are in an order in which groups are consecutive.
struct LearnJob {
  const float* target;
  int64_t n, k;
  const LearnSpec& spec;
  LaneGrid grid;
  int64_t groups;
  const PackedSquare& h;
  std::vector<int32_t> columns;     // position -> column of the weight
  std::vector<int32_t> groupOf;     // position -> group
  std::vector<int64_t> groupBegin;  // [groups + 1] positions
  int64_t longest;                  // columns of the largest group
  std::vector<double> groupSums;    // [groups] sum of H over each group's rows and columns; empty for symmetric grids

  int64_t padded() const { return h.padded(); }
};

// A row's codes, scales and zero points: [padded][16], [groups][16] each.
struct RowGrid {
  float* codes;
  float* scales;
  float* zeros;
  static uint64_t floats(const LearnJob& job) { return static_cast<uint64_t>((job.padded() + 2 * job.groups) * kRows); }
  RowGrid(float* memory, const LearnJob& job)
      : codes(memory), scales(codes + job.padded() * kRows), zeros(scales + job.groups * kRows) {}
};

class RowSet {
 public:
  static uint64_t floats(const LearnJob& job);
  // memory: floats(job), zero-filled, 64-byte aligned.
  RowSet(float* memory, const LearnJob& job, int64_t firstRow);

  // Codes, scales and zero points of a start; rows beyond n repeat the last one.
  void load(const RoundedWeight& start);
  // Puts the current state in the place of what is kept, in rows where `error` is lower (all of them at first).
  void keepBetter(const double* error);
  // The current state becomes what is kept.
  void restore();
  // Writes what is kept.
  void store(RoundedWeight out) const;
  int64_t rows() const { return rows_; }

  GroupRows group(int64_t g) const;
  // difference from target, codes and scales.
  void subtract();
  // error[lane] = difference . gradient, which has to be H difference.
  void objective(double* error) const;

  float* target;      // [padded][16]
  float* difference;  // [padded][16] target - dequantized
  float* gradient;    // [padded][16] H difference
  float* change;      // [padded][16] scratch: what is added to difference
  float* offsets;     // [padded][16] and base, of signed gradients
  float* base;
  RowGrid current, kept;
  double keptError[kRows];

 private:
  const LearnJob& job_;
  int64_t first_, rows_;
  bool any_ = false;
};

// sum [padded][16] += H of columns [begin, end) times x [end - begin][16], for each product. H passes once for all.
struct Product {
  const float* x;
  float* sum;
};
void addProducts(const PackedSquare& h, int64_t begin, int64_t end, const std::vector<Product>& products);

// gradient = H difference of every set.
void computeGradients(const LearnJob& job, std::vector<RowSet>& sets);

// Exact descent (descent.cc) and signed gradients (signed_gradient.cc) from each set's kept state, which they replace
// where they find a better one. They return early when aborted.
void descend(const LearnJob& job, std::vector<RowSet>& sets, AbortFlag abort);
void followSigns(const LearnJob& job, std::vector<RowSet>& sets, AbortFlag abort);

}  // namespace tsq::rounding
