// Who multiplies what. A launch has slabs of tokens; the blocks of a slab share its columns, of so many outputs, and
// the steps along k in each, in equal runs: a run may end in the middle of a column, and the parts of a column that
// several blocks computed are added in the order of k by the one that finishes last. Nothing here depends on the
// tokens, so a token's result does not either.
#pragma once
#include "cuda/w4a16/layout.cuh"

namespace tsq::cuda::w4a16 {

struct Work {
  int columns, steps;  // steps of one column
  int blocks;          // of a slab; at most columns * steps

  TSQ_BOTH constexpr int begin(int block) const { return static_cast<int>(int64_t{columns} * steps * block / blocks); }
  // The block whose run has this step.
  TSQ_BOTH constexpr int owner(int step) const {
    return static_cast<int>((int64_t{step + 1} * blocks - 1) / (columns * steps));
  }
};

// A column is so many tiles wide, and a step so many long.
TSQ_BOTH constexpr Work workOf(const Shape& shape, int blocks, int tilesN, int tilesK) {
  const auto columns = static_cast<int>((shape.columns() + tilesN - 1) / tilesN);
  const auto steps = static_cast<int>((shape.tiles() + tilesK - 1) / tilesK);
  return {columns, steps, blocks < columns * steps ? blocks : columns * steps};
}

// A walk over the run of a block, step by step; a segment is the part of the run in one column.
struct Walk {
  int left;  // steps, this one included
  int column;
  int first, count, at;  // of the segment: its first step in the column, its steps, the current one

  TSQ_BOTH Walk(const Work& work, int block) : left(work.begin(block + 1) - work.begin(block)) {
    column = work.begin(block) / work.steps;
    first = work.begin(block) % work.steps;
    enter(work);
  }
  TSQ_BOTH bool ends() const { return at == count - 1; }
  TSQ_BOTH void next(const Work& work) {
    --left;
    if (++at < count) return;
    ++column;
    first = 0;
    enter(work);
  }
  // One of the tiles of the step. Along k, each of the warps that share a step has a stretch of neighbouring tiles, so
  // that its sums carry over from step to step.
  TSQ_BOTH int tile(int index, int tilesK) const { return first * tilesK + index * count + at; }

 private:
  TSQ_BOTH void enter(const Work& work) {
    at = 0;
    count = work.steps - first < left ? work.steps - first : left;
  }
};

}  // namespace tsq::cuda::w4a16
