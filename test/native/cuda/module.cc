// The module as the addon uses it: opened, asked, and refusing what it should, with and without a device.
#include "cuda/module/module.h"

#include <string>
#include <utility>

#include "check.h"
#include "cuda/module/arguments.h"

namespace {

using namespace tsq::cuda::module;  // NOLINT

struct Reason {
  char text[512] = "";
  operator TsqCudaText() { return {text, sizeof(text)}; }
  bool says(const char* words) const { return std::string(text).find(words) != std::string::npos; }
};

alignas(16) char memory[64];

TsqCudaW4A16 example() {
  TsqCudaW4A16 gemm{};
  gemm.shape = {64, 128, 64};
  gemm.weights = gemm.scales = gemm.x = memory;
  gemm.y = gemm.counters = gemm.partials = memory;
  gemm.strideX = 128;
  gemm.strideY = 64;
  gemm.m = 2;
  gemm.blocks = 3;
  return gemm;
}

void refuses(const TsqCudaW4A16& gemm, const char* words) {
  Reason reason;
  CHECK(checkGemm(gemm, reason) == kTsqCudaArgument);
  CHECK_MSG(reason.says(words), reason.text);
}

}  // namespace

TEST(cuda_arguments_are_checked_before_a_launch) {
  Reason reason;
  CHECK_MSG(checkGemm(example(), reason) == kTsqCudaOk, reason.text);
  TsqCudaW4A16 gemm = example();
  gemm.m = 0;
  refuses(gemm, "0 tokens by 3 blocks");
  gemm = example();
  gemm.blocks = 1 << 30;
  gemm.m = 1 << 20;
  refuses(gemm, "are not a grid");
  for (const int64_t group : {0, -1, 48, 100}) {
    gemm = example();
    gemm.shape.group = group;
    refuses(gemm, "groups are 16, 32, a multiple of 64, or k and more");
  }
  gemm = example();
  for (const auto& [n, k] :
       {std::pair<int64_t, int64_t>{int64_t{1} << 40, 64}, {1 << 20, 1 << 26}, {0, 64}, {64, -1}}) {
    gemm = example();
    gemm.shape = {n, k, 64};
    refuses(gemm, "below 2^45");
  }
  gemm = example();
  gemm.shape = {1, int64_t{1} << 31, 64};
  gemm.strideX = gemm.shape.k;
  CHECK_MSG(checkGemm(gemm, reason) == kTsqCudaOk, reason.text);
  for (const int bits : {0, 2, 5, 16}) {  // weights of 16 bits have one group
    gemm = example();
    gemm.shape.bits = bits;
    refuses(gemm, "or 16 in one group");
  }
  gemm = example();
  gemm.scales = nullptr;
  refuses(gemm, "the scales is null");
  gemm.shape = {64, 128, 128, 16};
  CHECK_MSG(checkGemm(gemm, reason) == kTsqCudaOk, reason.text);
  gemm = example();
  gemm.x = nullptr;
  refuses(gemm, "x is null");
  gemm = example();
  gemm.weights = memory + 8;
  refuses(gemm, "is not aligned to 16 bytes");
  gemm = example();
  gemm.strideX = 127;
  refuses(gemm, "rows of x lie 127 apart");
  gemm = example();
  gemm.shape.book = 1;
  refuses(gemm, "the code book of the weight is not given");
  gemm.book.scale = 1;
  CHECK_MSG(checkGemm(gemm, reason) == kTsqCudaOk, reason.text);
  gemm.zeros = memory;
  refuses(gemm, "a weight with a code book has no zero points");
  gemm = example();
  gemm.shape = {64, 160, 64, 4, 1};
  refuses(gemm, "expected blocks that divide k");
  gemm.shape = {64, 128, 64, 8, 1};
  refuses(gemm, "bits are 4 (with a code book too)");
  float values[16] = {1};
  CHECK(checkBook(values, reason) == kTsqCudaOk);
  values[3] = NAN;
  CHECK(checkBook(values, reason) == kTsqCudaArgument && reason.says("value 3 of the code book is nan"));
  values[0] = values[3] = 0;
  CHECK(checkBook(values, reason) == kTsqCudaArgument && reason.says("expected 2^-60 to 2^60"));
  TsqCudaPack pack{{64, 128, 64}, memory, nullptr, memory};
  CHECK(checkPack(pack, 1, reason) == kTsqCudaOk);
  pack.packed = memory + 4;
  CHECK(checkPack(pack, 1, reason) == kTsqCudaArgument);
}

#ifdef TSQ_CUDA_MODULE
#include <dlfcn.h>

namespace {
const TsqCuda* open() {
  void* library = dlopen(TSQ_CUDA_MODULE, RTLD_NOW | RTLD_LOCAL);
  if (!CHECK_MSG(library != nullptr, library != nullptr ? "" : dlerror())) return nullptr;
  const auto entry = reinterpret_cast<TsqCudaEntry>(dlsym(library, "tsqCuda"));
  return CHECK(entry != nullptr) ? entry() : nullptr;
}
}  // namespace

TEST(cuda_module_answers_with_or_without_a_device) {
  const TsqCuda* cuda = open();
  if (!CHECK(cuda != nullptr && cuda->version == kTsqCudaVersion)) return;
  Reason reason;
  const int devices = cuda->devices(reason);
  CHECK_MSG((devices == 0) == (reason.text[0] != '\0'), reason.text);
  TsqCudaDevice device;
  Reason none;
  CHECK(cuda->device(devices, &device, none) == kTsqCudaDevice && none.text[0] != '\0');
  CHECK(cuda->prepare(devices, none) == kTsqCudaDevice);
  CHECK(cuda->use(devices, none) == kTsqCudaDevice);
  for (int i = 0; i < devices; ++i) {
    CHECK_MSG(cuda->device(i, &device, reason) == kTsqCudaOk && device.multiprocessors > 0, reason.text);
    CHECK_MSG(cuda->prepare(i, reason) == kTsqCudaOk, reason.text);
  }
  if (devices > 0) return;
  const TsqCudaW4A16 gemm = example();
  CHECK(cuda->w4a16(&gemm, nullptr, reason) == kTsqCudaDevice);
  CHECK_MSG(reason.says("asking for the current CUDA device: ") || reason.says("starting a kernel: "), reason.text);
}

TEST(cuda_module_tells_sizes) {
  const TsqCuda* cuda = open();
  if (cuda == nullptr) return;
  Reason reason;
  const TsqCudaShape shape{8192, 8192, 128};
  const int blocks = cuda->blocksFor(&shape, 132);
  CHECK(blocks == 132);
  TsqCudaSizes sizes{};
  CHECK(cuda->sizes(&shape, 1, blocks, &sizes, reason) == kTsqCudaOk);
  CHECK(sizes.weightBytes == 8192 * 8192 / 2 && sizes.scaleBytes == 8192 * 64 * 2);
  // Two partial results of 8 tokens by 128 outputs a block; a counter for every 128 outputs.
  CHECK(sizes.counterBytes == 64 * 4 && sizes.partialBytes == 132 * 2 * 8 * 128 * 4);
  CHECK(cuda->sizes(&shape, 0, blocks, &sizes, reason) == kTsqCudaArgument);
  const TsqCudaShape bytes{8192, 8192, 128, 8}, plain{8192, 8192, 8192, 16};
  CHECK(cuda->sizes(&bytes, 1, blocks, &sizes, reason) == kTsqCudaOk);
  CHECK(sizes.weightBytes == 8192 * 8192 && sizes.scaleBytes == 8192 * 64 * 2);
  CHECK(cuda->sizes(&plain, 1, blocks, &sizes, reason) == kTsqCudaOk);
  CHECK(sizes.weightBytes == 8192 * 8192 * 2 && sizes.scaleBytes == 0);
  float values[16] = {0, 1, 2, 3, 4, 5, 6, 7, -1, -2, -3, -4, -5, -6, -7, -8};
  TsqCudaBook book{};
  CHECK(cuda->makeBook(values, 0, &book, reason) == kTsqCudaOk && book.scale > 0);
  values[5] = INFINITY;
  CHECK(cuda->makeBook(values, 1, &book, reason) == kTsqCudaArgument && reason.says("value 5"));
  const TsqCudaShape bad{8192, 8192, 100};
  CHECK(cuda->sizes(&bad, 1, blocks, &sizes, reason) == kTsqCudaArgument);
}
#endif
