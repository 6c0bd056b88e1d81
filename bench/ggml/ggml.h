// ggml's CPU backend through its C functions (ggml.h, ggml-backend.h of ggml-org/ggml), found by name in its libraries:
// those of llama.cpp, or of node-llama-cpp. Nothing of it is compiled in.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/status.h"

namespace bench {

// Products of m rows with copies of one weight, in a kind of memory. The backend packs weights as that kind wants it.
class GgmlProducts {
 public:
  virtual ~GgmlProducts() = default;
  // The next `perRound` copies, one product each. Waits.
  virtual void round() = 0;
  // Of the first copy, [m][n].
  virtual std::vector<float> result() = 0;
  int perRound = 0;
};

struct GgmlWeight {
  int type;  // of ggml
  int64_t n, k;
  const void* blocks;
  int64_t bytes;
  int64_t coldBytes;  // of all copies together
};

class Ggml {
 public:
  // The folder with libggml-base.so and libggml-cpu-*.so, and which of the latter: "sapphirerapids", "zen4", …
  static tsq::Result<std::unique_ptr<Ggml>> open(const std::string& folder, const std::string& cpu);
  virtual ~Ggml() = default;
  virtual void setThreads(int threads) = 0;
  // Kinds of memory: "AMX", "CPU_REPACK" …, and "CPU", which leaves blocks as they are.
  virtual std::vector<std::string> memories() const = 0;
  // Null where the backend has no product for this type in this kind of memory.
  virtual std::unique_ptr<GgmlProducts> products(const std::string& memory, const GgmlWeight& weight,
                                                 const std::vector<float>& x, int64_t m, int perRound) = 0;
};

}  // namespace bench
