// A file of packed weights (kernels/pack_format.h), read and written by all threads of the pool.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/pack_format.h"
#include "kernels/packed_weight.h"
#include "runtime/file.h"
#include "runtime/status.h"
#include "runtime/thread_pool.h"

namespace tsq {

// An open file whose header and table have been checked against each other and against the size of the file, so that
// reading never asks for more memory than the file has bytes. Contents are checked as they are read; the file may be
// replaced, changed or cut off meanwhile by others.
class PackFile {
 public:
  // kIo, kFormat (made by another version, or something else altogether), kCorrupt.
  static Result<PackFile> open(const char* path);

  const std::string& meta() const { return meta_; }
  int64_t floats() const { return floats_; }
  const std::vector<packfile::Entry>& weights() const { return entries_; }
  // Memory that a weight takes.
  uint64_t bytes(int64_t weight) const;

  // kCorrupt where the contents do not match their checksums. `out` has room for floats().
  Status readFloats(float* out) const;
  // Weights [first, first + count), in one block of memory, so that small ones lie on large pages too: it is freed
  // with the last of them.
  Result<std::vector<PackedWeight>> readWeights(int64_t first, int64_t count, AbortFlag abort) const;

 private:
  Status readTable(const packfile::Header& header);
  // Computes where every weight lies; together they must end where the file does.
  Status place(const packfile::Header& header);

  File file_;
  std::string meta_;
  int64_t floats_ = 0;
  uint64_t floatsChecksum_ = 0;
  std::vector<packfile::Entry> entries_;
  std::vector<uint64_t> offsets_;  // where what precedes a weight ends
};

// Writes a file that must not exist yet. What a failure leaves behind is the caller's to remove. Nothing is forced to
// the disk: after a crash the checksums tell.
Status writePackFile(const char* path, const std::string& meta, std::span<const float> floats,
                     std::span<const PackedWeight* const> weights, AbortFlag abort);

}  // namespace tsq
