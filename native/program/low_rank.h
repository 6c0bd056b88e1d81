// LoRA adapters beside the weights of a program (arXiv 2106.09685): out += scale * (x A^T) B^T.
#pragma once
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "kernels/packed_weight.h"
#include "runtime/memory.h"
#include "runtime/status.h"

namespace tsq {

struct Op;
struct SectionRun;
struct StepContext;

// What an adapter adds to one linear of [n, k].
struct LowRank {
  std::shared_ptr<const PackedWeight> base;  // the weight beside which it runs: held, so that its address stays its own
  std::shared_ptr<const PackedWeight> a;     // [rank, k]
  std::shared_ptr<const PackedWeight> b;     // [n, rank]
  float scale = 1;
};

// One adapter over the weights of a model, whatever sections and runs they are bound to.
class Adapter {
 public:
  // kShape with the product's index where a, b and base do not fit each other; kOption for a base that comes twice.
  static Result<std::shared_ptr<const Adapter>> create(std::vector<LowRank> products);
  // What it adds to a weight; null: nothing.
  const LowRank* find(const PackedWeight* base) const;
  uint64_t bytes() const { return bytes_; }  // without the weights, which are objects of their own

 private:
  std::unordered_map<const PackedWeight*, LowRank> products_;
  uint64_t bytes_ = 0;
};

struct LowRankWorkspace {
  AlignedBuffer inner, product;
};

// Adds to `rows` rows from `row` on of the linear's output what the sequences' adapters ask for. Activations are taken
// as they are. Neighbouring sequences with the same adapter are one product, whose last bits may depend on its number
// of rows as the weights' own do; nothing else of a sequence's result depends on the others.
Status addLowRank(const StepContext& step, const SectionRun& run, const Op& op, int64_t row, int64_t rows);

}  // namespace tsq
