// Our W4A16 and W4A8 products beside ggml's, in one process, round by round in turn, with cold weights.
//
//   ggml_products FOLDER CPU K×N[,K×N…] M[,M…] [THREADS] [TYPE]
//
// FOLDER has libggml-base.so and libggml-cpu-CPU.so; TYPE is ggml's (q4_k, q4_0). Weights are random normal numbers
// that both sides round to their own type; ours in groups of 128, activations in bf16. Errors are against float64
// products with each side's own rounded weights.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <sstream>

#include "bench/ggml/ggml.h"
#include "gguf/codec.h"
#include "kernels/kernels.h"
#include "kernels/packed_weight.h"
#include "runtime/scalar.h"
#include "runtime/thread_pool.h"

namespace {

using bench::Ggml;
using tsq::Activations;

constexpr int64_t kGroup = 128, kColdBytes = int64_t{1} << 30;
constexpr double kSeconds = 4;  // of rounds for one m
constexpr int kLeastRounds = 7;

template <typename T>
T need(tsq::Result<T> result) {
  if (result.ok()) return std::move(result.value());
  std::fprintf(stderr, "ggml_products: %s\n", result.status().message().c_str());
  std::exit(1);
}
void need(const tsq::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "ggml_products: %s\n", status.message().c_str());
  std::exit(1);
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Weight {
  int64_t n, k;
  std::vector<uint8_t> codes;
  std::vector<float> scales, ours, theirs;  // scales of codes; values of either side
  std::vector<uint8_t> blocks;
  tsq::CodesSource source() const { return {codes.data(), n, k, 4, kGroup, scales.data(), nullptr, nullptr, nullptr}; }
};

Weight weightOf(int64_t n, int64_t k, tsq::gguf::Type type) {
  Weight w{n, k, {}, {}, {}, {}, {}};
  const int64_t groups = (k + kGroup - 1) / kGroup;
  std::vector<float> values(static_cast<size_t>(n * k));
  std::mt19937_64 engine(1);
  std::normal_distribution<float> normal(0, 1 / std::sqrt(static_cast<float>(k)));
  for (float& value : values) value = normal(engine);
  w.codes.resize(values.size());
  w.ours.resize(values.size());
  w.scales.resize(static_cast<size_t>(n * groups));
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t group = 0; group < groups; ++group) {
      const int64_t begin = row * k + group * kGroup, end = std::min(begin + kGroup, (row + 1) * k);
      float most = 0;
      for (int64_t i = begin; i < end; ++i) most = std::max(most, std::fabs(values[i]));
      const float scale = tsq::f16ToFloat(tsq::floatToF16(most / 7.5f));
      w.scales[static_cast<size_t>(row * groups + group)] = scale;
      for (int64_t i = begin; i < end; ++i) {
        const float code = std::clamp(std::nearbyint(values[i] / scale) + 8, 0.0f, 15.0f);
        w.codes[i] = static_cast<uint8_t>(code);
        w.ours[i] = scale * (code - 8);
      }
    }
  }
  w.blocks.resize(static_cast<size_t>(need(tsq::gguf::rowBytes(type, k)) * n));
  need(tsq::gguf::encode({type, n, k}, values.data(), nullptr, w.blocks.data(), {}));
  w.theirs.resize(values.size());
  need(tsq::gguf::decode({type, n, k}, w.blocks.data(), w.theirs.data()));
  return w;
}

// ||y - x W^T|| / ||x W^T|| over the first rows of x, in float64.
double errorOf(const std::vector<float>& y, const std::vector<float>& x, const std::vector<float>& weights, int64_t m,
               int64_t n, int64_t k) {
  double difference = 0, norm = 0;
  for (int64_t row = 0; row < std::min<int64_t>(m, 4); ++row) {
    for (int64_t column = 0; column < n; ++column) {
      double sum = 0;
      for (int64_t i = 0; i < k; ++i) sum += double{x[row * k + i]} * weights[column * k + i];
      difference += (sum - y[row * n + column]) * (sum - y[row * n + column]);
      norm += sum * sum;
    }
  }
  return std::sqrt(difference / norm);
}

struct Backend {
  std::string name;
  int64_t bytes;
  double error;
  std::function<void()> round;
  std::vector<double> seconds;  // of one product
};

void print(const Backend& b, double flops) {
  const double median = b.seconds[b.seconds.size() / 2];
  std::printf("  %-18s %8.1f us (%.1f-%.1f)  %5.1f GB/s  %6.0f GFLOP/s  error %.1e\n", b.name.c_str(), median * 1e6,
              b.seconds.front() * 1e6, b.seconds.back() * 1e6, b.bytes / median / 1e9, flops / median / 1e9, b.error);
}

void compare(Ggml& ggml, const Weight& w, tsq::gguf::Type type, const char* typeName, int64_t m,
             const std::vector<tsq::PackedWeight>& packed) {
  const int64_t n = w.n, k = w.k;
  const int perRound = m >= 64 ? 1 : m >= 4 ? 4 : 8;
  std::vector<float> x(static_cast<size_t>(m * k));
  std::vector<uint16_t> halves(x.size());
  std::mt19937_64 engine(2);
  std::normal_distribution<float> normal;
  for (size_t i = 0; i < x.size(); ++i) {
    halves[i] = tsq::floatToBf16(normal(engine));
    x[i] = tsq::bf16ToFloat(halves[i]);
  }
  std::vector<float> y(static_cast<size_t>(m * n));
  std::vector<Backend> backends;
  size_t next = 0;
  for (const auto activations : {Activations::kExact, Activations::kInt8}) {
    const auto multiply = [&, activations](size_t copy, void* to, tsq::Dtype dtype) {
      need(tsq::matmul({&packed[copy % packed.size()], halves.data(), tsq::Dtype::kBF16, k, m, to, dtype, n, nullptr,
                        activations}));
    };
    std::vector<uint16_t> out(y.size());
    multiply(0, out.data(), tsq::Dtype::kBF16);
    for (size_t i = 0; i < y.size(); ++i) y[i] = tsq::bf16ToFloat(out[i]);
    backends.push_back({activations == Activations::kExact ? "tsq exact" : "tsq int8",
                        static_cast<int64_t>(packed[0].bytes()),
                        errorOf(y, x, w.ours, m, n, k),
                        [=, &y, &next] {
                          for (int i = 0; i < perRound; ++i) multiply(next++, y.data(), tsq::Dtype::kBF16);
                        },
                        {}});
  }
  std::vector<std::unique_ptr<bench::GgmlProducts>> theirs;
  const auto bytes = static_cast<int64_t>(w.blocks.size());
  for (const std::string& name : ggml.memories()) {
    auto products = ggml.products(name, {static_cast<int>(type), n, k, w.blocks.data(), bytes, kColdBytes}, x, m,
                                  perRound);
    if (products == nullptr) continue;
    bench::GgmlProducts* one = products.get();
    backends.push_back({std::string(typeName) + " " + name, bytes, errorOf(one->result(), x, w.theirs, m, n, k),
                        [one] { one->round(); }, {}});
    theirs.push_back(std::move(products));
  }
  const double end = now() + kSeconds;
  for (int round = -1; round < kLeastRounds || now() < end; ++round) {
    for (Backend& backend : backends) {
      const double begin = now();
      backend.round();
      if (round >= 0) backend.seconds.push_back((now() - begin) / perRound);  // the first one warms up
    }
  }
  for (Backend& backend : backends) std::sort(backend.seconds.begin(), backend.seconds.end());
  std::printf("%lldx%lld m=%lld threads=%d rounds=%zu\n", static_cast<long long>(k), static_cast<long long>(n),
              static_cast<long long>(m), tsq::ThreadPool::instance().threads(), backends[0].seconds.size());
  for (const Backend& backend : backends) print(backend, 2.0 * m * n * k);
  double fastest = HUGE_VAL;
  for (size_t i = 2; i < backends.size(); ++i)
    fastest = std::min(fastest, backends[i].seconds[backends[i].seconds.size() / 2]);
  if (backends.size() > 2) {
    const auto ratio = [&](int i) { return fastest / backends[i].seconds[backends[i].seconds.size() / 2]; };
    std::printf("  beside the fastest %s: exact %.2f x, int8 %.2f x\n", typeName, ratio(0), ratio(1));
  }
  std::fflush(stdout);
}

std::vector<std::string> split(const char* list) {
  std::vector<std::string> parts;
  std::istringstream stream(list);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 5) {
    std::fprintf(stderr, "ggml_products FOLDER CPU KxN[,KxN...] M[,M...] [THREADS] [TYPE]\n");
    return 2;
  }
  const int threads = count > 5 ? std::atoi(arguments[5]) : 0;
  const char* typeName = count > 6 ? arguments[6] : "q4_k";
  const tsq::gguf::Type type =
      std::strcmp(typeName, "q4_0") == 0 ? tsq::gguf::Type::kQ4_0 : tsq::gguf::Type::kQ4_K;
  if (threads > 0) tsq::ThreadPool::instance().setThreads(threads);
  auto ggml = need(Ggml::open(arguments[1], arguments[2]));
  ggml->setThreads(tsq::ThreadPool::instance().threads());
  for (const std::string& shape : split(arguments[3])) {
    long long k = 0, n = 0;
    if (std::sscanf(shape.c_str(), "%lldx%lld", &k, &n) != 2 || k <= 0 || n <= 0 || k % 256 != 0) {
      std::fprintf(stderr, "ggml_products: shape %s, expected KxN with K a multiple of 256\n", shape.c_str());
      return 2;
    }
    const Weight weight = weightOf(n, k, type);
    std::vector<tsq::PackedWeight> packed;
    packed.push_back(need(tsq::packCodes(weight.source())));
    while (static_cast<int64_t>(packed.size() * packed[0].bytes()) < kColdBytes)
      packed.push_back(need(tsq::packCodes(weight.source())));
    for (const std::string& m : split(arguments[4]))
      compare(*ggml, weight, type, typeName, std::max(1, std::atoi(m.c_str())), packed);
  }
}
