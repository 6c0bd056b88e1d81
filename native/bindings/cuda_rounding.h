// The heavy loops of rounding on a CUDA device: what native/rounding does on the CPU, with the same results but for the
// order of some sums. No JavaScript here.
//
// Every call uploads what it reads, waits for what it enqueued, and may run in any thread. Long ones wait in between,
// so that an abort is noticed. Memory of the device that does not suffice is kDevice, with sizes.
#pragma once
#include <memory>
#include <mutex>

#include "bindings/cuda_device.h"
#include "rounding/grid_math.h"
#include "rounding/rounding.h"

namespace tsq {

TsqCudaGrid cudaGrid(const rounding::LaneGrid& grid);

// The sum of x xᵀ over rows that are added on a device.
class CudaHessian {
 public:
  static Result<std::shared_ptr<CudaHessian>> create(std::shared_ptr<CudaDevice> device, int64_t k);
  CudaHessian(std::shared_ptr<CudaMemory> h, int64_t k) : h_(std::move(h)), k_(k) {}

  int64_t k() const { return k_; }
  uint64_t bytes() const { return static_cast<uint64_t>(h_->bytes); }
  // x [rows, k] of f32, f16 or bf16.
  Status add(const void* x, Dtype type, int64_t rows);
  // Puts the sum, and the number of rows, in place of those of `to`.
  Status into(Hessian* to);

 private:
  std::mutex mutex_;
  std::shared_ptr<CudaMemory> h_;
  int64_t k_;
  double rows_ = 0;
};

// roundNearest, layerError and gptq of rounding.h. One scale for the whole weight is chosen on the CPU.
Status roundNearestOn(const std::shared_ptr<CudaDevice>& device, const float* w, int64_t n, int64_t k,
                      const GridSpec& grid, const SearchSpec& search, const float* clip, RoundedWeight out,
                      AbortFlag abort);
Result<double> layerErrorOn(const std::shared_ptr<CudaDevice>& device, const float* w, const float* approx, int64_t n,
                            int64_t k, const Hessian& hessian);
Result<GptqReport> gptqOn(const std::shared_ptr<CudaDevice>& device, const float* w, int64_t n, int64_t k,
                          const Hessian& hessian, const GptqSpec& spec, RoundedWeight out, int32_t* groupIndex,
                          AbortFlag abort);

// AWQ's search: errors[i] = the layer error of nearest codes on w diag(s_i), times diag(1 / s_i), for `count`
// candidates s_i = scales[i * k …]. No grid with one scale for the whole weight.
Status scaledErrorsOn(const std::shared_ptr<CudaDevice>& device, const float* w, int64_t n, int64_t k,
                      const Hessian& hessian, const GridSpec& grid, const float* scales, int64_t count, double* errors,
                      AbortFlag abort);

}  // namespace tsq
