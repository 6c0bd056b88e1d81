// W8A8 on a real device: the cases of the emulation's tests, sizes of real models, and what only a device can show.
#include "product8.h"

using namespace w8a8_test;  // NOLINT
using bench::Stream;

namespace {

// The types that the device multiplies; the other is refused, which is checked, and said.
std::vector<Type> types() {
  const TsqCudaDevice& device = module().device();
  if (device.major * 10 + device.minor >= 89) return {Type::kS8, Type::kE4M3};
  Case c;
  c.type = Type::kE4M3;
  const Stream stream;
  Product product(c, draw(c));
  CHECK(product.launch(stream) == kTsqCudaDevice);
  std::printf("  not run: e4m3, which compute capability %d.%d does not multiply\n", device.major, device.minor);
  return {Type::kS8};
}

void verify(const Case& c) {
  const Stream stream;
  const Data d = draw(c);
  Product(c, d, c.blocks).verify(d, stream);
}

Case sized(Type type, int m, int64_t n, int64_t k) {
  Case c;
  c.type = type;
  c.m = m;
  c.n = n;
  c.k = k;
  c.block = type == Type::kE4M3 && m % 2 == 0;
  c.shifted = type == Type::kS8 && m % 2 == 0;
  c.bf16 = m % 3 == 0;
  c.seed = static_cast<unsigned>(m);
  return c;
}

}  // namespace

// The smallest set that has every kernel: compute-sanitizer is slow.
TEST(device_reduced_set_of_w8a8) {
  for (const Type type : types()) {
    for (const int m : {1, 2, 9, 17, 32, 33, 64, 100, 129}) {
      Case c = sized(type, m, 200, 330);
      c.bias = true;
      c.padX = 2;
      c.padY = 1;
      c.blocks = 5;
      verify(c);
    }
  }
}

TEST(device_random_shapes_of_w8a8) {
  Draw draw(60);
  const std::vector<Type> all = types();
  for (int i = 0; i < 300; ++i) verify(randomCase(draw, all[static_cast<size_t>(i) % all.size()]));
}

TEST(device_wide_random_shapes_of_w8a8) {
  Draw draw(61);
  const std::vector<Type> all = types();
  for (int i = 0; i < 200; ++i) verify(randomWideCase(draw, all[static_cast<size_t>(i) % all.size()]));
}

TEST(device_model_sizes_of_w8a8) {
  for (const Type type : types()) {
    for (const int m : {1, 8, 16, 24, 32, 64, 250, 1000}) {
      for (const auto& [n, k] : {std::pair<int64_t, int64_t>{4096, 4096}, {14336, 4096}, {4096, 14336}}) {
        const Case c = sized(type, m, n, k);
        const Stream stream;
        const Data d = draw(c);
        // About twenty million multiply-adds in float64 a case; an odd step meets all columns and rows in turn.
        Product(c, d).verify(d, stream, int64_t{m} * n * k / 20000000 | 1);
      }
    }
  }
}

// A hundred runs each, codes of activations included; in every other one a second stream keeps the device busy.
TEST(device_runs_are_identical_in_w8a8) {
  for (const Type type : types()) {
    for (const int m : {1, 8, 16, 24, 32, 64, 300}) {
      const Case c = sized(type, m, 1152, 7168);  // few columns, much to add up
      const Data d = draw(c);
      Product product(c, d), neighbour(c, d);
      const Stream stream, other;
      std::vector<uint16_t> first;
      int differing = 0;
      for (int run = 0; run < 100; ++run) {
        for (int i = 0; run % 2 == 1 && i < 4; ++i) CHECK(neighbour.launch(other) == kTsqCudaOk);
        if (!CHECK_MSG(product.launch(stream) == kTsqCudaOk, module().reason().text)) return;
        const std::vector<uint16_t> y = product.result();
        if (run == 0) first = y;
        differing += y != first;
      }
      CHECK_MSG(differing == 0, describe(c) + ": " + std::to_string(differing) + " of 100 runs differ");
      CHECK_MSG(neighbour.result() == first, describe(c) + ": on another stream");
    }
  }
}

// A token's result does not depend on the values of others; of s8, not on their number either, nor on the kernel.
TEST(device_tokens_are_independent_in_w8a8) {
  for (const Type type : types()) {
    const bool s8 = type == Type::kS8;
    for (const auto& [few, many] : {std::pair<int, int>{1, 8}, {9, 16}, {s8 ? 3 : 65, 128}, {s8 ? 20 : 129, 256}}) {
      Case all = sized(type, many, 1000, 3000);
      Case some = all;
      some.m = few;
      const Data d = draw(all);
      Data part = d;
      part.x.resize(static_cast<size_t>(few * all.k));
      const Stream stream;
      const int blocks = 3;  // fewer than columns: the split is the same
      Product a(all, d, blocks), b(some, part, blocks);
      CHECK(a.launch(stream) == kTsqCudaOk && b.launch(stream) == kTsqCudaOk);
      const std::vector<uint16_t> want = a.result(), got = b.result();
      CHECK_MSG(std::equal(got.begin(), got.end(), want.begin()), describe(some) + " beside " + std::to_string(many));
    }
  }
}

TEST(device_graphs_replay_launches_of_w8a8) {
  for (const int m : {1, 40}) {
    const Case c = sized(Type::kS8, m, 2048, 2048);
    const Data d = draw(c);
    Product product(c, d);
    const Stream stream;
    CHECK(product.launch(stream) == kTsqCudaOk);
    const std::vector<uint16_t> want = product.result();
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    bench::check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing");
    for (int i = 0; i < 3; ++i) CHECK_MSG(product.launch(stream) == kTsqCudaOk, module().reason().text);
    bench::check(cudaStreamEndCapture(stream, &graph), "capturing");
    bench::check(cudaGraphInstantiate(&exec, graph, 0), "making a graph");
    for (int i = 0; i < 5; ++i) bench::check(cudaGraphLaunch(exec, stream), "running a graph");
    CHECK(product.result() == want);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
  }
}
