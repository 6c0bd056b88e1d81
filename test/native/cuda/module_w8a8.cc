// W8A8 through the module's table: what it refuses, and a whole product on the emulated devices.
#include <dlfcn.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "check.h"
#include "cuda/module/arguments_w8a8.h"
#include "w8a8_data.h"

namespace {

using namespace tsq::cuda::module;  // NOLINT
using w8a8_test::Case;
using w8a8_test::Data;
using w8a8_test::Draw;
using w8a8_test::Quantized;

struct Reason {
  char text[512] = "";
  operator TsqCudaText() { return {text, sizeof(text)}; }
  bool says(const char* words) const { return std::string(text).find(words) != std::string::npos; }
};

alignas(16) char memory[64];

template <typename Call>
using Change = std::function<void(Call&)>;

// The call is fine as it is, and is refused with these words after each change.
template <typename Call>
void refuses(const Call& good, int (*check)(const Call&, TsqCudaText),
             const std::vector<std::pair<const char*, Change<Call>>>& changes) {
  Reason none;
  CHECK_MSG(check(good, none) == kTsqCudaOk, none.text);
  for (const auto& [words, change] : changes) {
    Call call = good;
    change(call);
    Reason reason;
    CHECK_MSG(check(call, reason) == kTsqCudaArgument && reason.says(words), std::string(words) + ": " + reason.text);
  }
}

}  // namespace

TEST(w8a8_arguments_are_checked_before_a_launch) {
  TsqCudaW8A8 gemm{};
  gemm.shape = {64, 128, kTsqCudaS8, 0};
  gemm.weights = gemm.scales = gemm.codes = gemm.activationScales = memory;
  gemm.y = gemm.counters = gemm.partials = memory;
  gemm.strideY = 64;
  gemm.m = 2;
  gemm.blocks = 3;
  refuses<TsqCudaW8A8>(gemm, checkGemm,
                       {{"0 tokens by 3 blocks", [](auto& g) { g.m = 0; }},
                        {"are not a grid", [](auto& g) { g.m = INT32_MAX; }},
                        {"type is 2, expected 0 (s8) or 1 (e4m3)", [](auto& g) { g.shape.type = 2; }},
                        {"sizes are positive", [](auto& g) { g.shape.n = 0; }},
                        {"sizes are positive", [](auto& g) { g.shape.k = -1; }},
                        {"sums of s8 fit int32 up to 131071", [](auto& g) { g.shape.k = 131072; }},
                        {"scales of blocks are for e4m3", [](auto& g) { g.shape.blockScales = 1; }},
                        {"the weight is null", [](auto& g) { g.weights = nullptr; }},
                        {"the quantized x at", [](auto& g) { g.codes = memory + 8; }},
                        {"the scales of x is null", [](auto& g) { g.activationScales = nullptr; }},
                        {"the sums is null", [](auto& g) { g.zeros = memory; }},
                        {"zero points are for s8",
                         [](auto& g) {
                           g.shape.type = kTsqCudaE4M3;
                           g.zeros = g.sums = memory;
                         }},
                        {"with zero points fit int32 up to 65536",
                         [](auto& g) {
                           g.shape.k = 65537;
                           g.zeros = g.sums = memory;
                         }},
                        {"y is null", [](auto& g) { g.y = nullptr; }},
                        {"rows of y lie 63 apart, expected 64 or more", [](auto& g) { g.strideY = 63; }}});
  TsqCudaW8A8Quantize quantize{};
  quantize.shape = {64, 128, kTsqCudaE4M3, 0};
  quantize.x = quantize.given = quantize.codes = quantize.scales = memory;
  quantize.strideX = 128;
  quantize.m = 2;
  refuses<TsqCudaW8A8Quantize>(quantize, checkQuantize,
                               {{"x is null", [](auto& q) { q.x = nullptr; }},
                                {"rows of x lie 127 apart", [](auto& q) { q.strideX = 127; }},
                                {"zero points are for s8", [](auto& q) { q.zeros = memory; }},
                                {"a given scale goes without", [](auto& q) { q.shape.blockScales = 1; }},
                                {"a given scale goes without",
                                 [](auto& q) {
                                   q.shape.type = kTsqCudaS8;
                                   q.zeros = memory;
                                 }},
                                {"is not aligned to 4 bytes", [](auto& q) { q.given = memory + 2; }}});
  TsqCudaW8A8Pack pack{};
  pack.shape = {64, 128, kTsqCudaE4M3, 1};
  pack.codes = pack.scales = memory;
  pack.weights = pack.packedScales = memory;
  refuses<TsqCudaW8A8Pack>(pack, checkPack,
                           {{"codes are unsigned, which is for s8", [](auto& p) { p.isUnsigned = 1; }},
                            {"sums of codes are for s8", [](auto& p) { p.sums = memory; }},
                            {"scaleType is 3", [](auto& p) { p.scaleType = 3; }},
                            {"the codes is null", [](auto& p) { p.codes = nullptr; }},
                            {"the packed weight at", [](auto& p) { p.weights = memory + 8; }},
                            {"the scales at", [](auto& p) { p.scales = memory + 2; }}});
  Reason reason;
  CHECK(checkCapability({64, 128, kTsqCudaE4M3, 0}, 86, reason) == kTsqCudaDevice);
  CHECK_MSG(reason.says("8.9 or later, and this one has 8.6"), reason.text);
  CHECK(checkCapability({64, 128, kTsqCudaE4M3, 0}, 89, reason) == kTsqCudaOk);
  CHECK(checkCapability({64, 128, kTsqCudaS8, 0}, 80, reason) == kTsqCudaOk);
}

#ifdef TSQ_CUDA_EMULATED
namespace {

const TsqCuda* emulated() {
  static void* library = dlopen(TSQ_CUDA_EMULATED, RTLD_NOW | RTLD_LOCAL);
  if (!CHECK_MSG(library != nullptr, library != nullptr ? "" : dlerror())) return nullptr;
  const auto entry = reinterpret_cast<TsqCudaEntry>(dlsym(library, "tsqCuda"));
  return CHECK(entry != nullptr) ? entry() : nullptr;
}

// Memory of the current device, in the order of one stream.
class Memory {
 public:
  Memory(const TsqCuda* cuda, void* stream) : cuda_(cuda), stream_(stream) {}
  ~Memory() {
    Reason reason;
    for (void* one : all_) CHECK_MSG(cuda_->release(one, stream_, reason) == kTsqCudaOk, reason.text);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  void* room(int64_t bytes) {
    void* at = nullptr;
    Reason reason;
    CHECK_MSG(cuda_->allocate(std::max<int64_t>(bytes, 16), stream_, &at, reason) == kTsqCudaOk, reason.text);
    all_.push_back(at);
    return at;
  }
  template <typename T>
  void* put(const std::vector<T>& values) {
    void* at = room(static_cast<int64_t>(values.size() * sizeof(T)));
    Reason reason;
    CHECK_MSG(cuda_->copy(at, values.data(), static_cast<int64_t>(values.size() * sizeof(T)), stream_, reason) ==
                      kTsqCudaOk &&
                  cuda_->wait(stream_, reason) == kTsqCudaOk,  // the values may be gone after this
              reason.text);
    return at;
  }

 private:
  const TsqCuda* cuda_;
  void* stream_;
  std::vector<void*> all_;
};

void checkProduct(const TsqCuda* cuda, const Case& c, void* stream) {
  const Data d = w8a8_test::draw(c);
  Reason reason;
  const auto ok = [&](int outcome) { CHECK_MSG(outcome == kTsqCudaOk, describe(c) + ": " + reason.text); };
  Memory device(cuda, stream);
  const TsqCudaW8A8Shape shape{c.n, c.k, c.type == tsq::cuda::Type::kS8 ? kTsqCudaS8 : kTsqCudaE4M3, c.block ? 1 : 0};
  const int blocks = cuda->w8a8BlocksFor(&shape, 2);
  TsqCudaW8A8Sizes sizes{};
  ok(cuda->w8a8Sizes(&shape, c.m, blocks, &sizes, reason));
  TsqCudaW8A8Pack pack{shape,
                       device.put(d.weights),
                       c.flipped,
                       kTsqCudaF32,
                       device.put(d.scales),
                       c.one,
                       device.room(sizes.weightBytes),
                       device.room(sizes.scaleBytes),
                       c.shifted ? device.room(sizes.sumBytes) : nullptr};
  ok(cuda->w8a8Pack(&pack, stream, reason));
  TsqCudaW8A8Quantize quantize{shape,
                               device.put(d.x),
                               c.given ? device.put(std::vector<float>{d.given}) : nullptr,
                               device.room(sizes.activationBytes),
                               device.room(sizes.activationScaleBytes),
                               c.shifted ? device.room(sizes.zeroBytes) : nullptr,
                               c.k + c.padX,
                               c.m,
                               c.bf16};
  ok(cuda->w8a8Quantize(&quantize, stream, reason));
  TsqCudaW8A8 gemm{};
  gemm.shape = shape;
  gemm.weights = pack.weights;
  gemm.scales = pack.packedScales;
  gemm.sums = pack.sums;
  gemm.codes = quantize.codes;
  gemm.activationScales = quantize.scales;
  gemm.zeros = quantize.zeros;
  gemm.bias = c.bias ? device.put(d.bias) : nullptr;
  gemm.y = device.put(std::vector<uint16_t>(static_cast<size_t>(c.m * (c.n + c.padY))));
  gemm.counters = device.room(sizes.counterBytes);
  gemm.partials = device.room(sizes.partialBytes);
  gemm.strideY = c.n + c.padY;
  gemm.m = c.m;
  gemm.blocks = blocks;
  gemm.isBF16 = c.bf16;
  ok(cuda->clear(gemm.counters, sizes.counterBytes, stream, reason));
  ok(cuda->w8a8(&gemm, stream, reason));
  std::vector<uint16_t> y(static_cast<size_t>(c.m * (c.n + c.padY)));
  ok(cuda->copy(y.data(), gemm.y, static_cast<int64_t>(y.size() * 2), stream, reason));
  ok(cuda->wait(stream, reason));
  const double worst = worstError(c, d, w8a8_test::quantize(c, d), y);
  CHECK_MSG(worst <= 1, describe(c) + ": " + std::to_string(worst) + " of the bound");
}

}  // namespace

TEST(w8a8_module_multiplies) {
  const TsqCuda* cuda = emulated();
  if (cuda == nullptr) return;
  Reason reason;
  for (const int device : {0, 1}) {  // of compute capability 9.0 and 8.0
    CHECK_MSG(cuda->prepare(device, reason) == kTsqCudaOk, reason.text);
    static void* streams[2];  // open to the end: the emulated runtime keeps what a stream is made of
    CHECK_MSG(cuda->openStream(&streams[device], reason) == kTsqCudaOk, reason.text);
    Draw draw(50);
    for (int i = 0; i < 8; ++i) {
      checkProduct(cuda, randomCase(draw, i % 2 == 0 || device == 1 ? tsq::cuda::Type::kS8 : tsq::cuda::Type::kE4M3),
                   streams[device]);
    }
  }
  TsqCudaW8A8 gemm{};
  gemm.shape = {64, 128, kTsqCudaE4M3, 0};
  gemm.weights = gemm.scales = gemm.codes = gemm.activationScales = memory;
  gemm.y = gemm.counters = gemm.partials = memory;
  gemm.m = gemm.blocks = 1;
  CHECK(cuda->w8a8(&gemm, nullptr, reason) == kTsqCudaDevice);
  CHECK_MSG(reason.says("e4m3 needs a device of compute capability 8.9 or later, and this one has 8.0"), reason.text);
  CHECK(cuda->use(0, reason) == kTsqCudaOk);
}
#endif
