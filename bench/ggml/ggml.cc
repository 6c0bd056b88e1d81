#include "bench/ggml/ggml.h"

#include <dlfcn.h>

#include <algorithm>

namespace bench {
namespace {

using Object = void*;
constexpr int kF32 = 0;

// ggml_init_params
struct Context {
  size_t bytes;
  void* memory;
  bool withoutData;
};

struct Functions {
  Object (*init)(Context);
  void (*free)(Object);
  Object (*tensor)(Object, int, int64_t, int64_t);
  Object (*multiply)(Object, Object, Object);
  Object (*graph)(Object);
  void (*expand)(Object, Object);
  Object (*allocate)(Object, Object);
  void (*release)(Object);
  void (*set)(Object, const void*, size_t, size_t);
  void (*get)(Object, void*, size_t, size_t);
  int (*compute)(Object, Object);
  Object (*device)(Object, size_t);
  Object (*backend)(Object, const char*);
  Object (*plainMemory)(Object);
  Object (*address)(Object, const char*);
  const char* (*memoryName)(Object);
  bool (*supports)(Object, Object);
};

struct Library {
  Functions f{};
  Object device = nullptr, backend = nullptr, plain = nullptr;
  void (*setThreads)(Object, int) = nullptr;
};

// Of descriptions of so many tensors, and of a graph.
constexpr size_t contextBytes(size_t tensors) {
  return (size_t{1} << 20) + 512 * tensors;
}

class Products final : public GgmlProducts {
 public:
  Products(const Library& library, const GgmlWeight& weight, Object memory, const std::vector<float>& x, int64_t m,
           int count)
      : library_(library), n_(weight.n), m_(m) {
    const Functions& f = library.f;
    perRound = count;
    Object held = context(1);
    Object input = f.tensor(held, kF32, weight.k, m);
    buffers_.push_back(f.allocate(held, library.plain));
    f.set(input, x.data(), 0, x.size() * sizeof(float));
    const int64_t rounds = (weight.coldBytes / weight.bytes + count) / count;
    std::vector<Object> copies(static_cast<size_t>(rounds * count));
    Object weights = context(copies.size());
    for (Object& copy : copies) copy = f.tensor(weights, weight.type, weight.k, weight.n);
    buffers_.push_back(f.allocate(weights, memory));
    for (Object copy : copies) f.set(copy, weight.blocks, 0, static_cast<size_t>(weight.bytes));
    for (size_t i = 0; i < copies.size(); i += count) {
      Object products = context(count), graph = f.graph(products);
      for (int j = 0; j < count; ++j) {
        Object y = f.multiply(products, copies[i + j], input);
        f.expand(graph, y);
        if (i + j == 0) first_ = y;
      }
      buffers_.push_back(f.allocate(products, library.plain));
      graphs_.push_back(graph);
    }
  }
  ~Products() override {
    for (Object buffer : buffers_) library_.f.release(buffer);
    for (Object held : contexts_) library_.f.free(held);
  }

  void round() override { library_.f.compute(library_.backend, graphs_[next_++ % graphs_.size()]); }
  std::vector<float> result() override {
    library_.f.compute(library_.backend, graphs_[0]);
    std::vector<float> y(static_cast<size_t>(m_ * n_));
    library_.f.get(first_, y.data(), 0, y.size() * sizeof(float));
    return y;
  }

 private:
  Object context(size_t tensors) {
    contexts_.push_back(library_.f.init({contextBytes(tensors), nullptr, true}));
    return contexts_.back();
  }

  const Library& library_;
  int64_t n_, m_;
  Object first_ = nullptr;
  std::vector<Object> contexts_, buffers_, graphs_;
  size_t next_ = 0;
};

class Opened final : public Ggml {
 public:
  tsq::Status load(const std::string& folder, const std::string& cpu) {
    void* base = nullptr;
    for (const std::string& name : {std::string("libggml-base.so"), "libggml-cpu-" + cpu + ".so"}) {
      void* library = dlopen((folder + "/" + name).c_str(), RTLD_NOW | RTLD_GLOBAL);
      if (library == nullptr) return {tsq::Code::kIo, dlerror()};
      if (base != nullptr) {
        const auto registry = reinterpret_cast<Object (*)()>(dlsym(library, "ggml_backend_init"));
        if (registry == nullptr) return {tsq::Code::kIo, name + " is no backend: there is no ggml_backend_init"};
        return ask(base, registry());
      }
      base = library;
    }
    return {};
  }

  void setThreads(int threads) override { library_.setThreads(library_.backend, threads); }

  std::vector<std::string> memories() const override {
    std::vector<std::string> names;
    for (Object memory : memories_) names.emplace_back(library_.f.memoryName(memory));
    return names;
  }

  std::unique_ptr<GgmlProducts> products(const std::string& name, const GgmlWeight& weight, const std::vector<float>& x,
                                         int64_t m, int perRound) override {
    const auto memory = std::find_if(memories_.begin(), memories_.end(),
                                     [&](Object one) { return name == library_.f.memoryName(one); });
    if (memory == memories_.end() || !runs(*memory, weight, m)) return nullptr;
    return std::make_unique<Products>(library_, weight, *memory, x, m, perRound);
  }

 private:
  tsq::Status ask(void* base, Object registry) {
    std::string missing;
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(base, name));
      if (function == nullptr) missing += std::string(missing.empty() ? "" : ", ") + name;
    };
    Functions& f = library_.f;
    find(f.init, "ggml_init"), find(f.free, "ggml_free"), find(f.tensor, "ggml_new_tensor_2d");
    find(f.multiply, "ggml_mul_mat"), find(f.graph, "ggml_new_graph"), find(f.expand, "ggml_build_forward_expand");
    find(f.allocate, "ggml_backend_alloc_ctx_tensors_from_buft"), find(f.release, "ggml_backend_buffer_free");
    find(f.set, "ggml_backend_tensor_set"), find(f.get, "ggml_backend_tensor_get");
    find(f.compute, "ggml_backend_graph_compute"), find(f.device, "ggml_backend_reg_dev_get");
    find(f.backend, "ggml_backend_dev_init"), find(f.plainMemory, "ggml_backend_dev_buffer_type");
    find(f.address, "ggml_backend_reg_get_proc_address"), find(f.memoryName, "ggml_backend_buft_name");
    find(f.supports, "ggml_backend_dev_supports_op");
    if (!missing.empty()) return {tsq::Code::kIo, "libggml-base.so has no " + missing};
    library_.device = f.device(registry, 0);
    library_.backend = f.backend(library_.device, nullptr);
    library_.plain = f.plainMemory(library_.device);
    library_.setThreads =
        reinterpret_cast<void (*)(Object, int)>(f.address(registry, "ggml_backend_set_n_threads"));
    if (library_.backend == nullptr || library_.setThreads == nullptr)
      return {tsq::Code::kUnsupported, "ggml's backend does not start on this machine"};
    const auto others = reinterpret_cast<Object* (*)(Object)>(f.address(registry, "ggml_backend_dev_get_extra_bufts"));
    for (Object* one = others == nullptr ? nullptr : others(library_.device); one != nullptr && *one != nullptr; ++one)
      memories_.push_back(*one);
    memories_.push_back(library_.plain);
    return {};
  }

  bool runs(Object memory, const GgmlWeight& weight, int64_t m) const {
    const Functions& f = library_.f;
    Object weights = f.init({contextBytes(2), nullptr, true}), others = f.init({contextBytes(2), nullptr, true});
    Object w = f.tensor(weights, weight.type, weight.k, weight.n);
    Object buffer = f.allocate(weights, memory);
    const bool answer =
        buffer != nullptr && f.supports(library_.device, f.multiply(others, w, f.tensor(others, kF32, weight.k, m)));
    f.release(buffer);
    f.free(others), f.free(weights);
    return answer;
  }

  Library library_;
  std::vector<Object> memories_;
};

}  // namespace

tsq::Result<std::unique_ptr<Ggml>> Ggml::open(const std::string& folder, const std::string& cpu) {
  auto opened = std::make_unique<Opened>();
  tsq::Status status = opened->load(folder, cpu);
  if (!status.ok()) return status;
  return tsq::Result<std::unique_ptr<Ggml>>(std::move(opened));
}

}  // namespace bench
