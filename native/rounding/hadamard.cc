#include "rounding/hadamard.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "runtime/memory.h"

namespace tsq::rounding {
namespace {

// Vectors that are transformed at once: element i of all of them lies together, so that butterflies run across them.
constexpr int64_t kLanes = 8;
constexpr int64_t kLargestBase = 256;

bool isPrime(int64_t q) {
  if (q < 2) return false;
  for (int64_t d = 2; d * d <= q; ++d)
    if (q % d == 0) return false;
  return true;
}

// Paley's first construction: order q + 1 for primes q of 3 modulo 4; his second: 2 (q + 1) for primes of 1 modulo 4.
bool isFirst(int64_t m) {
  return m % 4 == 0 && isPrime(m - 1);
}

bool isSecond(int64_t m) {
  return m % 4 == 0 && (m / 2) % 4 == 2 && isPrime(m / 2 - 1);
}

// The m of an order m · 2^p; 0 where there is none.
int64_t baseOrder(int64_t order) {
  const int twos = std::countr_zero(static_cast<uint64_t>(order));
  const int64_t odd = order >> twos;
  if (odd == 1) return 1;
  for (int j = 2; j <= twos && odd << j <= kLargestBase; ++j) {
    const int64_t m = odd << j;
    if (isFirst(m) || isSecond(m)) return m;
  }
  return 0;
}

// chi[r]: 1 for a square modulo q, -1 for none, 0 for 0.
std::vector<double> quadraticCharacter(int64_t q) {
  std::vector<double> chi(static_cast<size_t>(q), -1);
  chi[0] = 0;
  for (int64_t i = 1; i < q; ++i) chi[static_cast<size_t>(i * i % q)] = 1;
  return chi;
}

// The bordered Jacobsthal matrix [q + 1, q + 1]: zeros on its diagonal, `sign` below the corner.
std::vector<double> conferenceMatrix(int64_t q, double sign) {
  const int64_t m = q + 1;
  const std::vector<double> chi = quadraticCharacter(q);
  std::vector<double> c(static_cast<size_t>(m * m), 0);
  for (int64_t i = 1; i < m; ++i) {
    c[static_cast<size_t>(i)] = 1;
    c[static_cast<size_t>(i * m)] = sign;
    for (int64_t j = 1; j < m; ++j) c[static_cast<size_t>(i * m + j)] = chi[static_cast<size_t>((i - j + q) % q)];
  }
  return c;
}

// A Hadamard matrix [m, m] of ones and minus ones.
std::vector<double> baseMatrix(int64_t m) {
  if (m == 1) return {1};
  if (isFirst(m)) {
    std::vector<double> h = conferenceMatrix(m - 1, -1);
    for (int64_t i = 0; i < m; ++i) h[static_cast<size_t>(i * m + i)] = 1;
    return h;
  }
  const int64_t half = m / 2;
  const std::vector<double> c = conferenceMatrix(half - 1, 1);
  std::vector<double> h(static_cast<size_t>(m * m));
  for (int64_t i = 0; i < half; ++i) {
    for (int64_t j = 0; j < half; ++j) {
      const double value = c[static_cast<size_t>(i * half + j)];
      const double cell[4] = {i == j ? 1 : value, i == j ? -1 : value, i == j ? -1 : value, i == j ? -1 : -value};
      for (int64_t part = 0; part < 4; ++part) {
        h[static_cast<size_t>((2 * i + part / 2) * m + 2 * j + part % 2)] = cell[part];
      }
    }
  }
  return h;
}

// x [size][kLanes] becomes x · H_2^p along its first axis, without the factor.
void walshHadamard(double* x, int64_t size) {
  for (int64_t half = 1; half < size; half *= 2) {
    for (int64_t begin = 0; begin < size; begin += 2 * half) {
      double* a = x + begin * kLanes;
      double* b = a + half * kLanes;
      for (int64_t i = 0; i < half * kLanes; ++i) {
        const double sum = a[i] + b[i], difference = a[i] - b[i];
        a[i] = sum;
        b[i] = difference;
      }
    }
  }
}

// x [m][stride][kLanes] becomes x · base along its first axis. mixed: [m][kLanes].
void mixBase(double* x, int64_t m, int64_t stride, const double* base, double* mixed) {
  for (int64_t place = 0; place < stride; ++place) {
    std::fill(mixed, mixed + m * kLanes, 0.0);
    for (int64_t from = 0; from < m; ++from) {
      const double* value = x + (from * stride + place) * kLanes;
      for (int64_t to = 0; to < m; ++to) {
        const double sign = base[from * m + to];
        for (int64_t lane = 0; lane < kLanes; ++lane) mixed[to * kLanes + lane] += sign * value[lane];
      }
    }
    for (int64_t to = 0; to < m; ++to)
      std::copy(mixed + to * kLanes, mixed + (to + 1) * kLanes, x + (to * stride + place) * kLanes);
  }
}

}  // namespace

int64_t hadamardOrder(int64_t size) {
  if (size < 1) return 0;
  const int twos = std::countr_zero(static_cast<uint64_t>(size));
  const int64_t odd = size >> twos;
  for (int64_t part = std::min(odd, kLargestBase / 4); part > 1; --part) {
    if (odd % part == 0 && part % 2 == 1 && baseOrder(part << twos) != 0) return part << twos;
  }
  return int64_t{1} << twos;
}

Status hadamard(const float* x, int64_t n, int64_t k, Axis axis, int64_t block, const float* scale, float* out,
                AbortFlag abort) {
  const bool columns = axis == Axis::kColumns;
  const int64_t length = columns ? k : n, vectors = columns ? n : k;
  if (block < 1 || hadamardOrder(block) != block || length % block != 0) {
    return Status(Code::kOption, "hadamard: block is " + std::to_string(block) +
                                     ", expected the order of a Hadamard matrix that divides " +
                                     std::to_string(length));
  }
  if (n == 0 || k == 0) return Status();
  const int64_t along = columns ? 1 : k, across = columns ? k : 1;
  const int64_t m = baseOrder(block), stride = block / m, blocks = length / block;
  const std::vector<double> base = baseMatrix(m);
  const double factor = 1 / std::sqrt(static_cast<double>(block));
  const int threads = ThreadPool::instance().threads();
  const int64_t each = (block + m) * kLanes;
  Result<AlignedBuffer> memory = AlignedBuffer::allocate(static_cast<size_t>(each * threads) * sizeof(double));
  if (!memory.ok()) return memory.status();
  const int64_t groups = (vectors + kLanes - 1) / kLanes;
  auto task = [&](int64_t index, int worker) {
    if (abort.raised()) return;
    double* values = memory.value().as<double>() + worker * each;
    const int64_t first = index / blocks * kLanes, lanes = std::min(kLanes, vectors - first);
    const int64_t begin = index % blocks * block;
    for (int64_t i = 0; i < block; ++i) {
      const double s = scale != nullptr ? static_cast<double>(scale[begin + i]) : 1.0;
      const float* from = x + (begin + i) * along + first * across;
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        values[i * kLanes + lane] = lane < lanes ? s * static_cast<double>(from[lane * across]) : 0.0;
      }
    }
    for (int64_t part = 0; part < m; ++part) walshHadamard(values + part * stride * kLanes, stride);
    if (m > 1) mixBase(values, m, stride, base.data(), values + block * kLanes);
    for (int64_t i = 0; i < block; ++i) {
      float* to = out + (begin + i) * along + first * across;
      for (int64_t lane = 0; lane < lanes; ++lane)
        to[lane * across] = static_cast<float>(values[i * kLanes + lane] * factor);
    }
  };
  ThreadPool::instance().run(groups * blocks, task, threads);
  if (abort.raised()) return Status(Code::kAborted, "aborted");
  return Status();
}

}  // namespace tsq::rounding
