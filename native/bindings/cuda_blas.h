// cuBLAS on a device of this process, with memory of the device to work in. No JavaScript here.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "bindings/cublas.h"
#include "bindings/cuda_device.h"

namespace tsq {

// w [n, k], x [m, k] and y [m, n] of f16 or bf16, in rows without gaps.
struct BlasProduct {
  std::shared_ptr<CudaMemory> w, x, y;
  bool isBF16;
  int64_t m, n, k;
};

class CudaBlas : public std::enable_shared_from_this<CudaBlas> {
 public:
  // Takes its time: the library is large. The name is that of CuBlas::open.
  static Result<std::shared_ptr<CudaBlas>> open(std::shared_ptr<CudaDevice> device, const std::string& name);
  CudaBlas(std::shared_ptr<CudaDevice> device, std::shared_ptr<CuBlas> blas, std::shared_ptr<CudaMemory> workspace)
      : device_(std::move(device)), blas_(std::move(blas)), workspace_(std::move(workspace)) {}
  ~CudaBlas();
  CudaBlas(const CudaBlas&) = delete;
  CudaBlas& operator=(const CudaBlas&) = delete;

  // Enqueues a product, or records it where a graph is being recorded, which then keeps what it uses.
  Status multiply(const BlasProduct& product);

  const std::shared_ptr<CudaDevice>& device() const { return device_; }
  const CuBlas& library() const { return *blas_; }
  uint64_t bytes() const { return static_cast<uint64_t>(workspace_->bytes); }

 private:
  std::shared_ptr<CudaDevice> device_;
  std::shared_ptr<CuBlas> blas_;
  std::shared_ptr<CudaMemory> workspace_;
};

}  // namespace tsq
