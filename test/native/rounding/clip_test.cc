// The clip search against trying every candidate in float64.
#include "rounding_test.h"

using namespace rounding_test;

namespace {

// d_g^T H_gg d_g of a row's group for a limit, by nearest rounding of that group alone.
double errorOf(const std::vector<float>& group, int64_t begin, const Hessian& h, GridSpec grid, float limit) {
  const int64_t size = static_cast<int64_t>(group.size()), k = h.k();
  grid.groupSize = size;
  Rounded out(1, size, grid);
  CHECK(tsq::roundNearest(group.data(), 1, size, grid, SearchSpec{}, &limit, out.out(), AbortFlag()).ok());
  const std::vector<float> back = out.dequantize(1, size, grid);
  double total = 0;
  for (int64_t i = 0; i < size; ++i) {
    for (int64_t j = 0; j < size; ++j) {
      const double a =
          static_cast<double>(group[static_cast<size_t>(i)]) - static_cast<double>(back[static_cast<size_t>(i)]);
      const double b =
          static_cast<double>(group[static_cast<size_t>(j)]) - static_cast<double>(back[static_cast<size_t>(j)]);
      total += a * b * static_cast<double>(h.data()[(begin + i) * k + begin + j]);
    }
  }
  return total;
}

}  // namespace

TEST(clip_search_finds_the_best_limit) {
  const int64_t n = 37, k = 100, rows = 400;
  const std::unique_ptr<Hessian> h = hessianOf(activations(rows, k, 3), rows, k);
  std::vector<float> w = gaussian(n * k, 4);
  for (int64_t r = 0; r < n; ++r) w[static_cast<size_t>(r * k + (5 * r) % k)] *= 5.f;
  const int steps = 20;
  const double maxShrink = 0.5;
  for (bool symmetric : {true, false}) {
    for (int64_t size : {int64_t{32}, k}) {
      const GridSpec grid{3, symmetric, size, false, tsq::Dtype::kF16, 0};
      const int64_t groups = (k + size - 1) / size;
      std::vector<float> clip(static_cast<size_t>(n * groups), -1.f);
      CHECK(tsq::searchClip(w.data(), n, k, *h, grid, steps, maxShrink, clip.data(), AbortFlag()).ok());
      double worst = 0;
      int64_t clipped = 0;
      for (int64_t r = 0; r < n; ++r) {
        for (int64_t g = 0; g < groups; ++g) {
          const std::vector<float> group(w.begin() + r * k + g * size, w.begin() + r * k + std::min(k, (g + 1) * size));
          float peak = 0;
          for (float value : group) peak = std::max(peak, std::abs(value));
          double best = std::numeric_limits<double>::infinity();
          for (int i = 0; i < steps; ++i) {
            best = std::min(
                best, errorOf(group, g * size, *h, grid, static_cast<float>(peak * (1.0 - maxShrink * i / steps))));
          }
          const float limit = clip[static_cast<size_t>(r * groups + g)];
          CHECK(limit > 0 && limit <= peak && limit > peak * 0.49f);
          clipped += limit < peak ? 1 : 0;
          worst = std::max(worst, errorOf(group, g * size, *h, grid, limit) / best - 1);
        }
      }
      CHECK_MSG(worst < 1e-4, describe(n, k, grid) + " worse by " + std::to_string(worst));
      CHECK_MSG(clipped > n * groups / 2, std::to_string(clipped) + " clipped");
    }
  }
}

TEST(clip_search_of_a_tensor_gives_one_limit_that_pays) {
  const int64_t n = 50, k = 64, rows = 300;
  const std::unique_ptr<Hessian> h = hessianOf(activations(rows, k, 5), rows, k);
  std::vector<float> w = gaussian(n * k, 6);
  w[100] = 12.f;
  const GridSpec grid{4, true, k, true, tsq::Dtype::kF32, 0};
  std::vector<float> clip(static_cast<size_t>(n));
  CHECK(tsq::searchClip(w.data(), n, k, *h, grid, 20, 0.8, clip.data(), AbortFlag()).ok());
  for (float limit : clip) CHECK(limit == clip[0]);
  const auto error = [&](const float* limits) {
    Rounded out(n, k, grid);
    CHECK(tsq::roundNearest(w.data(), n, k, grid, SearchSpec{}, limits, out.out(), AbortFlag()).ok());
    const std::vector<float> back = out.dequantize(n, k, grid);
    return tsq::layerError(w.data(), back.data(), n, k, *h).value();
  };
  const double best = error(clip.data()), none = error(nullptr);
  CHECK_MSG(best < none && clip[0] < 12.f, std::to_string(best) + " against " + std::to_string(none));
  for (int i = 0; i < 20; ++i) {
    const std::vector<float> limits(static_cast<size_t>(n), static_cast<float>(12.0 * (1.0 - 0.8 * i / 20)));
    CHECK(error(limits.data()) >= best * (1 - 1e-5));
  }
}

TEST(clip_search_survives_useless_statistics) {
  const int64_t n = 3, k = 24;
  const std::vector<float> w = gaussian(n * k, 8);
  const GridSpec grid{4, true, 16, false, tsq::Dtype::kF32, 0};
  for (float value : {0.f, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::unique_ptr<Hessian> h = std::move(Hessian::create(k).value());
    std::fill(h->mutableData(), h->mutableData() + k * k, value);
    std::vector<float> clip(static_cast<size_t>(n * 2), -1.f);
    CHECK(tsq::searchClip(w.data(), n, k, *h, grid, 20, 0.5, clip.data(), AbortFlag()).ok());
    // No candidate is better than another: nothing is clipped.
    for (int64_t r = 0; r < n; ++r) {
      float peak = 0;
      for (int64_t c = 0; c < 16; ++c) peak = std::max(peak, std::abs(w[static_cast<size_t>(r * k + c)]));
      CHECK(clip[static_cast<size_t>(r * 2)] == peak);
    }
  }
  std::unique_ptr<Hessian> h = std::move(Hessian::create(k + 1).value());
  std::vector<float> clip(static_cast<size_t>(n * 2));
  CHECK(tsq::searchClip(w.data(), n, k, *h, grid, 20, 0.5, clip.data(), AbortFlag()).code() == tsq::Code::kShape);
}
