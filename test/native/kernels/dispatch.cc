// Choice of the table, and agreement of the tables among each other.
#include "support.h"

using namespace support;  // NOLINT: a test

TEST(dispatch_names) {
  const std::vector<const KernelTable*> all = tables();
  CHECK(!all.empty() && std::strcmp(all[0]->name, "reference") == 0);
  for (const KernelTable* table : all) {
    CHECK(tsq::selectKernels(table->name).ok());
    CHECK(&tsq::kernels() == table);
  }
  const tsq::Status refused = tsq::selectKernels("sse9");
  CHECK(refused.code() == tsq::Code::kUnsupported);
  CHECK(refused.message().find("sse9") != std::string::npos &&
        refused.message().find("reference") != std::string::npos);
  CHECK(&tsq::kernels() == all.back());  // a refused choice changes nothing
  CHECK(tsq::selectKernels(nullptr).ok());
  const char* wanted = std::getenv("TSQ_CPU");
  if (wanted == nullptr) CHECK(&tsq::kernels() == all.back());
}

// The fast tables share their algorithms, lane count and order of additions: not one bit may differ.
TEST(dispatch_fast_tables_agree_bit_by_bit) {
  const std::vector<const KernelTable*> all = tables();
  if (all.size() < 3) return;  // one fast instruction set here: nothing to compare
  Random random(21);
  for (int64_t m : {1, 2, 3, 4, 5, 6, 7, 8, 9, 30}) {
    for (int bits : {2, 3, 4, 8}) {
      for (bool zeros : {false, true}) {
        const int64_t n = 70, k = 523;
        const Weight w = randomWeight(random, n, k, 100, {.bits = bits, .zeros = zeros});
        const tsq::Result<tsq::PackedWeight> packed = tsq::packCodes(w.source());
        const std::vector<float> x = random.normals(m * k);
        std::vector<float> expected;
        forEachTable([&](const KernelTable& table) {
          // Pairs and digits are summed in other orders; see dots.cc.
          if (std::strcmp(table.name, "reference") == 0 || table.pairs != nullptr || table.digits != nullptr) return;
          std::vector<float> y(static_cast<size_t>(m * n));
          CHECK(tsq::matmul({&packed.value(), x.data(), Dtype::kF32, k, m, y.data(), Dtype::kF32, n, nullptr}).ok());
          if (expected.empty()) expected = y;
          CHECK(sameBytes(expected, y));
        });
      }
    }
  }
  const std::vector<float> a = random.normals(5001), b = random.normals(5001);
  const KernelTable& base = *all[1];
  for (size_t i = 2; i < all.size(); ++i) {
    CHECK(base.dot(a.data(), b.data(), 5001) == all[i]->dot(a.data(), b.data(), 5001));
    std::vector<float> one(5001), other(5001);
    CHECK(base.expSum(a.data(), 0.5f, one.data(), 5001) == all[i]->expSum(a.data(), 0.5f, other.data(), 5001));
    CHECK(sameBytes(one, other));
    base.silu(a.data(), b.data(), one.data(), 5001);
    all[i]->silu(a.data(), b.data(), other.data(), 5001);
    CHECK(sameBytes(one, other));
    base.rmsnorm(a.data(), b.data(), one.data(), 5001, 1e-6f, 1);
    all[i]->rmsnorm(a.data(), b.data(), other.data(), 5001, 1e-6f, 1);
    CHECK(sameBytes(one, other));
    base.layernorm(a.data(), b.data(), a.data(), one.data(), 5001, 1e-6f);
    all[i]->layernorm(a.data(), b.data(), a.data(), other.data(), 5001, 1e-6f);
    CHECK(sameBytes(one, other));
    base.geluErf(a.data(), b.data(), one.data(), 5001);
    all[i]->geluErf(a.data(), b.data(), other.data(), 5001);
    CHECK(sameBytes(one, other));
  }
}
