// GPTQ against algorithm 1 of arXiv 2210.17323 written plainly in float64, and its promises: never worse than nearest, never
// stopped by a bad Hessian, the same bytes for any number of threads.
#include <algorithm>
#include <numeric>

#include "kernels/kernels.h"
#include "rounding_test.h"
#include "runtime/thread_pool.h"

using namespace rounding_test;
using tsq::ActOrder;
using tsq::GptqReport;
using tsq::GptqSpec;

namespace {

using Matrix = std::vector<std::vector<double>>;

// Inverse by Gauss-Jordan with pivoting, then its upper Cholesky factor: the route of the paper's code.
Matrix inverseFactor(Matrix a) {
  const size_t k = a.size();
  Matrix inverse(k, std::vector<double>(k, 0));
  for (size_t i = 0; i < k; ++i) inverse[i][i] = 1;
  for (size_t c = 0; c < k; ++c) {
    size_t pivot = c;
    for (size_t r = c; r < k; ++r) {
      if (std::abs(a[r][c]) > std::abs(a[pivot][c])) pivot = r;
    }
    std::swap(a[c], a[pivot]);
    std::swap(inverse[c], inverse[pivot]);
    const double scale = 1 / a[c][c];
    for (size_t j = 0; j < k; ++j) {
      a[c][j] *= scale;
      inverse[c][j] *= scale;
    }
    for (size_t r = 0; r < k; ++r) {
      if (r == c) continue;
      const double factor = a[r][c];
      for (size_t j = 0; j < k; ++j) {
        a[r][j] -= factor * a[c][j];
        inverse[r][j] -= factor * inverse[c][j];
      }
    }
  }
  Matrix u(k, std::vector<double>(k, 0));
  for (size_t i = 0; i < k; ++i) {
    for (size_t j = i; j < k; ++j) {
      double sum = inverse[i][j];
      for (size_t r = 0; r < i; ++r) sum -= u[r][i] * u[r][j];
      u[i][j] = i == j ? std::sqrt(sum) : sum / u[i][i];
    }
  }
  return u;
}

std::vector<int64_t> order(ActOrder kind, const Hessian& h, int64_t groupSize) {
  const int64_t k = h.k();
  std::vector<int64_t> columns(static_cast<size_t>(k));
  std::iota(columns.begin(), columns.end(), 0);
  const auto diagonal = [&](int64_t c) { return static_cast<double>(h.data()[c * k + c]); };
  if (kind == ActOrder::kStatic || kind == ActOrder::kDynamic) {
    std::stable_sort(columns.begin(), columns.end(), [&](int64_t a, int64_t b) { return diagonal(a) > diagonal(b); });
  }
  if (kind == ActOrder::kGroupAware) {
    const auto sum = [&](int64_t g) {
      double total = 0;
      for (int64_t c = g * groupSize; c < std::min(k, (g + 1) * groupSize); ++c) total += diagonal(c);
      return total;
    };
    std::stable_sort(columns.begin(), columns.end(), [&](int64_t a, int64_t b) {
      if (a / groupSize != b / groupSize) return sum(a / groupSize) > sum(b / groupSize);
      return diagonal(a) > diagonal(b);
    });
  }
  return columns;
}

// One row after the other, one column after the other, no blocks, everything in float64. Scales from the range, f32.
std::vector<float> textbook(const std::vector<float>& w, int64_t n, int64_t k, const Hessian& h, const GptqSpec& spec,
                            std::vector<int64_t>* groupOfColumn) {
  const GridSpec& grid = spec.grid;
  const std::vector<int64_t> visit = order(spec.order, h, grid.groupSize);
  double mean = 0;
  for (int64_t c = 0; c < k; ++c) mean += static_cast<double>(h.data()[c * k + c]) / static_cast<double>(k);
  Matrix a(static_cast<size_t>(k), std::vector<double>(static_cast<size_t>(k)));
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      a[static_cast<size_t>(i)][static_cast<size_t>(j)] =
          static_cast<double>(h.data()[visit[static_cast<size_t>(i)] * k + visit[static_cast<size_t>(j)]]) + (i == j ? spec.damp * mean : 0);
    }
  }
  const Matrix u = inverseFactor(a);
  const bool fixed = spec.order == ActOrder::kStatic;
  const auto group = [&](int64_t j) { return spec.order == ActOrder::kDynamic ? j / grid.groupSize : visit[static_cast<size_t>(j)] / grid.groupSize; };
  groupOfColumn->resize(static_cast<size_t>(k));
  for (int64_t j = 0; j < k; ++j) (*groupOfColumn)[static_cast<size_t>(visit[static_cast<size_t>(j)])] = group(j);
  const double maxCode = (1 << grid.bits) - 1;
  std::vector<float> result(w.size());
  for (int64_t r = 0; r < n; ++r) {
    std::vector<double> row(static_cast<size_t>(k));
    for (int64_t j = 0; j < k; ++j) row[static_cast<size_t>(j)] = static_cast<double>(w[static_cast<size_t>(r * k + visit[static_cast<size_t>(j)])]);
    const std::vector<double> original = row;
    std::vector<float> scales(static_cast<size_t>((k + grid.groupSize - 1) / grid.groupSize), 0.f), zeros = scales;
    for (int64_t j = 0; j < k; ++j) {
      const size_t g = static_cast<size_t>(group(j));
      if (scales[g] == 0) {
        float lo = 0, hi = 0;
        for (int64_t i = 0; i < k; ++i) {
          if (group(i) != group(j)) continue;
          const float value = static_cast<float>(fixed ? original[static_cast<size_t>(i)] : row[static_cast<size_t>(i)]);
          lo = std::min(lo, value);
          hi = std::max(hi, value);
        }
        scales[g] = grid.symmetric ? std::max(-lo, hi) / static_cast<float>(maxCode / 2) : (hi - lo) / static_cast<float>(maxCode);
        zeros[g] = grid.symmetric ? static_cast<float>(1 << (grid.bits - 1)) : std::nearbyint(-lo / scales[g]);
      }
      const double scale = static_cast<double>(scales[g]), zero = static_cast<double>(zeros[g]);
      // In f32: on a symmetric grid the least weight of a group is a tie, -(2^bits - 1) / 2 steps, which must fall the same way.
      const double steps = static_cast<double>(static_cast<float>(row[static_cast<size_t>(j)]) / scales[g]);
      const double code = std::min(std::max(std::nearbyint(steps) + zero, 0.0), maxCode);
      const double value = scale * (code - zero);
      result[static_cast<size_t>(r * k + visit[static_cast<size_t>(j)])] = static_cast<float>(value);
      const double error = (row[static_cast<size_t>(j)] - value) / u[static_cast<size_t>(j)][static_cast<size_t>(j)];
      for (int64_t i = j; i < k; ++i) row[static_cast<size_t>(i)] -= error * u[static_cast<size_t>(j)][static_cast<size_t>(i)];
    }
  }
  return result;
}

struct Run {
  tsq::Status status;
  GptqReport report;
  Rounded rounded;
  std::vector<int32_t> index;
};

Run run(const std::vector<float>& w, int64_t n, int64_t k, const Hessian& h, const GptqSpec& spec, AbortFlag abort = AbortFlag()) {
  Run done{{}, {}, Rounded(n, k, spec.grid), std::vector<int32_t>(static_cast<size_t>(k), -1)};
  tsq::Result<GptqReport> result = tsq::gptq(w.data(), n, k, h, spec, done.rounded.out(), done.index.data(), abort);
  done.status = result.status();
  done.report = result.value();
  return done;
}

std::vector<float> dequantized(const Run& done, int64_t n, int64_t k, const GptqSpec& spec) {
  return done.rounded.dequantize(n, k, spec.grid, spec.order == ActOrder::kDynamic ? done.index.data() : nullptr);
}

const ActOrder kOrders[] = {ActOrder::kNone, ActOrder::kStatic, ActOrder::kGroupAware, ActOrder::kDynamic};
const char* const kOrderNames[] = {"none", "static", "group-aware", "dynamic"};

GptqSpec specOf(int bits, bool symmetric, int64_t groupSize, ActOrder kind, int block) {
  GptqSpec spec;
  spec.grid = {bits, symmetric, groupSize, false, tsq::Dtype::kF32, 0};
  spec.order = kind;
  spec.block = block;
  return spec;
}

}  // namespace

TEST(gptq_agrees_with_the_textbook) {
  const int64_t shapes[][4] = {{5, 24, 8, 128}, {40, 60, 16, 32}, {33, 96, 96, 32}, {3, 50, 20, 16}, {8, 130, 128, 128}, {7, 100, 32, 1}};
  for (const auto& shape : shapes) {
    const int64_t n = shape[0], k = shape[1], rows = 3 * k;
    const std::unique_ptr<Hessian> h = hessianOf(activations(rows, k, 31), rows, k);
    const std::vector<float> w = gaussian(n * k, 32, 0.1f);
    for (int bits : {2, 4}) {
      for (bool symmetric : {true, false}) {
        for (ActOrder kind : kOrders) {
          const GptqSpec spec = specOf(bits, symmetric, shape[2], kind, static_cast<int>(shape[3]));
          const std::string what = describe(n, k, spec.grid) + " order " + kOrderNames[static_cast<int>(kind)];
          const Run done = run(w, n, k, *h, spec);
          CHECK_MSG(done.status.ok(), done.status.message());
          std::vector<int64_t> groups;
          const std::vector<float> expected = textbook(w, n, k, *h, spec, &groups);
          const std::vector<float> got = dequantized(done, n, k, spec);
          if (kind == ActOrder::kDynamic) {
            bool same = true;
            for (int64_t c = 0; c < k; ++c) same = same && groups[static_cast<size_t>(c)] == done.index[static_cast<size_t>(c)];
            CHECK_MSG(same, what + ": group index");
          }
          // A row goes its own way once a rounding tie falls the other way; most rows must agree, and the objective must.
          int64_t equalRows = 0;
          for (int64_t r = 0; r < n; ++r) {
            bool equal = true;
            for (int64_t c = 0; c < k; ++c) {
              const size_t at = static_cast<size_t>(r * k + c);
              equal = equal && std::abs(got[at] - expected[at]) <= 1e-4f * std::abs(expected[at]) + 1e-6f;
            }
            equalRows += equal ? 1 : 0;
          }
          const double own = referenceError(w, got, n, k, *h), reference = referenceError(w, expected, n, k, *h);
          CHECK_MSG(equalRows == n || std::abs(own / reference - 1) < 0.01, what + " error " + std::to_string(own / reference));
          CHECK_MSG(equalRows * 10 >= n * 9 || n < 10, what + ": " + std::to_string(equalRows) + " rows agree");
          CHECK_MSG(!done.report.degraded && done.report.damp == 0.01 && done.report.deadColumns == 0, what);
          CHECK_MSG(std::abs(done.report.error / own - 1) < 1e-4, what + ": reported " + std::to_string(done.report.error) + " is " + std::to_string(own));
        }
      }
    }
  }
}

TEST(gptq_is_below_nearest_in_every_order) {
  const int64_t n = 100, k = 260, rows = 800;
  const std::unique_ptr<Hessian> h = hessianOf(activations(rows, k, 41), rows, k);
  const std::vector<float> w = gaussian(n * k, 42, 0.05f);
  for (int bits : {2, 3, 4, 8}) {
    for (bool search : {false, true}) {
      for (int64_t size : {int64_t{32}, int64_t{128}, k}) {
        for (ActOrder kind : kOrders) {
          for (bool tensor : {false, true}) {
            if (tensor && size != k) continue;
            GptqSpec spec = specOf(bits, bits != 3, size, kind, 128);
            spec.grid.scaleType = tsq::Dtype::kF16;
            spec.grid.perTensor = tensor;
            spec.search.enabled = search;
            spec.search.norm = 2;
            spec.search.steps = 20;
            const Run done = run(w, n, k, *h, spec);
            const std::string what = describe(n, k, spec.grid) + " order " + kOrderNames[static_cast<int>(kind)];
            CHECK_MSG(done.status.ok(), done.status.message());
            CHECK_MSG(done.rounded.sane(spec.grid), what);
            CHECK_MSG(!done.report.keptNearest && done.report.error < 0.95 * done.report.nearestError,
                      what + ": " + std::to_string(done.report.error) + " nearest " + std::to_string(done.report.nearestError));
            // The figure of the report is the objective of what was returned.
            const std::vector<float> back = dequantized(done, n, k, spec);
            const double own = tsq::layerError(w.data(), back.data(), n, k, *h).value();
            CHECK_MSG(std::abs(done.report.error / own - 1) < 1e-5, what);
            if (kind == ActOrder::kDynamic) {
              std::vector<int64_t> members(static_cast<size_t>(done.rounded.groups), 0);
              for (int32_t g : done.index) ++members[static_cast<size_t>(g)];
              for (size_t g = 0; g + 1 < members.size(); ++g) CHECK(members[g] == size);
              CHECK(members.back() == k - size * (done.rounded.groups - 1));
            }
            if (tensor) CHECK_MSG(std::all_of(done.rounded.scales.begin(), done.rounded.scales.end(), [&](float s) { return s == done.rounded.scales[0]; }), what);
          }
        }
      }
    }
  }
}

TEST(gptq_search_and_clip_lower_the_error) {
  const int64_t n = 64, k = 256, rows = 600;
  const std::unique_ptr<Hessian> h = hessianOf(activations(rows, k, 43), rows, k);
  std::vector<float> w = gaussian(n * k, 44, 0.05f);
  for (int64_t r = 0; r < n; ++r) w[static_cast<size_t>(r * k + 3 * r)] *= 8.f;
  GptqSpec spec = specOf(3, true, 128, ActOrder::kStatic, 128);
  const double plain = run(w, n, k, *h, spec).report.error;
  spec.search.enabled = true;
  spec.search.norm = 2;
  const double searched = run(w, n, k, *h, spec).report.error;
  CHECK_MSG(searched < plain, std::to_string(searched) + " against " + std::to_string(plain));
  spec.search.enabled = false;
  std::vector<float> clip(static_cast<size_t>(n * 2));
  CHECK(tsq::searchClip(w.data(), n, k, *h, spec.grid, 20, 0.5, clip.data(), AbortFlag()).ok());
  spec.clip = clip.data();
  const double clipped = run(w, n, k, *h, spec).report.error;
  CHECK_MSG(clipped < plain, std::to_string(clipped) + " against " + std::to_string(plain));
}

// Row 1 of what users of such tools suffer: the run that dies at layer 43.
TEST(gptq_never_aborts_on_a_bad_hessian) {
  const int64_t n = 35, k = 72;
  const std::vector<float> w = gaussian(n * k, 51);
  struct Case {
    const char* name;
    bool degraded;
    void (*fill)(float* h, int64_t k);
  };
  const Case cases[] = {
      {"zero", true, [](float*, int64_t) {}},
      {"rank 1", false, [](float* h, int64_t size) {
         for (int64_t i = 0; i < size * size; ++i) h[i] = static_cast<float>((i / size % 5 + 1) * (i % size % 5 + 1));
       }},
      {"duplicate columns", false, [](float* h, int64_t size) {
         for (int64_t i = 0; i < size * size; ++i) h[i] = i / size / 2 == i % size / 2 ? 4.f : 0.f;
       }},
      {"dead columns", false, [](float* h, int64_t size) {
         for (int64_t i = 0; i < size; ++i) h[i * size + i] = i % 3 == 0 ? 0.f : 2.f;
       }},
      {"one NaN", true, [](float* h, int64_t size) {
         for (int64_t i = 0; i < size; ++i) h[i * size + i] = 1.f;
         h[7] = std::numeric_limits<float>::quiet_NaN();
       }},
      {"all infinite", true, [](float* h, int64_t size) { std::fill(h, h + size * size, std::numeric_limits<float>::infinity()); }},
      {"indefinite", true, [](float* h, int64_t size) {
         for (int64_t i = 0; i < size * size; ++i) h[i] = i / size == i % size ? 1.f : 30.f * static_cast<float>((i / size * 7 + i % size * 7) % 5 - 2);
       }},
      {"negative diagonal", false, [](float* h, int64_t size) {
         for (int64_t i = 0; i < size; ++i) h[i * size + i] = i % 2 == 0 ? 1.f : -1.f;
       }},
      {"huge", false, [](float* h, int64_t size) {
         for (int64_t i = 0; i < size; ++i) h[i * size + i] = 1e36f * static_cast<float>(i + 1);
       }},
      {"tiny", false, [](float* h, int64_t size) {
         for (int64_t i = 0; i < size; ++i) h[i * size + i] = 1e-40f * static_cast<float>(i + 1);
       }},
      {"one huge outlier", false, [](float* h, int64_t size) {
         for (int64_t i = 0; i < size; ++i) h[i * size + i] = i == 3 ? 1e30f : 1e-6f;
       }},
      {"asymmetric", false, [](float* h, int64_t size) {
         for (int64_t i = 0; i < size * size; ++i) h[i] = i / size == i % size ? 5.f : i / size < i % size ? 0.05f : 0.f;
       }},
  };
  for (const Case& one : cases) {
    for (double damp : {0.0, 0.01}) {
      for (ActOrder kind : kOrders) {
        for (bool search : {false, true}) {
          std::unique_ptr<Hessian> h = std::move(Hessian::create(k).value());
          h->setRows(std::strcmp(one.name, "zero") == 0 ? 0 : 10);
          one.fill(h->mutableData(), k);
          GptqSpec spec = specOf(4, kind != ActOrder::kNone, 32, kind, 32);
          spec.grid.scaleType = tsq::Dtype::kF16;
          spec.damp = damp;
          spec.search.enabled = search;
          const Run done = run(w, n, k, *h, spec);
          const std::string what = std::string(one.name) + " order " + kOrderNames[static_cast<int>(kind)] + ": " + done.report.note;
          CHECK_MSG(done.status.ok(), what + done.status.message());
          CHECK_MSG(done.rounded.sane(spec.grid), what);
          CHECK_MSG(done.report.degraded == one.degraded, what);
          CHECK_MSG(done.report.degraded == false || !done.report.note.empty(), what);
          if (kind == ActOrder::kDynamic) {
            for (int32_t g : done.index) CHECK(g >= 0 && g < 3);
          }
          // Not degraded means as good as nearest on the weight itself where no column is dead.
          if (std::strcmp(one.name, "dead columns") == 0) {
            CHECK(done.report.deadColumns == k / 3);
            const std::vector<float> back = dequantized(done, n, k, spec);
            for (int64_t c = 0; c < k; c += 3) CHECK_MSG(back[static_cast<size_t>(c)] == 0.f, what);
          } else if (std::strcmp(one.name, "negative diagonal") != 0) {
            double norm = 0, error = 0;
            const std::vector<float> back = dequantized(done, n, k, spec);
            for (size_t i = 0; i < back.size(); ++i) {
              norm += static_cast<double>(w[i]) * static_cast<double>(w[i]);
              error += (static_cast<double>(w[i]) - static_cast<double>(back[i])) * (static_cast<double>(w[i]) - static_cast<double>(back[i]));
            }
            CHECK_MSG(error < 0.3 * norm, what + " relative weight error " + std::to_string(error / norm));
          }
        }
      }
    }
  }
}

TEST(gptq_keeps_nearest_where_it_is_better) {
  // GPTQ is greedy: on a single short row with weak correlations luck decides, and nearest wins now and then.
  const int64_t n = 33, k = 64, rows = 40;
  const std::vector<float> w = gaussian(n * k, 61);
  int64_t kept = 0;
  for (uint32_t seed = 0; seed < 60; ++seed) {
    const std::unique_ptr<Hessian> h = hessianOf(gaussian(rows * 8, seed), rows, 8);
    const std::vector<float> row = gaussian(8, 1000 + seed);
    const GptqSpec spec = specOf(3, true, 8, ActOrder::kStatic, 128);
    const Run done = run(row, 1, 8, *h, spec);
    CHECK(done.status.ok());
    Rounded nearest(1, 8, spec.grid);
    CHECK(tsq::roundNearest(row.data(), 1, 8, spec.grid, SearchSpec{}, nullptr, nearest.out(), AbortFlag()).ok());
    const double nearestError = referenceError(row, nearest.dequantize(1, 8, spec.grid), 1, 8, *h);
    const double own = referenceError(row, dequantized(done, 1, 8, spec), 1, 8, *h);
    CHECK(own <= nearestError * (1 + 1e-5) && std::abs(done.report.nearestError / nearestError - 1) < 1e-4);
    if (!done.report.keptNearest) continue;
    ++kept;
    CHECK(nearest == done.rounded);
    CHECK(done.report.error == done.report.nearestError);
  }
  CHECK_MSG(kept > 0 && kept < 30, std::to_string(kept) + " of 60 kept nearest");
  // With a diagonal Hessian there is nothing to spread: both are the same codes.
  std::unique_ptr<Hessian> diagonal = std::move(Hessian::create(k).value());
  diagonal->setRows(1);
  for (int64_t i = 0; i < k; ++i) diagonal->mutableData()[i * k + i] = static_cast<float>(1 + i % 7);
  const GptqSpec spec = specOf(4, false, 16, ActOrder::kGroupAware, 128);
  const Run done = run(w, n, k, *diagonal, spec);
  Rounded nearest(n, k, spec.grid);
  CHECK(tsq::roundNearest(w.data(), n, k, spec.grid, SearchSpec{}, nullptr, nearest.out(), AbortFlag()).ok());
  CHECK(nearest == done.rounded);
}

TEST(rounding_gives_the_same_bytes_for_any_number_of_threads) {
  const int64_t n = 150, k = 300, rows = 900;
  tsq::ThreadPool& pool = tsq::ThreadPool::instance();
  const int before = pool.threads();
  const std::vector<float> x = activations(rows, k, 71), w = gaussian(n * k, 72);
  std::vector<float> firstHessian, firstClip;
  std::vector<Rounded> firstRounded;
  std::vector<double> firstErrors;
  for (int threads : {1, 2, 3}) {
    pool.setThreads(threads);
    const std::unique_ptr<Hessian> h = hessianOf(x, rows, k);
    const std::vector<float> hessian(h->data(), h->data() + k * k);
    std::vector<Rounded> rounded;
    std::vector<double> errors;
    for (ActOrder kind : kOrders) {
      GptqSpec spec = specOf(3, false, 64, kind, 48);
      spec.search.enabled = kind == ActOrder::kStatic;
      spec.search.steps = 20;
      const Run done = run(w, n, k, *h, spec);
      rounded.push_back(done.rounded);
      errors.push_back(done.report.error);
      errors.push_back(done.report.nearestError);
    }
    GridSpec tensor{4, false, k, true, tsq::Dtype::kF32, 0};
    rounded.emplace_back(n, k, tensor);
    CHECK(tsq::roundNearest(w.data(), n, k, tensor, {true, 30, 0.8, 2.4, nullptr}, nullptr, rounded.back().out(), AbortFlag()).ok());
    std::vector<float> clip(static_cast<size_t>(n * 5));
    CHECK(tsq::searchClip(w.data(), n, k, *h, {4, true, 64, false, tsq::Dtype::kF32, 0}, 20, 0.5, clip.data(), AbortFlag()).ok());
    if (threads == 1) {
      firstHessian = hessian;
      firstClip = clip;
      firstRounded = rounded;
      firstErrors = errors;
    }
    CHECK(hessian == firstHessian);
    CHECK(clip == firstClip);
    CHECK(errors == firstErrors);
    for (size_t i = 0; i < rounded.size(); ++i) CHECK_MSG(rounded[i] == firstRounded[i], std::to_string(threads) + " threads, case " + std::to_string(i));
  }
  pool.setThreads(before);
}

TEST(rounding_stops_on_abort) {
  const int64_t n = 40, k = 160, rows = 300;
  const std::unique_ptr<Hessian> h = hessianOf(activations(rows, k, 81), rows, k);
  const std::vector<float> w = gaussian(n * k, 82);
  const int32_t raised = 1;
  const GptqSpec spec = specOf(4, true, 32, ActOrder::kStatic, 128);
  CHECK(run(w, n, k, *h, spec, AbortFlag(&raised)).status.code() == tsq::Code::kAborted);
  Rounded out(n, k, spec.grid);
  CHECK(tsq::roundNearest(w.data(), n, k, spec.grid, SearchSpec{}, nullptr, out.out(), AbortFlag(&raised)).code() == tsq::Code::kAborted);
  std::vector<float> clip(static_cast<size_t>(n * 5));
  CHECK(tsq::searchClip(w.data(), n, k, *h, spec.grid, 20, 0.5, clip.data(), AbortFlag(&raised)).code() == tsq::Code::kAborted);
  GridSpec tensor{4, true, k, true, tsq::Dtype::kF32, 0};
  CHECK(tsq::roundNearest(w.data(), n, k, tensor, {true, 30, 0.8, 2, nullptr}, nullptr, out.out(), AbortFlag(&raised)).code() == tsq::Code::kAborted);
  CHECK(tsq::searchClip(w.data(), n, k, *h, tensor, 20, 0.5, clip.data(), AbortFlag(&raised)).code() == tsq::Code::kAborted);
}

TEST(gptq_refuses_bad_arguments) {
  const int64_t n = 4, k = 32, rows = 64;
  const std::unique_ptr<Hessian> h = hessianOf(activations(rows, k, 91), rows, k);
  std::vector<float> w = gaussian(n * k, 92);
  const GptqSpec good = specOf(4, true, 8, ActOrder::kStatic, 128);
  Rounded out(n, k, good.grid);
  const auto codeOf = [&](const GptqSpec& spec, int64_t columns) {
    return tsq::gptq(w.data(), n, columns, *h, spec, out.out(), nullptr, AbortFlag()).status().code();
  };
  CHECK(codeOf(good, k) == tsq::Code::kOk);
  CHECK(codeOf(good, k - 8) == tsq::Code::kShape);
  GptqSpec spec = good;
  spec.block = 0;
  CHECK(codeOf(spec, k) == tsq::Code::kOption);
  spec = good;
  spec.damp = -1;
  CHECK(codeOf(spec, k) == tsq::Code::kOption);
  spec = good;
  spec.dampStep = 0;
  CHECK(codeOf(spec, k) == tsq::Code::kOption);
  spec = good;
  spec.order = ActOrder::kDynamic;  // without an array for the group index
  CHECK(codeOf(spec, k) == tsq::Code::kOption);
  spec = good;
  spec.grid.symmetric = false;  // without an array of zeros
  CHECK(codeOf(spec, k) == tsq::Code::kOption);
  std::vector<float> clip(static_cast<size_t>(n * 4), 1.f);
  std::vector<int32_t> index(static_cast<size_t>(k));
  spec = good;
  spec.order = ActOrder::kDynamic;
  spec.clip = clip.data();
  CHECK(tsq::gptq(w.data(), n, k, *h, spec, out.out(), index.data(), AbortFlag()).status().code() == tsq::Code::kUnsupported);
  w[40] = std::numeric_limits<float>::quiet_NaN();
  const tsq::Status status = tsq::gptq(w.data(), n, k, *h, good, out.out(), nullptr, AbortFlag()).status();
  CHECK(status.code() == tsq::Code::kNumeric);
  CHECK_MSG(status.message().find("weight[1, 8]") != std::string::npos, status.message());
}
