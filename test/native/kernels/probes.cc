// What the machine can do at most, and the decoding of unfused products.
#include "kernels/probes.h"

#include "kernels/unfused.h"
#include "support.h"

using namespace support;  // NOLINT: a test

TEST(peaks_of_all_instructions) {
  const std::vector<std::string> names = tsq::peakProbes();
  for (const std::string& name : names) {
    const tsq::Result<double> peak = tsq::measurePeak(name, 0.2);
    CHECK_MSG(peak.ok() && peak.value() > 0 && peak.value() < 1e9, name);
  }
  const tsq::Result<double> unknown = tsq::measurePeak("fma-mmx", 1);
  CHECK(unknown.status().code() == tsq::Code::kUnsupported);
  for (const std::string& name : names) CHECK(unknown.status().message().find(name) != std::string::npos);
}

TEST(reads_of_any_length) {
  const tsq::Result<tsq::AlignedBuffer> memory = tsq::readProbe((size_t{3} << 20) + 512);
  CHECK(memory.ok());
  for (int pattern = 0; pattern < tsq::kReadPatterns; ++pattern) {
    for (const size_t bytes : {size_t{256}, size_t{1000}, size_t{1} << 20, (size_t{3} << 20) + 512}) {
      const double speed = tsq::measureRead(memory.value(), 0, bytes, static_cast<tsq::ReadPattern>(pattern));
      CHECK_MSG(speed > 0 && speed < 1e6, std::to_string(speed));
    }
  }
}

TEST(decode_to_f32) {
  Random random(5);
  for (const int bits : {2, 4, 8}) {
    for (const bool zeros : {false, true}) {
      WeightOptions options;
      options.bits = bits;
      options.zeros = zeros;
      const Weight w = randomWeight(random, 37, 80, 32, options);
      const tsq::PackedWeight codes = std::move(tsq::packCodes(w.source()).value());
      const std::vector<float> ones(static_cast<size_t>(w.n * w.k), 1.0f);
      const tsq::PackedWeight dense =
          std::move(tsq::packDense(ones.data(), Dtype::kF32, w.n, w.k, tsq::layout::WeightKind::kF32).value());
      const tsq::Status status = tsq::decodePacked(codes, dense);
      CHECK_MSG(status.ok(), status.message());
      std::vector<float> row(static_cast<size_t>(w.k)), expected(row);
      for (int64_t n = 0; n < w.n; ++n) {
        tsq::unpackRow(dense, n, row.data());
        tsq::unpackRow(codes, n, expected.data());
        CHECK(sameBytes(row, expected));
      }
    }
  }
}

TEST(decode_refuses) {
  Random random(6);
  const auto decoded = [&](int64_t groupSize, const WeightOptions& options, int64_t n) {
    const Weight w = randomWeight(random, 16, 64, groupSize, options);
    const std::vector<float> ones(static_cast<size_t>(n * w.k), 1.0f);
    return tsq::decodePacked(tsq::packCodes(w.source()).value(),
                             tsq::packDense(ones.data(), Dtype::kF32, n, w.k, tsq::layout::WeightKind::kF32).value())
        .code();
  };
  WeightOptions three, ordered, scaled;
  three.bits = 3;
  ordered.order = true;
  scaled.inputScale = true;
  CHECK(decoded(32, {}, 16) == tsq::Code::kOk);
  CHECK(decoded(32, {}, 17) == tsq::Code::kShape);
  CHECK(decoded(32, three, 16) == tsq::Code::kUnsupported);
  CHECK(decoded(32, ordered, 16) == tsq::Code::kUnsupported);
  CHECK(decoded(32, scaled, 16) == tsq::Code::kUnsupported);
  CHECK(decoded(12, {}, 16) == tsq::Code::kUnsupported);
}
