#include "program/attention.h"

#include <algorithm>

#include "kernels/kernels.h"
#include "program/parallel.h"
#include "program/signature.h"
#include "program/step_context.h"

namespace tsq {

namespace {

constexpr int64_t kPage = KvCache::kPage;

class Attention {
 public:
  Attention(const StepContext& step, const SectionRun& run, const Op& op)
      : step_(step),
        cache_(*step.request.cache),
        work_(step.work.attention),
        p_(attentionParameters(op)),
        layer_(run.layer),
        group_(p_.heads / p_.kvHeads),
        q_(step.slot(op.in[0])),
        k_(step.slot(op.in[1])),
        v_(step.slot(op.in[2])),
        out_(step.slot(op.out)) {}

  Status run() {
    cutIntoTasks();
    parallelBlocks(appends_, std::max<int64_t>(1, unitsPerTask(2 * kPage * p_.kvHeads * p_.headDim)), step_.abort(),
                   [this](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) append(i);
                   });
    if (step_.abort().raised()) return aborted();
    return attend();
  }

 private:
  const std::vector<Sequence>& sequences() const { return step_.request.sequences; }

  int64_t page(const Sequence& sequence, int64_t block) const {
    return step_.request.pageTable[static_cast<size_t>(sequence.pageBegin + block)];
  }

  void cutIntoTasks() {
    work_.tasks.clear();
    work_.keys.clear();
    work_.values.clear();
    for (const Sequence& sequence : sequences()) {
      const int64_t length = sequence.context + sequence.rows;
      const int64_t blocks = layout::divideUp(length, kPage);
      const int64_t perHead = layout::divideUp(sequence.rows * group_, AttentionTile::kMaxTile);
      work_.tasks.push_back({tiles_, perHead, appends_, static_cast<int64_t>(work_.keys.size()), blocks});
      tiles_ += perHead * p_.kvHeads;
      appends_ += blocks - sequence.context / kPage;
      products_ += static_cast<double>(sequence.rows * length) * static_cast<double>(p_.heads * p_.headDim);
      for (int64_t head = 0; head < p_.kvHeads; ++head) {
        for (int64_t block = 0; block < blocks; ++block) {
          work_.keys.push_back(cache_.keys(layer_, page(sequence, block), head));
          work_.values.push_back(cache_.values(layer_, page(sequence, block), head));
        }
      }
    }
  }

  // Index of the last sequence whose tasks (of the kind that `first` counts) begin at or before `task`.
  size_t sequenceOf(int64_t task, int64_t SequenceTasks::*first) const {
    const auto after = std::upper_bound(work_.tasks.begin(), work_.tasks.end(), task,
                                        [first](int64_t value, const SequenceTasks& t) { return value < t.*first; });
    return static_cast<size_t>(after - work_.tasks.begin()) - 1;
  }

  // Writes one page of one sequence: a page is never shared by two tasks.
  void append(int64_t task) const {
    const size_t s = sequenceOf(task, &SequenceTasks::firstAppend);
    const Sequence& sequence = sequences()[s];
    const SequenceTasks& tasks = work_.tasks[s];
    const int64_t block = sequence.context / kPage + task - tasks.firstAppend;
    const int64_t begin = std::max(block * kPage, sequence.context);
    const int64_t end = std::min((block + 1) * kPage, sequence.context + sequence.rows);
    const int64_t headDim = p_.headDim, width = p_.kvHeads * headDim, vStride = cache_.vStride();
    for (int64_t head = 0; head < p_.kvHeads; ++head) {
      float* keys = cache_.keys(layer_, page(sequence, block), head);
      float* values = cache_.values(layer_, page(sequence, block), head);
      // A page begun anew forgets its former owner: kernels read whole blocks, and masked positions must not hold its
      // NaNs.
      if (begin == block * kPage) std::fill(keys, keys + (headDim + vStride) * kPage, 0.0f);
      for (int64_t position = begin; position < end; ++position) {
        const int64_t row = sequence.rowBegin + position - sequence.context;
        const float* k = k_ + row * width + head * headDim;
        const float* v = v_ + row * width + head * headDim;
        for (int64_t d = 0; d < headDim; ++d) keys[d * kPage + position % kPage] = k[d];
        std::copy(v, v + headDim, values + position % kPage * vStride);
      }
    }
  }

  Status attend() {
    constexpr double kInlineProducts = 65536;
    ThreadPool& pool = ThreadPool::instance();
    const int workers = products_ < kInlineProducts ? 1 : pool.threads();
    const int64_t stride = layout::roundUp(attentionScratch(p_.headDim), 16);
    const size_t needed = static_cast<size_t>(stride * workers) * sizeof(float);
    if (work_.scratch.size() < needed) {
      Result<AlignedBuffer> memory = AlignedBuffer::allocate(needed);
      if (!memory.ok()) return memory.status();
      work_.scratch = std::move(memory.value());
    }
    float* scratch = work_.scratch.as<float>();
    // Last tiles first: they see the most positions, and the short ones fill the end.
    auto task = [&](int64_t index, int worker) {
      if (!step_.abort().raised()) tile(tiles_ - 1 - index, scratch + worker * stride);
    };
    if (workers == 1) {
      for (int64_t i = 0; i < tiles_; ++i) task(i, 0);
    } else {
      pool.run(tiles_, task, workers);
    }
    return Status();
  }

  // Up to kMaxTile queries of one sequence and KV head: its (row, head of the group) pairs, rows slowest.
  void tile(int64_t task, float* scratch) const {
    const size_t s = sequenceOf(task, &SequenceTasks::firstTile);
    const Sequence& sequence = sequences()[s];
    const SequenceTasks& tasks = work_.tasks[s];
    const int64_t kvHead = (task - tasks.firstTile) / tasks.tiles;
    const int64_t begin = (task - tasks.firstTile) % tasks.tiles * AttentionTile::kMaxTile;
    const int64_t end = std::min<int64_t>(begin + AttentionTile::kMaxTile, sequence.rows * group_);
    const float* queries[AttentionTile::kMaxTile];
    float* outputs[AttentionTile::kMaxTile];
    int64_t first[AttentionTile::kMaxTile], last[AttentionTile::kMaxTile];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / group_, head = kvHead * group_ + i % group_, position = sequence.context + row;
      const int64_t offset = ((sequence.rowBegin + row) * p_.heads + head) * p_.headDim;
      queries[i - begin] = q_ + offset;
      outputs[i - begin] = out_ + offset;
      last[i - begin] = position;
      first[i - begin] = p_.window > 0 ? std::max<int64_t>(0, position - p_.window + 1) : 0;
    }
    const int64_t pointers = tasks.pointers + kvHead * tasks.blocks;
    kernels().attention({queries, outputs, first, last, static_cast<int>(end - begin), p_.headDim, p_.scale,
                         work_.keys.data() + pointers, work_.values.data() + pointers, cache_.vStride(), p_.softcap},
                        scratch);
  }

  const StepContext& step_;
  const KvCache& cache_;
  AttentionWorkspace& work_;
  const AttentionParameters p_;
  const int64_t layer_, group_;
  const float *q_, *k_, *v_;
  float* out_;
  int64_t tiles_ = 0, appends_ = 0;
  double products_ = 0;
};

}  // namespace

Status runAttention(const StepContext& step, const SectionRun& run, const Op& op) {
  return Attention(step, run, op).run();
}

}  // namespace tsq
