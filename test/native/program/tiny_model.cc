#include "tiny_model.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "check.h"

namespace tiny {

using namespace tsq;

namespace {

float uniform(std::mt19937_64* random) {
  return static_cast<float>((*random)() >> 40) * 0x1p-23f - 1.0f;
}  // [-1, 1)

// y [rows, n] = x [rows, k] W^T + bias
std::vector<double> linear(const std::vector<double>& x, const Matrix& w, const std::vector<float>* bias = nullptr) {
  const size_t rows = x.size() / static_cast<size_t>(w.k), n = static_cast<size_t>(w.n), k = static_cast<size_t>(w.k);
  std::vector<double> y(rows * n);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t i = 0; i < n; ++i) {
      double sum = bias != nullptr ? (*bias)[i] : 0;
      for (size_t j = 0; j < k; ++j) sum += x[r * k + j] * w.values[i * k + j];
      y[r * n + i] = sum;
    }
  }
  return y;
}

// Every stretch of weight.size() elements is normalized by itself: the whole row, or one head.
std::vector<double> norm(const std::vector<double>& x, const std::vector<float>& weight, double eps, double offset) {
  std::vector<double> y(x.size());
  for (size_t begin = 0; begin < x.size(); begin += weight.size()) {
    double sum = 0;
    for (size_t i = 0; i < weight.size(); ++i) sum += x[begin + i] * x[begin + i];
    const double scale = 1 / std::sqrt(sum / static_cast<double>(weight.size()) + eps);
    for (size_t i = 0; i < weight.size(); ++i) y[begin + i] = x[begin + i] * scale * (offset + weight[i]);
  }
  return y;
}

std::vector<double> rotate(const std::vector<double>& x, size_t heads, size_t headDim,
                           const std::vector<float>& frequencies, double factor) {
  std::vector<double> y = x;
  const size_t half = frequencies.size();
  for (size_t unit = 0; unit < x.size() / headDim; ++unit) {
    const double position = static_cast<double>(unit / heads);
    for (size_t i = 0; i < half; ++i) {
      const double c = std::cos(position * frequencies[i]) * factor, s = std::sin(position * frequencies[i]) * factor;
      const double a = x[unit * headDim + i], b = x[unit * headDim + half + i];
      y[unit * headDim + i] = a * c - b * s;
      y[unit * headDim + half + i] = b * c + a * s;
    }
  }
  return y;
}

std::vector<double> attend(const Config& c, const std::vector<double>& q, const std::vector<double>& k,
                           const std::vector<double>& v) {
  const int64_t width = c.heads * c.headDim, kvWidth = c.kvHeads * c.headDim;
  const int64_t rows = static_cast<int64_t>(q.size()) / width;
  std::vector<double> out(q.size());
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t head = 0; head < c.heads; ++head) {
      const int64_t kvHead = head / (c.heads / c.kvHeads);
      std::vector<double> weights(static_cast<size_t>(i + 1), 0.0);
      double total = 0;
      for (int64_t j = 0; j <= i; ++j) {
        if (c.window > 0 && j <= i - c.window) continue;
        double score = 0;
        for (int64_t d = 0; d < c.headDim; ++d) {
          score += q[static_cast<size_t>(i * width + head * c.headDim + d)] *
                   k[static_cast<size_t>(j * kvWidth + kvHead * c.headDim + d)];
        }
        score /= std::sqrt(static_cast<double>(c.headDim));
        if (c.softcap > 0) score = c.softcap * std::tanh(score / c.softcap);
        total += weights[static_cast<size_t>(j)] = std::exp(score);
      }
      for (int64_t j = 0; j <= i; ++j) {
        for (int64_t d = 0; d < c.headDim; ++d) {
          out[static_cast<size_t>(i * width + head * c.headDim + d)] +=
              weights[static_cast<size_t>(j)] / total * v[static_cast<size_t>(j * kvWidth + kvHead * c.headDim + d)];
        }
      }
    }
  }
  return out;
}

double activate(double x, bool gelu) {
  if (!gelu) return x / (1 + std::exp(-x));
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

void add(std::vector<double>* sum, const std::vector<double>& x) {
  for (size_t i = 0; i < x.size(); ++i) (*sum)[i] += x[i];
}

}  // namespace

Matrix randomMatrix(int64_t n, int64_t k, WeightKind kind, uint64_t seed) {
  std::mt19937_64 random(seed);
  Matrix matrix{n, k, std::vector<double>(static_cast<size_t>(n * k)), nullptr};
  const float spread = 1.7f / std::sqrt(static_cast<float>(k));
  Result<PackedWeight> packed = Status();
  if (kind == WeightKind::kU4) {
    const int64_t groupSize = 16, groups = (k + groupSize - 1) / groupSize;
    std::vector<uint8_t> codes(static_cast<size_t>(n * k)), zeros(static_cast<size_t>(n * groups));
    std::vector<float> scales(static_cast<size_t>(n * groups));
    for (uint8_t& code : codes) code = static_cast<uint8_t>(random() % 16);
    for (uint8_t& zero : zeros) zero = static_cast<uint8_t>(6 + random() % 4);
    for (float& scale : scales) scale = spread / 8 * (1.2f + 0.5f * uniform(&random));
    for (int64_t i = 0; i < n * k; ++i) {
      const size_t group = static_cast<size_t>(i / k * groups + i % k / groupSize);
      matrix.values[static_cast<size_t>(i)] =
          static_cast<double>(scales[group]) *
          (static_cast<int>(codes[static_cast<size_t>(i)]) - static_cast<int>(zeros[group]));
    }
    packed = packCodes({codes.data(), n, k, 4, groupSize, scales.data(), zeros.data(), nullptr, nullptr, {}});
  } else {
    std::vector<float> floats(static_cast<size_t>(n * k));
    for (size_t i = 0; i < floats.size(); ++i) {
      floats[i] = spread * uniform(&random);
      matrix.values[i] = kind == WeightKind::kF16 ? f16ToFloat(floatToF16(floats[i])) : floats[i];
    }
    packed = packDense(floats.data(), Dtype::kF32, n, k, kind);
  }
  CHECK_MSG(packed.ok(), packed.status().message());
  matrix.packed = std::make_shared<const PackedWeight>(std::move(packed.value()));
  return matrix;
}

std::vector<float> randomFloats(int64_t count, uint64_t seed, float spread) {
  std::mt19937_64 random(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = spread * uniform(&random);
  return values;
}

std::vector<int32_t> randomTokens(int64_t count, int64_t vocabulary, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % static_cast<uint64_t>(vocabulary));
  return tokens;
}

int32_t Model::addMatrix(int64_t n, int64_t k, WeightKind kind) {
  place_.push_back(static_cast<int32_t>(matrices_.size()));
  matrices_.push_back(randomMatrix(n, k, kind, config_.seed * 1000 + place_.size()));
  weights_.emplace_back(matrices_.back().packed);
  return static_cast<int32_t>(weights_.size()) - 1;
}

int32_t Model::addVector(int64_t size, float center, float spread) {
  place_.push_back(static_cast<int32_t>(vectors_.size()));
  std::vector<float> values = randomFloats(size, config_.seed * 1000 + place_.size(), spread);
  for (float& value : values) value += center;
  weights_.emplace_back(std::make_shared<const Vector>(values));
  vectors_.push_back(std::move(values));
  return static_cast<int32_t>(weights_.size()) - 1;
}

Model::Model(const Config& config) : config_(config) {
  const Config& c = config_;
  const int64_t q = c.heads * c.headDim, kv = c.kvHeads * c.headDim;
  const double heads = static_cast<double>(c.heads), kvHeads = static_cast<double>(c.kvHeads);
  const double headDim = static_cast<double>(c.headDim), rotaryDim = static_cast<double>(c.rotaryDim);
  const double eps = 1e-5, offset = c.normOffset;
  spec_.vocabulary = c.vocabulary;
  spec_.slots = {c.hidden,       c.hidden,       q,        kv,       kv, q,  c.intermediate,
                 c.intermediate, c.intermediate, c.hidden, c.hidden, q,  kv, c.hidden};
  spec_.sections.resize(3);
  spec_.sections[0] = {{{OpKind::kEmbed, {-1, -1, -1}, kHidden, {0, -1}, {c.embedScale}}}, 1};
  spec_.sections[1] = {
      {{OpKind::kRmsNorm, {kHidden, -1, -1}, kNorm, {0, -1}, {eps, 1, offset}},
       {OpKind::kLinear, {kNorm, -1, -1}, kQuery, {1, 2}, {}},
       {OpKind::kLinear, {kNorm, -1, -1}, kKey, {3, 4}, {}},
       {OpKind::kLinear, {kNorm, -1, -1}, kValue, {5, 6}, {}},
       {OpKind::kRmsNorm, {kQuery, -1, -1}, kQueryNorm, {7, -1}, {eps, heads, offset}},
       {OpKind::kRmsNorm, {kKey, -1, -1}, kKeyNorm, {8, -1}, {eps, kvHeads, offset}},
       {OpKind::kRope, {kQueryNorm, -1, -1}, kQuery, {9, -1}, {heads, headDim, rotaryDim, c.attentionFactor}},
       {OpKind::kRope,
        {kKeyNorm, -1, -1},
        kKeyNorm,
        {9, -1},
        {kvHeads, headDim, rotaryDim, c.attentionFactor}},  // in place
       {OpKind::kAttention,
        {kQuery, kKeyNorm, kValue},
        kAttended,
        {-1, -1},
        {heads, kvHeads, headDim, 1 / std::sqrt(headDim), static_cast<double>(c.window), c.softcap}},
       {OpKind::kLinear, {kAttended, -1, -1}, kProjected, {10, -1}, {}},
       {OpKind::kAdd, {kHidden, kProjected, -1}, kMiddle, {-1, -1}, {}},
       {OpKind::kRmsNorm, {kMiddle, -1, -1}, kNorm, {11, -1}, {eps, 1, offset}},
       {OpKind::kLinear, {kNorm, -1, -1}, kGate, {12, -1}, {}},
       {OpKind::kLinear, {kNorm, -1, -1}, kUp, {13, -1}, {}},
       {OpKind::kGated, {kGate, kUp, -1}, kActive, {-1, -1}, {c.gelu ? 1.0 : 0.0}},
       {OpKind::kLinear, {kActive, -1, -1}, kProjected, {14, -1}, {}},
       {OpKind::kAdd, {kMiddle, kProjected, -1}, kHidden, {-1, -1}, {}}},
      kBlockWeights};
  spec_.sections[2] = {{{OpKind::kRmsNorm, {kHidden, -1, -1}, kFinal, {0, -1}, {eps, 1, offset}},
                        {OpKind::kLogits, {kFinal, -1, -1}, -1, {1, -1}, {c.finalSoftcap}}},
                       2};

  const float center = static_cast<float>(1 - c.normOffset);
  std::vector<float> frequencies;
  for (int64_t i = 0; i < c.rotaryDim / 2; ++i) {
    frequencies.push_back(
        static_cast<float>(std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(c.rotaryDim))));
  }
  addMatrix(c.vocabulary, c.hidden, c.kind);
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    addVector(c.hidden, center, 0.3f);
    addMatrix(q, c.hidden, c.kind);
    addVector(q, 0, 0.2f);
    addMatrix(kv, c.hidden, c.kind);
    addVector(kv, 0, 0.2f);
    addMatrix(kv, c.hidden, c.kind);
    addVector(kv, 0, 0.2f);
    addVector(c.headDim, center, 0.3f);
    addVector(c.headDim, center, 0.3f);
    place_.push_back(static_cast<int32_t>(vectors_.size()));
    vectors_.push_back(frequencies);
    weights_.emplace_back(std::make_shared<const Vector>(frequencies));
    addMatrix(c.hidden, q, c.kind);
    addVector(c.hidden, center, 0.3f);
    addMatrix(c.intermediate, c.hidden, c.kind);
    addMatrix(c.intermediate, c.hidden, c.kind);
    addMatrix(c.hidden, c.intermediate, c.kind);
  }
  addVector(c.hidden, center, 0.3f);
  addMatrix(c.vocabulary, c.hidden, c.kind);
}

std::vector<SectionRun> Model::runs() const {
  std::vector<SectionRun> runs = {{0, 0, 1, 0, 0}};
  for (int32_t layer = 0; layer < config_.layers; ++layer) {
    runs.push_back({1, 0, kBlockOps, 1 + layer * kBlockWeights, layer});
  }
  runs.push_back({2, 0, 2, static_cast<int32_t>(1 + config_.layers * kBlockWeights), 0});
  return runs;
}

std::unique_ptr<Program> Model::program() const {
  Result<std::unique_ptr<Program>> program = Program::create(spec_);
  CHECK_MSG(program.ok(), program.status().message());
  return std::move(program.value());
}

std::shared_ptr<KvCache> Model::cache(int64_t pages, KvFormat format) const {
  Result<std::shared_ptr<KvCache>> cache =
      KvCache::create(config_.layers, config_.kvHeads, config_.headDim, pages, std::move(format));
  CHECK_MSG(cache.ok(), cache.status().message());
  return cache.value();
}

void Model::block(std::vector<double>* h, size_t base) const {
  const Config& c = config_;
  const double eps = 1e-5, offset = c.normOffset;
  const size_t heads = static_cast<size_t>(c.heads), kvHeads = static_cast<size_t>(c.kvHeads);
  const size_t headDim = static_cast<size_t>(c.headDim);
  const std::vector<double> x = norm(*h, vector(base), eps, offset);
  std::vector<double> q = linear(x, matrix(base + 1), &vector(base + 2));
  std::vector<double> k = linear(x, matrix(base + 3), &vector(base + 4));
  const std::vector<double> v = linear(x, matrix(base + 5), &vector(base + 6));
  q = rotate(norm(q, vector(base + 7), eps, offset), heads, headDim, vector(base + 9), c.attentionFactor);
  k = rotate(norm(k, vector(base + 8), eps, offset), kvHeads, headDim, vector(base + 9), c.attentionFactor);
  add(h, linear(attend(c, q, k, v), matrix(base + 10)));
  const std::vector<double> y = norm(*h, vector(base + 11), eps, offset);
  std::vector<double> gate = linear(y, matrix(base + 12));
  const std::vector<double> up = linear(y, matrix(base + 13));
  for (size_t i = 0; i < gate.size(); ++i) gate[i] = activate(gate[i], c.gelu) * up[i];
  add(h, linear(gate, matrix(base + 14)));
}

std::vector<double> Model::forward(const std::vector<int32_t>& tokens, std::vector<std::vector<double>>* blocks) const {
  std::vector<double> h;
  const double scale = config_.embedScale == 0 ? 1 : config_.embedScale;
  for (const int32_t token : tokens) {
    for (int64_t i = 0; i < config_.hidden; ++i) {
      h.push_back(scale * matrices_[0].values[static_cast<size_t>(token * config_.hidden + i)]);
    }
  }
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    block(&h, static_cast<size_t>(1 + layer * kBlockWeights));
    if (blocks != nullptr) blocks->push_back(h);
  }
  const size_t last = static_cast<size_t>(1 + config_.layers * kBlockWeights);
  std::vector<double> logits = linear(norm(h, vector(last), 1e-5, config_.normOffset), matrix(last + 1));
  if (config_.finalSoftcap > 0) {
    for (double& logit : logits) logit = config_.finalSoftcap * std::tanh(logit / config_.finalSoftcap);
  }
  return logits;
}

StepRequest request(const Model& model, const std::shared_ptr<KvCache>& cache, const std::vector<int32_t>& tokens,
                    int64_t context, const std::vector<int32_t>& pages) {
  StepRequest request;
  request.runs = model.runs();
  request.weights = model.weights();
  request.rows = static_cast<int64_t>(tokens.size());
  request.tokens = tokens.data();
  request.sequences = {{0, request.rows, context, 0, static_cast<int64_t>(pages.size())}};
  request.pageTable = pages;
  request.cache = cache;
  return request;
}

void wantLogits(StepRequest* request, int64_t vocabulary, std::vector<int32_t>* rows, std::vector<float>* logits) {
  rows->clear();
  for (int64_t i = 0; i < request->rows; ++i) rows->push_back(static_cast<int32_t>(i));
  logits->assign(static_cast<size_t>(request->rows * vocabulary), 0.0f);
  request->epilogue.mode = EpilogueMode::kLogits;
  request->epilogue.rows = rows->data();
  request->epilogue.count = request->rows;
  request->epilogue.logits = logits->data();
}

std::vector<float> logitsInPieces(const Model& model, const std::vector<int32_t>& tokens,
                                  const std::vector<int64_t>& pieces, const std::vector<int32_t>& pages,
                                  int64_t cachePages, KvFormat format) {
  const std::unique_ptr<Program> program = model.program();
  const std::shared_ptr<KvCache> cache = model.cache(cachePages, std::move(format));
  std::vector<float> all, logits;
  std::vector<int32_t> rows;
  int64_t context = 0;
  for (const int64_t piece : pieces) {
    const std::vector<int32_t> part(tokens.begin() + context, tokens.begin() + context + piece);
    StepRequest step = request(model, cache, part, context, pages);
    if (cache->hasExact()) step.exactTable = pages;
    wantLogits(&step, model.config().vocabulary, &rows, &logits);
    const Status status = program->step(step);
    CHECK_MSG(status.ok(), status.message());
    all.insert(all.end(), logits.begin(), logits.end());
    context += piece;
  }
  CHECK(context == static_cast<int64_t>(tokens.size()));
  return all;
}

template <typename T>
static double worstOf(const std::vector<float>& found, const std::vector<T>& expected) {
  if (!CHECK(found.size() == expected.size())) return HUGE_VAL;
  double worst = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(found[i]) - static_cast<double>(expected[i]));
    if (!(difference <= worst)) worst = difference;  // NaN counts as different
  }
  return worst;
}

double worst(const std::vector<float>& found, const std::vector<double>& expected) {
  return worstOf(found, expected);
}
double worst(const std::vector<float>& found, const std::vector<float>& expected) {
  return worstOf(found, expected);
}

}  // namespace tiny
