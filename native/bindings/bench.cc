// For benchmarks: what the machine can do at most (kernels/probes.h), and products without fused kernels
// (kernels/unfused.h).
#include <memory>
#include <string>
#include <utility>

#include "bindings/exports.h"
#include "bindings/work.h"
#include "kernels/probes.h"
#include "kernels/unfused.h"

namespace tsq {
namespace {

Napi::Value peakInstructions(Arguments& a) {
  const std::vector<std::string> names = peakProbes();
  auto array = Napi::Array::New(a.env(), names.size());
  for (uint32_t i = 0; i < names.size(); ++i) array.Set(i, names[i]);
  return array;
}

Napi::Value measurePeakOf(Arguments& a) {
  const std::string name = a.string(a[0], "instruction");
  const double milliseconds = a.number(a[1], "milliseconds", 0.01, 10'000);
  return Napi::Number::New(a.env(), take(measurePeak(name, milliseconds)));
}

// Every byte is written: more would only take longer, no last-level cache holds a gigabyte of one process.
constexpr int64_t kMaxReadProbe = int64_t{1} << 30;

Napi::Value createReadProbe(Arguments& a) {
  const auto bytes = static_cast<size_t>(a.integer(a[0], "bytes", 256, kMaxReadProbe));
  return promise(
      a, [bytes]() -> Result<AlignedBuffer> { return readProbe(bytes); },
      [](Napi::Env env, AlignedBuffer& memory) -> Napi::Value {
        return Environment::of(env).hold(std::make_shared<const AlignedBuffer>(std::move(memory)));
      });
}

Napi::Value measureReadOf(Arguments& a) {
  const auto memory = a.object<const AlignedBuffer>(a[0], "probe");
  const auto size = static_cast<int64_t>(memory->size());
  const int64_t offset = a.integer(a[1], "offset", 0, size);
  const int64_t bytes = a.integer(a[2], "bytes", 256, size);
  if (offset % 64 != 0 || offset > size - bytes)
    refuse(Code::kOption, "measureRead: offset " + std::to_string(offset) + " and bytes " + std::to_string(bytes) +
                              " are not a range, at a multiple of 64, of the probe's " + std::to_string(size));
  const auto pattern = static_cast<ReadPattern>(a.integer(a[3], "pattern", 0, kReadPatterns - 1));
  return Napi::Number::New(a.env(),
                           measureRead(*memory, static_cast<size_t>(offset), static_cast<size_t>(bytes), pattern));
}

Napi::Value decodePackedWeight(Arguments& a) {
  const auto codes = a.object<const PackedWeight>(a[0], "codes");
  check(decodePacked(*codes, *a.object<const PackedWeight>(a[1], "dense")));
  return a.env().Undefined();
}

constexpr Export kExports[] = {
    {"peakInstructions", peakInstructions, false}, {"measurePeak", measurePeakOf, false},
    {"createReadProbe", createReadProbe, true},    {"measureRead", measureReadOf, false},
    {"decodePacked", decodePackedWeight, false},
};

}  // namespace

std::span<const Export> benchExports() {
  return kExports;
}

}  // namespace tsq
