// Files of packed weights: native/kernels/pack_file.h.
#include "kernels/pack_file.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/exports.h"
#include "bindings/work.h"

namespace tsq {
namespace {

Napi::Value openPackFile(Arguments& a) {
  const std::string path = a.string(a[0], "path");
  return promise(
      a, [path]() { return PackFile::open(path.c_str()); },
      [](Napi::Env env, PackFile& opened) -> Napi::Value {
        const auto file = std::make_shared<const PackFile>(std::move(opened));
        const size_t count = file->weights().size();
        Napi::Float64Array table = Napi::Float64Array::New(env, count * 4);
        for (size_t i = 0; i < count; ++i) {
          const packfile::Entry& entry = file->weights()[i];
          table[i * 4] = static_cast<double>(entry.n);
          table[i * 4 + 1] = static_cast<double>(entry.k);
          table[i * 4 + 2] = entry.bits;
          table[i * 4 + 3] = static_cast<double>(file->bytes(static_cast<int64_t>(i)));
        }
        Napi::Object result = Napi::Object::New(env);
        result.Set("meta", Napi::String::New(env, file->meta()));
        result.Set("floats", Napi::Number::New(env, static_cast<double>(file->floats())));
        result.Set("weights", table);
        result.Set("file", Environment::of(env).hold(file));
        return result;
      });
}

Napi::Value readPackFloats(Arguments& a) {
  const auto file = a.object<const PackFile>(a[0], "file");
  const View<float> out = a.view<float>(a[1], "out", file->floats());
  return promise(a, [file, out]() { return file->readFloats(out.data); });
}

Napi::Value readPackWeights(Arguments& a) {
  const auto file = a.object<const PackFile>(a[0], "file");
  const int64_t first = a.integer(a[1], "first"), count = a.integer(a[2], "count");
  const AbortFlag abort = a.abortFlag(a[3]);
  return promise(
      a, [=]() { return file->readWeights(first, count, abort); },
      [](Napi::Env env, std::vector<PackedWeight>& weights) -> Napi::Value {
        Napi::Float64Array handles = Napi::Float64Array::New(env, weights.size());
        for (size_t i = 0; i < weights.size(); ++i)
          handles[i] = static_cast<double>(
              Environment::of(env).handles.add(std::make_shared<const PackedWeight>(std::move(weights[i]))));
        return handles;
      });
}

Napi::Value writePackedWeights(Arguments& a) {
  const std::string path = a.string(a[0], "path"), meta = a.string(a[1], "meta");
  const View<float> floats = a.view<float>(a[2], "floats", 0);
  std::vector<std::shared_ptr<const PackedWeight>> weights;
  for (const double handle : a.copy<double>(a[3], "weights"))
    weights.push_back(a.object<const PackedWeight>(Napi::Number::New(a.env(), handle), "weights"));
  const AbortFlag abort = a.abortFlag(a[4]);
  return promise(a, [=]() -> Status {
    std::vector<const PackedWeight*> plain;
    for (const auto& weight : weights) plain.push_back(weight.get());
    return writePackFile(path.c_str(), meta, {floats.data, static_cast<size_t>(floats.length)}, plain, abort);
  });
}

constexpr Export kExports[] = {
    {"openPackFile", openPackFile, true},
    {"readPackFloats", readPackFloats, true},
    {"readPackWeights", readPackWeights, true},
    {"writePackFile", writePackedWeights, true},
};

}  // namespace

std::span<const Export> packFileExports() {
  return kExports;
}

}  // namespace tsq
