#include "bindings/handles.h"

#include <iterator>
#include <string>
#include <utility>

#include "bindings/cuda_blas.h"
#include "bindings/cuda_rounding.h"
#include "bindings/environment.h"

namespace tsq {
namespace {

std::atomic<uint64_t> nextHandle{1};

const char* kindName(const NativeObject& object) {
  static constexpr const char* kNames[] = {"a packed weight",
                                           "a vector",
                                           "a mapped file",
                                           "an accumulator",
                                           "a program",
                                           "a cache",
                                           "a read probe",
                                           "a file of packed weights",
                                           "a CUDA device",
                                           "memory of a CUDA device",
                                           "a weight on a CUDA device",
                                           "a CUDA graph",
                                           "a Hessian on a CUDA device",
                                           "cuBLAS on a CUDA device",
                                           "an adapter"};
  static_assert(std::size(kNames) == std::variant_size_v<NativeObject>);
  return kNames[object.index()];
}

}  // namespace

std::shared_lock<std::shared_mutex> SharedAccumulator::lockFinished() {
  for (;;) {
    std::shared_lock shared(mutex);
    if (finished) return shared;
    shared.unlock();
    const std::unique_lock exclusive(mutex);
    if (!finished && accumulator.hessian) accumulator.hessian->finish();
    finished = true;
  }
}

void SharedAccumulator::fed() {
  finished = false;
  bytes = accumulator.values.size() * sizeof(double) + accumulator.samples.size() * sizeof(float) +
          (accumulator.hessian ? accumulator.hessian->bytes() : 0) +
          (accumulator.cross ? accumulator.cross->bytes() : 0);
}

uint64_t objectBytes(const NativeObject& object) {
  switch (object.index()) {
    case 0:
      return std::get<0>(object)->bytes();
    case 1:
      return std::get<1>(object)->size() * sizeof(float);
    case 3:
      return std::get<3>(object)->bytes;
    case 4:
      return std::get<4>(object)->bytes;
    case 5:
      return std::get<5>(object)->bytes();
    case 6:
      return std::get<6>(object)->size();
    case 9:
      return static_cast<uint64_t>(std::get<9>(object)->bytes);
    case 10:
      return std::get<10>(object)->bytes();
    case 12:
      return std::get<12>(object)->bytes();
    case 13:
      return std::get<13>(object)->bytes();
    case 14:
      return std::get<14>(object)->bytes();
    default:
      return 0;
  }
}

uint64_t HandleTable::add(NativeObject object) {
  const uint64_t handle = nextHandle.fetch_add(1, std::memory_order_relaxed);
  const auto bytes = static_cast<int64_t>(objectBytes(object));
  entries_.emplace(handle, Entry{std::move(object), bytes});
  adjust(bytes);
  return handle;
}

void HandleTable::release(uint64_t handle) {
  const auto found = entries_.find(handle);
  if (found == entries_.end()) return;
  adjust(-found->second.accounted);
  entries_.erase(found);
}

void HandleTable::account(uint64_t handle) {
  const auto found = entries_.find(handle);
  if (found == entries_.end()) return;
  const auto bytes = static_cast<int64_t>(objectBytes(found->second.object));
  adjust(bytes - found->second.accounted);
  found->second.accounted = bytes;
}

const NativeObject& HandleTable::object(uint64_t handle) const {
  const auto found = entries_.find(handle);
  if (found == entries_.end())
    refuse(Code::kOption,
           "handle " + std::to_string(handle) +
               " is not a live native object of this thread: it was released, or was made in another thread");
  return found->second.object;
}

void HandleTable::refuseKind(uint64_t handle, const NativeObject& found, const NativeObject& expected) {
  refuse(Code::kOption,
         "handle " + std::to_string(handle) + " is " + kindName(found) + ", expected " + kindName(expected));
}

void HandleTable::deferReports(bool defer) {
  if (defer) {
    ++deferrals_;
  } else if (deferrals_ > 0) {
    --deferrals_;
    adjust(0);
  }
}

void HandleTable::adjust(int64_t bytes) {
  unreported_ += bytes;
  if (deferrals_ > 0 || unreported_ == 0) return;
  Napi::MemoryManagement::AdjustExternalMemory(env_, unreported_);
  unreported_ = 0;
}

}  // namespace tsq
