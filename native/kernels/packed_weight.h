// A weight in the layout of the kernels, and how to make one.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/activation_scheme.h"
#include "layout/packed.h"
#include "layout/stored_codes.h"
#include "runtime/memory.h"
#include "runtime/scalar.h"
#include "runtime/status.h"

namespace tsq {

// What a kernel sees: plain pointers, no ownership.
struct PackedView {
  layout::Shape shape;
  const void* data;             // see layout/packed.h
  const void* scales;           // of scaleType, [panel][group][16]; null for float kinds
  layout::ScaleType scaleType;  // the narrowest that is exact
  const uint8_t* zeros;         // [panel][group][16]; null: every zero point is `zero`
  int32_t zero;                 // the common zero point, 2^(bits-1) for symmetric codes
  const float* book = nullptr;  // kB4, kI4: its values
};

struct PackedWeight {
  layout::Shape shape{};
  // Of a code; 16 or 32 for floats. 5- to 7-bit codes are stored as 8-bit, those of a code book of up to 4 bits as
  // 4-bit, and codes that no kernel takes as f32.
  int bits = 0;
  layout::ScaleType scaleType = layout::ScaleType::kF32;
  AlignedBuffer data, scales, zeros;
  int32_t zero = 0;
  std::vector<float> book;        // kB4, kI4: [16]; empty otherwise
  std::vector<int32_t> order;     // packed (ordered) column -> column of the activations; empty: identity
  std::vector<float> inputScale;  // [k], by column of the activations; empty: ones. y = W_packed (x * inputScale)
  // f32 [n, groups], added to every weight of a group; null: none. A product of its own with the groups' sums of x.
  std::shared_ptr<const PackedWeight> offsets;
  ActivationScheme activations;  // of kScheme
  // f32 [n, 1]: the sum of each row over k, where activations have zero points; null otherwise.
  std::shared_ptr<const PackedWeight> rowSums;
  PackedView view() const {
    return {shape, data.data(), scales.data(), scaleType, zeros.size() ? zeros.as<uint8_t>() : nullptr,
            zero,  book.data()};
  }
  uint64_t bytes() const {
    return data.size() + scales.size() + zeros.size() + (book.size() + order.size() + inputScale.size()) * 4 +
           (offsets ? offsets->bytes() : 0) + (rowSums ? rowSums->bytes() : 0);
  }
};

// Integer codes as QuantizedTensor or a checkpoint holds them. All arrays row-major; see lib/core/quantized-tensor.ts.
struct CodesSource {
  const uint8_t* codes;  // [n, k] in `layout`, each < 2^bits
  int64_t n, k;
  int bits;                   // 2 … 8
  int64_t groupSize;          // 1 … k
  const float* scales;        // [n, groups]
  const uint8_t* zeros;       // [n, groups] or null (symmetric: 2^(bits-1))
  const int32_t* groupIndex;  // [k] group of each column, each group used by exactly its size of columns; or null
  const float* inputScale;    // [k] or null
  layout::CodeLayout layout = layout::CodeLayout::kBytes;
  // [n, groups] or null. Not null: codes have no zero point, and a weight is scale * code + offset.
  const float* offsets = nullptr;
  // [2^bits] or null. Not null: codes have no zero point, and a weight is scale * codebook[code].
  const float* codebook = nullptr;
  ActivationScheme activations = {};
};

// w [n, k] = the f32 values, each operation rounded for itself, times inputScale. Threaded. Codes have to be < 2^bits
// only where there is a code book: kFormat otherwise. groupIndex: any group of each column.
Status dequantize(const CodesSource& source, float* w);

// Multi-threaded. Codes must be < 2^bits and groupIndex a valid assignment: checked, kFormat/kShape otherwise.
Result<PackedWeight> packCodes(const CodesSource& source);

// Sets what kScheme means, and computes what that needs of the weight. kFormat where no scheme is so.
Status setActivations(PackedWeight* weight, const ActivationScheme& scheme);

// Packs a row-major [n, k] float matrix of type `from` into kind `kind` (rounding to nearest even where it narrows).
Result<PackedWeight> packDense(const void* source, Dtype from, int64_t n, int64_t k, layout::WeightKind kind);

// The zero point where there is none for each group.
inline int32_t commonZero(layout::WeightKind kind, int bits) {
  if (kind == layout::WeightKind::kI4) return layout::kBookZero;
  return layout::isInteger(kind) ? 1 << (bits - 1) : 0;
}

// Whether products take the weight as it is stored: false for codes that are held as the f32 values they stand for.
inline bool isFused(const PackedWeight& weight) {
  return layout::hasScales(weight.shape.kind) || weight.bits >= 16;
}

// Row `n` of the weight, dequantized to f32 [k] in the order of the activations' columns, inputScale applied: an
// embedding lookup.
void unpackRow(const PackedWeight& weight, int64_t n, float* out);

// What is multiplied with the weights. kInt8: activations are rounded to 8 bits, symmetric, by row and block of a group
// (layout/activations.h); floats and codes of code books are multiplied exactly all the same. kScheme: as each weight's
// own `activations` say.
enum class Activations : uint8_t { kExact = 0, kInt8 = 1, kScheme = 2 };

// y[m, n] = x[m, k] W^T (+ bias[n]). x and y may be f32, f16 or bf16 (each row-major and dense, any alignment);
// sums are f32, the result rounded once. Threaded; the same bytes for any thread count. ldx and ldy count elements.
struct MatmulArgs {
  const PackedWeight* weight;
  const void* x;
  Dtype xType;
  int64_t ldx, m;
  void* y;
  Dtype yType;
  int64_t ldy;
  const float* bias;  // or null
  Activations activations = Activations::kExact;
};
Status matmul(const MatmulArgs& args);
// Several products (of equal xType and activations): one pass over the pool, and activations prepared once for those
// of the same x, ldx and m where the weights allow it. The same bytes as one matmul after the other.
Status matmulGroup(const MatmulArgs* args, int count);

}  // namespace tsq
