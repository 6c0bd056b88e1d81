// Native objects that JavaScript holds by number.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>
#include <variant>

#include "bindings/cuda_device.h"
#include "bindings/cuda_graph.h"
#include "bindings/napi_setup.h"
#include "kernels/pack_file.h"
#include "kernels/packed_weight.h"
#include "program/program.h"
#include "runtime/memory.h"

namespace tsq {

class CudaHessian;
class CudaBlas;

// An accumulator and what guards it: calls in several threads may feed and read the same one.
struct SharedAccumulator {
  Accumulator accumulator;
  std::shared_mutex mutex;
  bool finished = true;            // Hessian: both triangles are valid. Guarded by mutex
  std::atomic<uint64_t> bytes{0};  // what it holds, for any thread to read

  // Takes the mutex shared, with the Hessian finished; other kinds just take it.
  std::shared_lock<std::shared_mutex> lockFinished();
  // After rows were added, with the mutex held.
  void fed();
};

// A program whose size may be read while it runs.
struct SharedProgram {
  std::unique_ptr<Program> program;
  std::mutex mutex;  // one step at a time
  std::atomic<uint64_t> bytes{0};
};

using NativeObject =
    std::variant<std::shared_ptr<const PackedWeight>, std::shared_ptr<const Vector>, std::shared_ptr<const MappedFile>,
                 std::shared_ptr<SharedAccumulator>, std::shared_ptr<SharedProgram>, std::shared_ptr<KvCache>,
                 std::shared_ptr<const AlignedBuffer>, std::shared_ptr<const PackFile>, std::shared_ptr<CudaDevice>,
                 std::shared_ptr<CudaMemory>, std::shared_ptr<const CudaWeight>, std::shared_ptr<CudaGraph>,
                 std::shared_ptr<CudaHessian>, std::shared_ptr<CudaBlas>, std::shared_ptr<const Adapter>>;

// Live objects of one environment. Used on its JavaScript thread only; running work holds its own shared_ptr.
// Numbers are unique in the process and never used again, so a handle of another environment is refused like a released
// one.
class HandleTable {
 public:
  explicit HandleTable(Napi::Env env) : env_(env) {}

  // Reports the object's bytes to the garbage collector.
  uint64_t add(NativeObject object);
  // No error where `handle` is not live.
  void release(uint64_t handle);
  // Reports again what an object holds, where it has grown.
  void account(uint64_t handle);
  // Between true and false, which may be nested, nothing is reported; then all of it at once.
  void deferReports(bool defer);

  // kOption (Refusal) where `handle` is not a live object; of another kind likewise, naming both.
  const NativeObject& object(uint64_t handle) const;
  template <typename T>
  const std::shared_ptr<T>& get(uint64_t handle) const {
    const NativeObject& found = object(handle);
    if (const auto* pointer = std::get_if<std::shared_ptr<T>>(&found)) return *pointer;
    refuseKind(handle, found, NativeObject(std::shared_ptr<T>()));
  }
  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    NativeObject object;
    int64_t accounted;
  };
  [[noreturn]] static void refuseKind(uint64_t handle, const NativeObject& found, const NativeObject& expected);
  void adjust(int64_t bytes);

  Napi::Env env_;
  std::unordered_map<uint64_t, Entry> entries_;
  int deferrals_ = 0;
  int64_t unreported_ = 0;
};

// Native bytes that an object holds; 0 for files, whose pages are the system's.
uint64_t objectBytes(const NativeObject& object);

}  // namespace tsq
