// Passes over f32 matrices: scaling, low-rank updates, AWQ's column magnitudes, the distance of two.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "bindings/exports.h"
#include "bindings/work.h"
#include "program/parallel.h"
#include "rounding/hadamard.h"
#include "runtime/memory.h"

namespace tsq {
namespace {

Napi::Value scaleMatrix(Arguments& a) {
  const int64_t n = a.integer(a[1], "n"), k = a.integer(a[2], "k"), count = product({n, k}, "matrix");
  const float* source = a.view<float>(a[0], "source", count).data;
  const float* rowScale = a.optionalView<float>(a[3], "rowScale", n).data;
  const float* columnScale = a.optionalView<float>(a[4], "columnScale", k).data;
  float* out = a.view<float>(a[5], "out", count).data;
  return promise(a, [=]() -> Status {
    parallelBlocks(n, unitsPerTask(k), AbortFlag(), [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const float* x = source + row * k;
        float* y = out + row * k;
        const float scale = rowScale != nullptr ? rowScale[row] : 1.0f;
        if (columnScale == nullptr) {
          for (int64_t j = 0; j < k; ++j) y[j] = x[j] * scale;
        } else {
          for (int64_t j = 0; j < k; ++j) y[j] = x[j] * scale * columnScale[j];
        }
      }
    });
    return {};
  });
}

// w + scale * (b a): the products are summed over the rank in order, scaled and added, each step rounded to f32.
Napi::Value addLowRank(Arguments& a) {
  const int64_t n = a.integer(a[1], "n"), k = a.integer(a[2], "k"), rank = a.integer(a[5], "rank", 1);
  const int64_t count = product({n, k}, "w");
  const float* w = a.view<float>(a[0], "w", count).data;
  const float* right = a.view<float>(a[3], "a", product({rank, k}, "a")).data;
  const float* left = a.view<float>(a[4], "b", product({n, rank}, "b")).data;
  const auto scale = static_cast<float>(a.number(a[6], "scale", -3e38, 3e38));
  float* out = a.view<float>(a[7], "out", count).data;
  return promise(a, [=]() -> Status {
    parallelBlocks(n, unitsPerTask(k * rank), AbortFlag(), [&](int64_t begin, int64_t end) {
      std::vector<float> sums(static_cast<size_t>(k));
      for (int64_t row = begin; row < end; ++row) {
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (int64_t i = 0; i < rank; ++i) {
          const float factor = left[row * rank + i];
          const float* x = right + i * k;
          for (int64_t j = 0; j < k; ++j) sums[static_cast<size_t>(j)] += factor * x[j];
        }
        const float* from = w + row * k;
        float* to = out + row * k;
        for (int64_t j = 0; j < k; ++j) to[j] = from[j] + sums[static_cast<size_t>(j)] * scale;
      }
    });
    return {};
  });
}

// AWQ (arXiv 2306.00978; AutoAWQ's w_scale): the mean over rows of |w| / (the group's largest |w| + 1e-6).
// Rows are cut into at most kParts parts, whose sums are added in order: the result depends on n alone, not on the
// threads.
Status columnMagnitudes(const float* w, int64_t n, int64_t k, int64_t groupSize, float* out) {
  constexpr int64_t kParts = 32;
  const int64_t rows = std::max<int64_t>(1, (n + kParts - 1) / kParts), parts = (n + rows - 1) / rows;
  Result<AlignedBuffer> memory = AlignedBuffer::allocate(static_cast<size_t>(parts * k) * sizeof(double));
  if (!memory.ok()) return memory.status();
  double* sums = memory.value().as<double>();
  auto part = [&](int64_t index, int) {
    double* sum = sums + index * k;
    for (int64_t row = index * rows; row < std::min(n, (index + 1) * rows); ++row) {
      for (int64_t begin = 0; begin < k; begin += groupSize) {
        const int64_t end = std::min(k, begin + groupSize);
        const float* x = w + row * k;
        float peak = 0;
        for (int64_t j = begin; j < end; ++j) peak = std::max(peak, std::fabs(x[j]));
        const float inverse = 1.0f / (peak + 1e-6f);
        for (int64_t j = begin; j < end; ++j) sum[j] += std::fabs(x[j]) * inverse;
      }
    }
  };
  ThreadPool::instance().run(parts, part);
  parallelBlocks(k, unitsPerTask(parts), AbortFlag(), [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      double total = 0;
      for (int64_t index = 0; index < parts; ++index) total += sums[index * k + j];
      out[j] = static_cast<float>(total / static_cast<double>(n));
    }
  });
  return {};
}

Napi::Value columnMagnitude(Arguments& a) {
  const int64_t n = a.integer(a[1], "n", 1), k = a.integer(a[2], "k", 1), groupSize = a.integer(a[3], "groupSize", 1);
  (void)groupCount(k, groupSize);
  const float* w = a.view<float>(a[0], "w", product({n, k}, "w")).data;
  float* out = a.view<float>(a[4], "out", k).data;
  return promise(a, [=]() -> Status { return columnMagnitudes(w, n, k, groupSize, out); });
}

// Sum of (a - b)^2. Blocks have a fixed size and each its own sum, in fixed lanes: the result depends on count alone.
double squaredDistance(const float* a, const float* b, int64_t count) {
  constexpr int64_t kBlock = int64_t{1} << 16, kLanes = 8;
  std::vector<double> sums(static_cast<size_t>((count + kBlock - 1) / kBlock));
  auto task = [&](int64_t block, int) {
    double lanes[kLanes] = {};
    const int64_t end = std::min(count, (block + 1) * kBlock);
    int64_t i = block * kBlock;
    for (; i + kLanes <= end; i += kLanes)
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const double difference = static_cast<double>(a[i + lane]) - static_cast<double>(b[i + lane]);
        lanes[lane] += difference * difference;
      }
    double sum = 0;
    for (const double lane : lanes) sum += lane;
    for (; i < end; ++i) {
      const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
      sum += difference * difference;
    }
    sums[static_cast<size_t>(block)] = sum;
  };
  ThreadPool::instance().run(static_cast<int64_t>(sums.size()), task);
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

Napi::Value hadamardOrderOf(Arguments& a) {
  return Napi::Number::New(a.env(), static_cast<double>(rounding::hadamardOrder(a.integer(a[0], "size", 1))));
}

Napi::Value hadamardMatrix(Arguments& a) {
  const int64_t n = a.integer(a[1], "n"), k = a.integer(a[2], "k"), count = product({n, k}, "matrix");
  const auto axis = a.integer(a[3], "axis", 0, 1) == 0 ? rounding::Axis::kRows : rounding::Axis::kColumns;
  const int64_t length = axis == rounding::Axis::kRows ? n : k;
  const int64_t block = a.integer(a[4], "block", 1);
  const float* source = a.view<float>(a[0], "source", count).data;
  const float* scale = a.optionalView<float>(a[5], "scale", length).data;
  float* out = a.view<float>(a[6], "out", count).data;
  return promise(a, [=]() -> Status { return rounding::hadamard(source, n, k, axis, block, scale, out, AbortFlag()); });
}

// The largest |a - b|; NaN counts as infinite.
double largestDistance(const float* a, const float* b, int64_t count) {
  constexpr int64_t kBlock = int64_t{1} << 16;
  std::vector<float> peaks(static_cast<size_t>((count + kBlock - 1) / kBlock));
  auto task = [&](int64_t block, int) {
    const int64_t end = std::min(count, (block + 1) * kBlock);
    float peak = 0;
    bool ordered = true;
    for (int64_t i = block * kBlock; i < end; ++i) {
      const float distance = std::fabs(a[i] - b[i]);
      ordered &= distance == distance;
      peak = std::max(peak, distance);
    }
    peaks[static_cast<size_t>(block)] = ordered ? peak : std::numeric_limits<float>::infinity();
  };
  ThreadPool::instance().run(static_cast<int64_t>(peaks.size()), task);
  return peaks.empty() ? 0 : *std::max_element(peaks.begin(), peaks.end());
}

Napi::Value largestDifference(Arguments& a) {
  const int64_t count = a.integer(a[2], "count");
  const float* x = a.view<float>(a[0], "a", count).data;
  const float* y = a.view<float>(a[1], "b", count).data;
  return promise(
      a, [=]() -> Result<double> { return largestDistance(x, y, count); },
      [](Napi::Env env, double& peak) { return Napi::Number::New(env, peak); });
}

Napi::Value squaredDifference(Arguments& a) {
  const int64_t count = a.integer(a[2], "count");
  const float* x = a.view<float>(a[0], "a", count).data;
  const float* y = a.view<float>(a[1], "b", count).data;
  return promise(
      a, [=]() -> Result<double> { return squaredDistance(x, y, count); },
      [](Napi::Env env, double& sum) { return Napi::Number::New(env, sum); });
}

// out[n, G] = the largest |w| of each group. NaN is no magnitude.
Napi::Value groupMagnitude(Arguments& a) {
  const int64_t n = a.integer(a[1], "n"), k = a.integer(a[2], "k", 1), groupSize = a.integer(a[3], "groupSize", 1);
  const int64_t groups = groupCount(k, groupSize);
  const float* w = a.view<float>(a[0], "w", product({n, k}, "w")).data;
  float* out = a.view<float>(a[4], "out", product({n, groups}, "out")).data;
  return promise(a, [=]() -> Status {
    parallelBlocks(n * groups, unitsPerTask(groupSize), AbortFlag(), [&](int64_t begin, int64_t end) {
      for (int64_t group = begin; group < end; ++group) {
        const int64_t from = group % groups * groupSize;
        const float* x = w + group / groups * k;
        float peak = 0;
        for (int64_t j = from; j < std::min(k, from + groupSize); ++j) peak = std::max(peak, std::fabs(x[j]));
        out[group] = peak;
      }
    });
    return {};
  });
}

constexpr Export kExports[] = {
    {"scaleMatrix", scaleMatrix, true},
    {"hadamardOrder", hadamardOrderOf, false},
    {"hadamard", hadamardMatrix, true},
    {"addLowRank", addLowRank, true},
    {"columnMagnitude", columnMagnitude, true},
    {"groupMagnitude", groupMagnitude, true},
    {"squaredDifference", squaredDifference, true},
    {"largestDifference", largestDifference, true},
};

}  // namespace

std::span<const Export> matrixExports() {
  return kExports;
}

}  // namespace tsq
