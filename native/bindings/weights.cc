// Packed weights and products: native/kernels/packed_weight.h.
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/exports.h"
#include "bindings/work.h"
#include "kernels/packed_weight.h"

namespace tsq {
namespace {

Napi::Value holdWeight(Napi::Env env, PackedWeight& weight) {
  return Environment::of(env).hold(std::make_shared<const PackedWeight>(std::move(weight)));
}

// `pack` gives a Result<PackedWeight>; at once or in a worker, as the export says.
template <typename Pack>
Napi::Value weightHandle(Arguments& a, Pack pack) {
  if (a.target().promises) return promise(a, std::move(pack), holdWeight);
  PackedWeight weight = take(pack());
  return holdWeight(a.env(), weight);
}

Napi::Value packDenseWeight(Arguments& a) {
  const Dtype dtype = a.dtype(a[1], "dtype", Dtype::kBF16);
  const int64_t n = a.integer(a[2], "n", 1), k = a.integer(a[3], "k", 1);
  const auto kind = static_cast<layout::WeightKind>(a.integer(a[4], "kind", 0, 4));
  const Source source = a.source(a[0], "source", dtype, product({n, k}, "weight"));
  return weightHandle(a, [=]() -> Result<PackedWeight> { return packDense(source.data, dtype, n, k, kind); });
}

// Type, grain, symmetric, dynamic, columns of a group, scale, zero point and threshold of activations.
ActivationScheme readScheme(Arguments& a, Napi::Value value) {
  ActivationScheme scheme;
  if (Arguments::isNull(value)) return scheme;
  const std::vector<double> numbers = a.copy<double>(value, "activations");
  const auto at = [&](size_t index, double most) {
    const double number = index < numbers.size() ? numbers[index] : -1;
    if (number >= 0 && number <= most && number == std::floor(number)) return static_cast<int64_t>(number);
    refuse(Code::kOption, std::string(a.target().name) + ": activations[" + std::to_string(index) + "] is " +
                              numberText(number) + " of " + std::to_string(numbers.size()) +
                              " numbers, expected a whole number of at most " + numberText(most));
  };
  scheme.type = static_cast<ActivationType>(at(0, 3));
  scheme.grain = static_cast<ActivationGrain>(at(1, 2));
  scheme.symmetric = at(2, 1) == 1;
  scheme.dynamic = at(3, 1) == 1;
  scheme.groupSize = at(4, INT32_MAX);
  if (numbers.size() != 8 || !(std::fabs(numbers[6]) <= 128))
    refuse(Code::kOption, std::string(a.target().name) + ": activations has " + std::to_string(numbers.size()) +
                              " numbers, expected 8, of which the seventh is a zero point");
  scheme.scale = static_cast<float>(numbers[5]);
  scheme.zero = static_cast<int32_t>(numbers[6]);
  scheme.threshold = static_cast<float>(numbers[7]);
  return scheme;
}

Napi::Value packCodesWeight(Arguments& a) {
  const layout::StoredCodes stored = a.storedCodes();
  CodesSource source{};
  source.codes = stored.data;
  source.layout = stored.layout;
  source.n = stored.n;
  source.k = stored.k;
  source.bits = stored.bits;
  source.groupSize = a.integer(a[5], "groupSize", 1);
  const int64_t groups = product({source.n, groupCount(source.k, source.groupSize)}, "scales");
  source.scales = a.view<float>(a[6], "scales", groups).data;
  source.zeros = a.optionalView<uint8_t>(a[7], "zeros", groups).data;
  // A copy: packing uses it as an index after checking it.
  std::vector<int32_t> groupIndex;
  if (!a.isNull(a[10])) {
    groupIndex = a.copy<int32_t>(a[10], "groupIndex");
    if (static_cast<int64_t>(groupIndex.size()) != source.k)
      refuse(Code::kShape, std::string(a.target().name) + ": groupIndex has " + std::to_string(groupIndex.size()) +
                               " elements, expected k = " + std::to_string(source.k));
  }
  source.offsets = a.optionalView<float>(a[8], "offsets", groups).data;
  source.codebook = a.optionalView<float>(a[9], "codebook", int64_t{1} << source.bits).data;
  source.inputScale = a.optionalView<float>(a[11], "inputScale", source.k).data;
  source.activations = readScheme(a, a[12]);
  return weightHandle(a, [source, groupIndex = std::move(groupIndex)]() -> Result<PackedWeight> {
    CodesSource checked = source;
    checked.groupIndex = groupIndex.empty() ? nullptr : groupIndex.data();
    return packCodes(checked);
  });
}

Napi::Value weightIsFused(Arguments& a) {
  const auto weight = a.object<const PackedWeight>(a[0], "weight");
  return Napi::Boolean::New(a.env(), isFused(*weight));
}

Napi::Value weightActivations(Arguments& a) {
  const auto weight = a.object<const PackedWeight>(a[0], "weight");
  return Napi::Number::New(a.env(), static_cast<double>(weight->activations.type));
}

Napi::Value vector(Arguments& a) {
  return a.environment().hold(std::make_shared<const Vector>(a.copy<float>(a[0], "values")));
}

struct Product {
  std::shared_ptr<const PackedWeight> weight;
  MatmulArgs args;
};

Product readProduct(Arguments& a) {
  Product p{a.object<const PackedWeight>(a[0], "weight"), {}};
  const int64_t n = p.weight->shape.n, k = p.weight->shape.k;
  MatmulArgs& args = p.args;
  args.weight = p.weight.get();
  args.xType = a.dtype(a[2], "xType", Dtype::kBF16);
  args.m = a.integer(a[3], "m");
  args.yType = a.dtype(a[5], "yType", Dtype::kBF16);
  args.ldx = k;
  args.ldy = n;
  args.x = a.output(a[1], "x", args.xType, product({args.m, k}, "x"));
  args.y = a.output(a[4], "y", args.yType, product({args.m, n}, "y"));
  args.bias = a.optionalView<float>(a[6], "bias", n).data;
  args.activations = static_cast<Activations>(a.integer(a[7], "activations", 0, 2));
  return p;
}

Napi::Value matmulSync(Arguments& a) {
  const Product p = readProduct(a);
  if (p.args.m > 0) check(matmul(p.args));
  return a.env().Undefined();
}

Napi::Value matmulAsync(Arguments& a) {
  return promise(a, [p = readProduct(a)]() -> Status { return p.args.m == 0 ? Status() : matmul(p.args); });
}

constexpr Export kExports[] = {
    {"packDense", packDenseWeight, true},
    {"packDenseSync", packDenseWeight, false},
    {"packCodes", packCodesWeight, true},
    {"packCodesSync", packCodesWeight, false},
    {"weightIsFused", weightIsFused, false},
    {"weightActivations", weightActivations, false},
    {"vector", vector, false},
    {"matmul", matmulSync, false},
    {"matmulAsync", matmulAsync, true},
};

}  // namespace

std::span<const Export> weightExports() {
  return kExports;
}

}  // namespace tsq
