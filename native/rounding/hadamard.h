// Orthogonal rotations by Hadamard matrices (QuaRot, arXiv 2404.00456), as fast Walsh-Hadamard transforms in f64.
#pragma once
#include <cstdint>

#include "runtime/status.h"
#include "runtime/thread_pool.h"

namespace tsq::rounding {

// The largest divisor of `size` that there is a Hadamard matrix of: a power of two, or m times a power of two with m up
// to 256 of one of Paley's constructions (R. E. A. C. Paley, "On orthogonal matrices", 1933): 12, 20, 28, 36, 44, 60 …
int64_t hadamardOrder(int64_t size);

enum class Axis { kRows, kColumns };

// out = (x with every element times its place's scale along the axis) times H / sqrt(block), H a Hadamard matrix of
// order `block`, in consecutive blocks along the axis: each row of x [n, k] for kColumns, each column for kRows. H
// times its transpose is block times the identity; x · H is what a row becomes, and Hᵀ · x a column. Summed in f64 and
// rounded once. scale [k] or [n], or null: ones. out may be x. kOption unless block is an order (hadamardOrder(block)
// == block) that divides the axis, kMemory.
Status hadamard(const float* x, int64_t n, int64_t k, Axis axis, int64_t block, const float* scale, float* out,
                AbortFlag abort);

}  // namespace tsq::rounding
