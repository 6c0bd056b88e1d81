// Who multiplies what. A launch has slabs of tokens; the blocks of a slab share its columns, of so many outputs, and
// the steps along k in each, in equal runs: a run may end in the middle of a column, and the parts of a column that
// several blocks computed are added in the order of k by the one that finishes last. Nothing here depends on the
// tokens, so a token's result does not either.
//
// Kernels for many tokens let all blocks share the columns of all slabs: first they take whole ones, one after the
// other, and share what is left.
#pragma once
#include "cuda/w4a16/layout.cuh"

namespace tsq::cuda::w4a16 {

struct Work {
  int columns, steps;  // steps of one column
  int blocks;
  int sharers;    // blocks that have runs: the first ones; at most as many as there are steps to share
  int whole = 0;  // columns that are not shared, a multiple of blocks: the first ones

  // Of shared steps, which are counted from column `whole` on.
  TSQ_BOTH constexpr int shared() const { return (columns - whole) * steps; }
  TSQ_BOTH constexpr int begin(int block) const {
    return block < sharers ? static_cast<int>(int64_t{shared()} * block / sharers) : shared();
  }
  // The block whose run has this step.
  TSQ_BOTH constexpr int owner(int step) const {
    return static_cast<int>((int64_t{step + 1} * sharers - 1) / shared());
  }
};

// A column is so many tiles wide, and a step so many long.
TSQ_BOTH constexpr Work workOf(const Shape& shape, int blocks, int tilesN, int tilesK) {
  const auto columns = static_cast<int>((shape.columns() + tilesN - 1) / tilesN);
  const auto steps = static_cast<int>((shape.tiles() + tilesK - 1) / tilesK);
  const int sharers = blocks < columns * steps ? blocks : columns * steps;
  return {columns, steps, sharers, sharers};
}

// The same of `slabs` slabs, whose columns come one after the other.
TSQ_BOTH constexpr Work jointWork(const Shape& shape, int slabs, int blocks, int tilesN) {
  Work work = workOf(shape, 1, tilesN, 1);
  work.columns *= slabs;
  work.whole = work.columns / blocks * blocks;
  work.blocks = blocks;
  const int rest = work.columns - work.whole;
  if (rest == 0) {
    work.sharers = 0;
    return work;
  }
  // What a column is cut into must be put together again: into eight parts at most, of four steps and more; and at its
  // ends, where that leaves no more than an eighth of the blocks idle.
  const int most = work.steps < 32 ? (work.steps + 3) / 4 : 8, parts = blocks / rest < most ? blocks / rest : most;
  work.sharers = parts == most || rest * parts >= blocks - blocks / 8 ? rest * parts : blocks;
  if (work.whole == 0) work.blocks = work.sharers;
  return work;
}

// A walk over the run of a block, step by step; a segment is the part of the run in one column.
struct Walk {
  int left;  // steps, this one included
  int column;
  int first, count, at;  // of the segment: its first step in the column, its steps, the current one

  TSQ_BOTH Walk(const Work& work, int block)
      : left(work.whole / work.blocks * work.steps + work.begin(block + 1) - work.begin(block)),
        column(block),
        first(0),
        run(work.begin(block)) {
    if (work.whole == 0) enterRun(work);
    enter(work);
  }
  TSQ_BOTH bool ends() const { return at == count - 1; }
  TSQ_BOTH void next(const Work& work) {
    --left;
    if (++at == count) leave(work);
  }
  // The same for all steps of a segment.
  TSQ_BOTH void nextSegment(const Work& work) {
    left -= count;
    leave(work);
  }
  // One of the tiles of the step. Along k, each of the warps that share a step has a stretch of neighbouring tiles, so
  // that its sums carry over from step to step.
  TSQ_BOTH int tile(int index, int tilesK) const { return first * tilesK + index * count + at; }

 private:
  int run;  // where it begins

  TSQ_BOTH void leave(const Work& work) {
    first = 0;
    if (column >= work.whole) {
      ++column;
    } else {
      column += work.blocks;
      if (column >= work.whole) enterRun(work);
    }
    enter(work);
  }
  TSQ_BOTH void enterRun(const Work& work) {
    column = work.whole + run / work.steps;
    first = run % work.steps;
  }
  TSQ_BOTH void enter(const Work& work) {
    at = 0;
    count = work.steps - first < left ? work.steps - first : left;
  }
};

}  // namespace tsq::cuda::w4a16
