#include "bindings/cuda_blas.h"

#include <algorithm>

namespace tsq {

Result<std::shared_ptr<CudaBlas>> CudaBlas::open(std::shared_ptr<CudaDevice> device, const std::string& name) {
  TSQ_RETURN_IF_ERROR(device->use());
  Result<std::shared_ptr<CuBlas>> blas = CuBlas::open(name);
  if (!blas.ok()) return blas.status();
  // Small devices have small products.
  const int64_t bytes = std::min(CuBlas::kWorkspaceBytes, device->memoryBytes() / 1024);
  auto workspace = device->allocate(bytes);
  TSQ_RETURN_IF_ERROR(workspace.status());
  blas.value()->useWorkspace(workspace.value()->data, bytes);
  return std::make_shared<CudaBlas>(std::move(device), std::move(blas.value()), std::move(workspace.value()));
}

CudaBlas::~CudaBlas() {
  (void)device_->use();  // as the library takes the current one
  blas_ = nullptr;
}

Status CudaBlas::multiply(const BlasProduct& product) {
  const auto& [w, x, y, isBF16, m, n, k] = product;
  TSQ_RETURN_IF_ERROR(device_->use());
  TSQ_RETURN_IF_ERROR(blas_->multiply(isBF16 ? BlasType::kBF16 : BlasType::kF16, w->data, x->data, y->data, m, n, k,
                                      device_->stream()));
  device_->keepRecorded({shared_from_this(), w, x, y});
  return {};
}

}  // namespace tsq
