// A small Llama-like model with random weights, as a program and as plain float64 arithmetic.
#pragma once
#include <memory>
#include <vector>

#include "program/program.h"

namespace tiny {

using tsq::layout::WeightKind;

struct Config {
  int64_t vocabulary = 53, hidden = 48, intermediate = 80, heads = 4, kvHeads = 2, headDim = 12, rotaryDim = 12,
          layers = 2;
  int64_t window = 0;
  double softcap = 0, finalSoftcap = 0, attentionFactor = 1, embedScale = 0, normOffset = 0;
  bool gelu = false;
  WeightKind kind = WeightKind::kF32;
  uint64_t seed = 1;
};

// A matrix as the kernels hold it and the same values in double.
struct Matrix {
  int64_t n = 0, k = 0;
  std::vector<double> values;
  std::shared_ptr<const tsq::PackedWeight> packed;
};
// kU4: codes with zero points and groups of 16; else rounded to the kind. Values spread as 1 / sqrt(k).
Matrix randomMatrix(int64_t n, int64_t k, WeightKind kind, uint64_t seed);
std::vector<float> randomFloats(int64_t count, uint64_t seed, float spread = 1);
std::vector<int32_t> randomTokens(int64_t count, int64_t vocabulary, uint64_t seed);

// Sections: 0 embed; 1 block; 2 final norm and logits.
class Model {
 public:
  enum Slot {
    kHidden,
    kNorm,
    kQuery,
    kKey,
    kValue,
    kAttended,
    kGate,
    kUp,
    kActive,
    kProjected,
    kMiddle,
    kQueryNorm,
    kKeyNorm,
    kFinal
  };
  static constexpr int32_t kBlockOps = 17, kBlockWeights = 15, kAttentionOp = 8, kGatedOp = 14;

  explicit Model(const Config& config);
  const Config& config() const { return config_; }
  const tsq::ProgramSpec& spec() const { return spec_; }
  const std::vector<tsq::WeightRef>& weights() const { return weights_; }
  std::vector<tsq::SectionRun> runs() const;
  std::unique_ptr<tsq::Program> program() const;
  std::shared_ptr<tsq::KvCache> cache(int64_t pages, tsq::KvFormat format = {}) const;
  const Matrix& head() const { return matrices_.back(); }

  // Logits [tokens, vocabulary] of one sequence; blocks (if given) receives the outputs of every block [layers][tokens,
  // hidden].
  std::vector<double> forward(const std::vector<int32_t>& tokens,
                              std::vector<std::vector<double>>* blocks = nullptr) const;

 private:
  int32_t addMatrix(int64_t n, int64_t k, WeightKind kind);
  int32_t addVector(int64_t size, float center, float spread);
  void block(std::vector<double>* h, size_t base) const;

  const Matrix& matrix(size_t weight) const { return matrices_[static_cast<size_t>(place_[weight])]; }
  const std::vector<float>& vector(size_t weight) const { return vectors_[static_cast<size_t>(place_[weight])]; }

  Config config_;
  tsq::ProgramSpec spec_;
  std::vector<tsq::WeightRef> weights_;
  std::vector<int32_t> place_;  // of a weight in matrices_ or vectors_
  std::vector<Matrix> matrices_;
  std::vector<std::vector<float>> vectors_;
};

// One step of the whole model for `tokens` of one sequence that has `context` tokens in pages `pages`.
tsq::StepRequest request(const Model& model, const std::shared_ptr<tsq::KvCache>& cache,
                         const std::vector<int32_t>& tokens, int64_t context, const std::vector<int32_t>& pages);
// Asks for the logits of all rows; `rows` and the result must outlive the step.
void wantLogits(tsq::StepRequest* request, int64_t vocabulary, std::vector<int32_t>* rows, std::vector<float>* logits);
// Runs the model over one sequence in pieces of the given sizes and returns the logits of all tokens.
std::vector<float> logitsInPieces(const Model& model, const std::vector<int32_t>& tokens,
                                  const std::vector<int64_t>& pieces, const std::vector<int32_t>& pages,
                                  int64_t cachePages, tsq::KvFormat format = {});

double worst(const std::vector<float>& found, const std::vector<double>& expected);
double worst(const std::vector<float>& found, const std::vector<float>& expected);

}  // namespace tiny
