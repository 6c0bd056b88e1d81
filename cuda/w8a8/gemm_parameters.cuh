// What a kernel of W8A8 is told.
#pragma once
#include "cuda/w8a8/layout.cuh"

namespace tsq::cuda::w8a8 {

struct Gemm {
  w4a16::Shape shape;  // of pairs
  Global<const Words> weights;
  Global<const Words> x;             // activationWords()
  Global<const float> scalesX;       // [rows], or of blocks [tiles][rows]
  Global<const float> scalesW;       // [n]; null where blocks have scales
  Global<const Floats> blockScales;  // blockScaleWords(); null but for e4m3
  Global<const int32_t> zerosX;      // [rows]; null: 0 for all
  Global<const int32_t> sumsW;       // [n], of the codes of an output: with zerosX
  Global<const uint16_t> bias;       // [n], null: none
  Global<uint16_t> y;                // [m], rows strideY apart
  Global<Words> partials;            // of columns that several blocks share: partialCount()
  Global<int> counters;              // counterCount(), 0 before and after
  int64_t strideY;
  int m, rows;
  int blocks;    // of a slab
  bool bf16;     // bias and y, or else f16
  bool vectorY;  // rows of y begin at multiples of 8 bytes
};

}  // namespace tsq::cuda::w8a8
