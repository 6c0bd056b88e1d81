// d^T H d for many rows d at once: the objective of GPTQ and of the clip search.
#pragma once
#include <cstdint>
#include <type_traits>

#include "rounding/packed_upper.h"
#include "rounding/rounding.h"

namespace tsq::rounding {

// Packs the diagonal block H[first … first + size) for quadraticForms: half the products, because H is symmetric. The
// triangle above the diagonal is read. The result has k() = size. Runs in the calling thread; threaded over panels when
// `threaded`.
Result<PackedUpper<float>> packQuadratic(const float* h, int64_t k, int64_t first, int64_t size, bool threaded);

// sums[s * 16 + lane] += d^T H d for the 16 lanes of each of `sets` vectors d[s], each [padded][16], 64-byte aligned,
// zero beyond k.
void quadraticForms(const PackedUpper<float>& h, int sets, const float* const* d, double* sums);

// Fills d of one chunk of 32 rows for one variant: two panels [padded][16], `panelStride` floats apart, zero-filled
// beforehand.
class FillRef {
 public:
  template <typename F, typename = std::enable_if_t<!std::is_same_v<std::decay_t<F>, FillRef>>>
  FillRef(F&& function)  // NOLINT: implicit on purpose, borrowed like TaskRef
      : object_(const_cast<void*>(static_cast<const void*>(&function))),
        call_([](void* object, int64_t chunk, int variant, float* d, int64_t panelStride) {
          (*static_cast<std::remove_reference_t<F>*>(object))(chunk, variant, d, panelStride);
        }) {}
  void operator()(int64_t chunk, int variant, float* d, int64_t panelStride) const {
    call_(object_, chunk, variant, d, panelStride);
  }

 private:
  void* object_;
  void (*call_)(void*, int64_t, int, float*, int64_t);
};

// totals[variant] = sum over the n rows of d^T H d, for one or two variants of d. Threaded, rows added in order.
Status sumQuadraticForms(const PackedUpper<float>& h, int64_t n, int variants, FillRef fill, double* totals,
                         AbortFlag abort);

}  // namespace tsq::rounding
