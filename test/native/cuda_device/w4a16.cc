// W4A16 on a real device: the cases of the emulation's tests, sizes of real models, and what only a device can show.
#include "product.h"

using namespace w4a16_test;  // NOLINT
using bench::Stream;

static void verify(const Case& c) {
  const Stream stream;
  const Data d = draw(c);
  Product(c, d).verify(d, stream);
}

static Case sized(Type type, int m, int64_t n, int64_t k, int64_t group) {
  Case c;
  c.type = type;
  c.m = m;
  c.shape = {n, k, group};
  c.zeros = m % 2 == 0;
  c.wide = true;
  c.seed = static_cast<unsigned>(m);
  return c;
}

static int blocksOf(const Case& c) {
  const TsqCudaShape shape{c.shape.n, c.shape.k, c.shape.group, c.shape.bits, c.shape.book};
  return module()->blocksFor(&shape, module().device().multiprocessors);
}

// The smallest set that has every kernel: compute-sanitizer is slow.
TEST(device_reduced_set) {
  for (const Type type : {Type::kF16, Type::kBF16}) {
    for (const int m : {1, 9, 17, 32, 40, 70}) {
      for (const int64_t group : {16, 32, 128}) {
        Case c = sized(type, m, 200, 330, group);
        c.bias = true;
        c.padX = 2;
        c.padY = 1;
        c.blocks = 5;
        verify(c);
        c.shape.bits = 8;
        verify(c);
        Case book = c;
        book.shape = {200, 2 * group, group, 4, true};
        book.zeros = false;
        verify(book);
        if (group < 128) continue;
        c.shape.bits = 16;
        c.shape.group = c.shape.k;
        c.zeros = false;
        verify(c);
      }
    }
  }
}

TEST(device_every_group_size_and_variant) {
  for (const int bits : {4, 8, 16}) {
    for (const Case& c : everyGroupSizeAndVariant(bits)) verify(c);
  }
}

// The module takes code books in groups that divide k.
static void divide(Case& c, Draw& draw) {
  if (!c.shape.book) return;
  c.shape.k = c.shape.group = std::min(c.shape.group, int64_t{256});
  c.shape.k *= 1 + draw.below(4);
}

TEST(device_books) {
  Draw draw(27);
  for (int i = 0; i < 200; ++i) {
    Case c = randomBook(draw);
    divide(c, draw);
    verify(c);
  }
}

TEST(device_random_shapes) {
  Draw draw(20);
  for (int i = 0; i < 300; ++i) verify(randomCase(draw));
}

TEST(device_random_widths) {
  Draw draw(25);
  for (int i = 0; i < 300; ++i) verify(randomWidth(draw));
}

TEST(device_wide_random_shapes) {
  Draw draw(30);
  for (int i = 0; i < 400; ++i) {
    Case c = randomWideCase(draw);
    divide(c, draw);
    verify(c);
  }
}

TEST(device_model_sizes) {
  for (const Type type : {Type::kF16, Type::kBF16}) {
    for (const int m : {1, 4, 8, 16, 24, 32, 64, 250, 1000}) {
      for (const auto& [n, k] : {std::pair<int64_t, int64_t>{4096, 4096}, {14336, 4096}, {4096, 14336}}) {
        const Case c = sized(type, m, n, k, m % 3 == 0 ? 64 : 128);
        const Stream stream;
        const Data d = draw(c);
        // About twenty million multiply-adds in float64 a case; an odd step meets all columns and rows in turn.
        Product(c, d, blocksOf(c)).verify(d, stream, int64_t{m} * n * k / 20000000 | 1);
      }
    }
  }
}

// FNV-1a, 64 bits (Fowler, Noll, Vo).
static uint64_t hash(const std::vector<uint16_t>& values) {
  uint64_t h = 0xcbf29ce484222325u;
  for (const uint16_t value : values) {
    for (const int byte : {value & 0xff, value >> 8}) h = (h ^ static_cast<uint64_t>(byte)) * 0x100000001b3u;
  }
  return h;
}

// A hundred runs each; in every other one a second stream keeps the device busy, so that blocks finish in other orders.
TEST(device_runs_are_identical) {
  for (const Type type : {Type::kF16, Type::kBF16}) {
    std::vector<Case> cases;
    for (const int m : {1, 8, 16, 24, 32, 64, 100}) cases.push_back(sized(type, m, 1152, 7168, 128));  // much to add up
    for (const int m : {8, 100}) {
      for (const Kind kind : {Kind::kBook4, Kind::kInt8, Kind::kFloat16}) {
        Case c = sized(type, m, 1152, 7168, kind == Kind::kFloat16 ? 7168 : 128);
        c.shape.bits = kind == Kind::kInt8 ? 8 : kind == Kind::kFloat16 ? 16 : 4;
        c.shape.book = kind == Kind::kBook4;
        c.zeros = false;
        cases.push_back(c);
      }
    }
    for (const Case& c : cases) {
      const Data d = draw(c);
      Product product(c, d, blocksOf(c)), neighbour(c, d, blocksOf(c));
      const Stream stream, other;
      uint64_t first = 0;
      int differing = 0;
      for (int run = 0; run < 100; ++run) {
        for (int i = 0; run % 2 == 1 && i < 4; ++i) CHECK(neighbour.launch(other) == kTsqCudaOk);
        if (!CHECK_MSG(product.launch(stream) == kTsqCudaOk, module().reason().text)) return;
        const uint64_t h = hash(product.result());
        if (run == 0) first = h;
        differing += h != first;
      }
      CHECK_MSG(differing == 0, describe(c) + ": " + std::to_string(differing) + " of 100 runs differ");
      CHECK_MSG(hash(neighbour.result()) == first, describe(c) + ": on another stream");
      std::printf("  %s: %016llx\n", describe(c).c_str(), static_cast<unsigned long long>(first));
    }
  }
}

// Within a kernel, a token's result does not depend on the tokens beside it: both of a pair take the same one.
TEST(device_tokens_are_independent) {
  for (const auto& [few, many] : {std::pair<int, int>{1, 8}, {9, 16}, {49, 64}}) {
    const Case all = sized(Type::kF16, many, 1000, 3000, 128);
    Case some = all;
    some.m = few;
    const Data d = draw(all);
    Data part = d;
    part.x.resize(static_cast<size_t>(few * all.shape.k));
    const Stream stream;
    Product a(all, d, blocksOf(all)), b(some, part, blocksOf(all));
    CHECK(a.launch(stream) == kTsqCudaOk && b.launch(stream) == kTsqCudaOk);
    const std::vector<uint16_t> want = a.result(), got = b.result();
    CHECK_MSG(std::equal(got.begin(), got.end(), want.begin()), describe(some) + " beside " + std::to_string(many));
  }
}

// With batchInvariant, of all numbers of tokens alike. Part of the stage `determinism`.
TEST(device_runs_are_identical_for_every_number_of_tokens) {
  for (const Type type : {Type::kF16, Type::kBF16}) {
    for (const bool book : {false, true}) {
      Case all = sized(type, 300, 1000, 3072, 128);
      all.shape.book = book;
      all.zeros = !book;
      const Data d = draw(all);
      std::vector<uint16_t> want;
      for (const int m : {300, 256, 129, 100, 64, 25, 24, 9, 8, 1}) {
        Case some = all;
        some.m = m;
        Data part = d;
        part.x.assign(d.x.end() - m * all.shape.k, d.x.end());
        const Stream stream;
        Product product(some, part, blocksOf(all));
        product.gemm.batchInvariant = 1;
        if (!CHECK_MSG(product.launch(stream) == kTsqCudaOk, module().reason().text)) return;
        const std::vector<uint16_t> got = product.result();
        if (want.empty()) want = got;
        CHECK_MSG(std::equal(got.begin(), got.end(), want.end() - m * all.shape.n),
                  describe(some) + ": the bits of 300 tokens");
      }
    }
  }
}

TEST(device_graphs_replay_launches) {
  for (const int m : {1, 40}) {
    const Case c = sized(Type::kBF16, m, 2048, 2048, 128);
    const Data d = draw(c);
    Product product(c, d, blocksOf(c));
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

// What is refused, or fails, leaves later launches working.
TEST(device_failures_do_not_last) {
  const Case c = sized(Type::kF16, 5, 300, 500, 128);
  const Data d = draw(c);
  Product product(c, d);
  const Stream stream;
  const TsqCudaW4A16 good = product.gemm;
  product.gemm.m = 0;
  CHECK(product.launch(stream) == kTsqCudaArgument);
  product.gemm = good;
  product.gemm.x = nullptr;
  CHECK(product.launch(stream) == kTsqCudaArgument);
  product.gemm = good;
  CHECK(module()->prepare(1 << 20, module().reason()) == kTsqCudaDevice);
  void* much = nullptr;
  CHECK(cudaMalloc(&much, size_t{1} << 50) == cudaErrorMemoryAllocation);
  cudaGetLastError();
  product.verify(d, stream);
}
