// What a kernel of W4A16 and its siblings is told.
#pragma once
#include "cuda/w4a16/layout.cuh"

namespace tsq::cuda::w4a16 {

struct Gemm {
  Shape shape;
  Global<const Words> weights;
  Global<const Words> scales;   // null for weights of 16 bits
  Global<const Words> zeros;    // null: 8 for all, or 128; none with a code book
  Global<const uint16_t> x;     // rows of k, strideX apart
  Global<const int32_t> order;  // packed column p multiplies x column order[p]; null: p itself
  Global<const uint16_t> bias;  // null: none
  Global<uint16_t> y;           // rows of n, strideY apart
  Global<Floats> partials;      // of columns that several blocks share: partialCount()
  Global<int> counters;         // counterCount(), 0 before and after
  int64_t strideX, strideY;
  int m;
  int blocks;  // of a Plan
  bool scalesAreBF16;
  bool vectorX;  // no order, and rows of x begin at multiples of 16 bytes
  Book book;     // of weights that have one
};

}  // namespace tsq::cuda::w4a16
