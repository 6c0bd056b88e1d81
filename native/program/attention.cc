#include "program/attention.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/kernels.h"
#include "program/parallel.h"
#include "program/signature.h"
#include "program/step_context.h"

namespace tsq {

namespace {

constexpr int64_t kPage = KvCache::kPage;
constexpr int64_t kTile = AttentionTile::kMaxTile;

// A sequence with few queries is cut along its positions, so that every thread has work. The cut depends on the
// sequence and the model alone. Ranges are multiples of the kernel's chunk, and so of a page.
constexpr int64_t kWantedTasks = 64, kLeastRange = 512;

Status reserve(AlignedBuffer* buffer, int64_t floats) {
  const size_t needed = static_cast<size_t>(floats) * sizeof(float);
  if (buffer->size() >= needed) return Status();
  *buffer = AlignedBuffer();  // first, so that both are never held at once
  // A growing context asks for a little more at every step.
  Result<AlignedBuffer> memory = AlignedBuffer::allocate(std::bit_ceil(needed));
  if (!memory.ok()) return memory.status();
  *buffer = std::move(memory.value());
  return Status();
}

class Attention {
 public:
  Attention(const StepContext& step, const SectionRun& run, const Op& op)
      : step_(step),
        cache_(*step.request.cache),
        work_(step.work.attention),
        p_(attentionParameters(op)),
        layer_(run.layer),
        group_(p_.heads / p_.kvHeads),
        partFloats_(kTile * (layout::roundUp(p_.headDim, 16) + 2)),
        q_(step.slot(op.in[0])),
        k_(step.slot(op.in[1])),
        v_(step.slot(op.in[2])),
        out_(step.slot(op.out)) {}

  Status run() {
    cutIntoTasks();
    TSQ_RETURN_IF_ERROR(reserve(&work_.partial, parts_ * partFloats_));
    parallelBlocks(work_.appends.back(), unitsPerTask(2 * kPage * p_.kvHeads * p_.headDim), step_.abort(),
                   [this](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) appendPage(i);
                   });
    if (step_.abort().raised()) return aborted();
    TSQ_RETURN_IF_ERROR(attend());
    if (step_.abort().raised()) return aborted();
    const int64_t merges = static_cast<int64_t>(work_.merges.size());
    parallelBlocks(merges, unitsPerTask(partFloats_), step_.abort(), [this](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) merge(work_.merges[static_cast<size_t>(i)]);
    });
    return Status();
  }

 private:
  const Sequence& sequence(size_t index) const { return step_.request.sequences[index]; }
  const int32_t* pages(const Sequence& sequence) const { return step_.request.pageTable.data() + sequence.pageBegin; }
  int64_t firstVisible(int64_t position) const {
    return p_.window > 0 ? std::max<int64_t>(0, position - p_.window + 1) : 0;
  }

  void cutIntoTasks() {
    work_.tasks.clear();
    work_.merges.clear();
    work_.appends.clear();
    int64_t appends = 0;
    for (size_t s = 0; s < step_.request.sequences.size(); ++s) {
      const Sequence& q = sequence(s);
      const int64_t queries = q.rows * group_, tiles = layout::divideUp(queries, kTile), length = q.context + q.rows;
      products_ += static_cast<double>(q.rows * length) * static_cast<double>(p_.heads * p_.headDim);
      // Where one task reads all of a head, it also writes what is new.
      if (tiles > 1) appends += layout::divideUp(length, kPage) - q.context / kPage;
      work_.appends.push_back(appends);
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t begin = queries * tile / tiles, end = queries * (tile + 1) / tiles;
        for (int64_t head = 0; head < p_.kvHeads; ++head) {
          addRanges({static_cast<int32_t>(s), static_cast<int32_t>(head), begin, end,
                     firstVisible(q.context + begin / group_), q.context + (end - 1) / group_ + 1, -1, tiles == 1},
                    tiles * p_.kvHeads);
        }
      }
    }
  }

  // The task, or one for each range of its positions.
  void addRanges(AttentionTask task, int64_t siblings) {
    const int64_t first = task.from / AttentionTile::kChunk * AttentionTile::kChunk, last = task.to;
    const int64_t most =
        std::min(layout::divideUp(last - first, kLeastRange), layout::divideUp(kWantedTasks, siblings));
    const int64_t length = layout::roundUp(layout::divideUp(last - first, most), AttentionTile::kChunk);
    const int64_t ranges = layout::divideUp(last - first, length);
    if (ranges > 1) {
      work_.merges.push_back({task.sequence, task.kvHead, task.begin, task.end - task.begin, parts_, ranges});
    }
    for (int64_t range = 0; range < ranges; ++range) {
      task.from = first + range * length;
      task.to = std::min(last, task.from + length);
      if (ranges > 1) task.part = parts_++;
      work_.tasks.push_back(task);
    }
  }

  // Writes what is new in [from, to) of one KV head.
  void append(const Sequence& q, int64_t head, int64_t from, int64_t to) const {
    const int64_t headDim = p_.headDim, width = p_.kvHeads * headDim, vStride = cache_.vStride();
    for (int64_t begin = std::max(from, q.context); begin < to;) {
      const int64_t end = std::min(to, (begin / kPage + 1) * kPage), at = begin % kPage, count = end - begin;
      float* keys = cache_.keys(layer_, pages(q)[begin / kPage], head);
      float* values = cache_.values(layer_, pages(q)[begin / kPage], head) + at * vStride;
      const int64_t source = (q.rowBegin + begin - q.context) * width + head * headDim;
      // A page begun anew forgets its former owner: kernels read whole blocks, and masked positions must not hold its
      // NaNs.
      if (at == 0 && count < kPage) std::fill(keys, keys + (headDim + vStride) * kPage, 0.0f);
      for (int64_t d = 0; d < headDim; ++d) {
        for (int64_t i = 0; i < count; ++i) keys[d * kPage + at + i] = k_[source + i * width + d];
      }
      for (int64_t i = 0; i < count; ++i) {
        const float* v = v_ + source + i * width;
        std::copy(v, v + headDim, values + i * vStride);
        std::fill(values + i * vStride + headDim, values + (i + 1) * vStride, 0.0f);
      }
      begin = end;
    }
  }

  // All heads of one page of a sequence of many queries: a page is never shared by two tasks.
  void appendPage(int64_t index) const {
    const auto after = std::upper_bound(work_.appends.begin(), work_.appends.end(), index);
    const size_t s = static_cast<size_t>(after - work_.appends.begin());
    const Sequence& q = sequence(s);
    const int64_t page = q.context / kPage + index - (s == 0 ? 0 : work_.appends[s - 1]);
    const int64_t from = page * kPage, to = std::min(from + kPage, q.context + q.rows);
    for (int64_t head = 0; head < p_.kvHeads; ++head) append(q, head, from, to);
  }

  Status attend() {
    constexpr double kInlineProducts = 65536;
    ThreadPool& pool = ThreadPool::instance();
    const int workers = products_ < kInlineProducts ? 1 : pool.threads();
    const int64_t stride = layout::roundUp(attentionScratch(p_.headDim), 16);
    TSQ_RETURN_IF_ERROR(reserve(&work_.scratch, stride * workers));
    float* scratch = work_.scratch.as<float>();
    const int64_t tasks = static_cast<int64_t>(work_.tasks.size());
    // Last ones first: they see the most positions, and the short ones fill the end.
    auto task = [&](int64_t index, int worker) {
      if (!step_.abort().raised()) {
        runTask(work_.tasks[static_cast<size_t>(tasks - 1 - index)], scratch + worker * stride);
      }
    };
    if (workers == 1) {
      for (int64_t i = 0; i < tasks; ++i) task(i, 0);
    } else {
      pool.run(tasks, task, workers);
    }
    return Status();
  }

  // Floats from the rows' [heads][headDim] to a query of the sequence.
  int64_t offset(const Sequence& q, int64_t kvHead, int64_t query) const {
    const int64_t row = q.rowBegin + query / group_, head = kvHead * group_ + query % group_;
    return (row * p_.heads + head) * p_.headDim;
  }

  void runTask(const AttentionTask& task, float* scratch) const {
    const Sequence& q = sequence(static_cast<size_t>(task.sequence));
    if (task.appends) append(q, task.kvHead, task.from, task.to);
    const float* queries[kTile];
    float* outputs[kTile];
    int64_t first[kTile], last[kTile];
    float* part = task.part < 0 ? nullptr : work_.partial.as<float>() + task.part * partFloats_;
    for (int64_t i = task.begin; i < task.end; ++i) {
      const int64_t position = q.context + i / group_, at = i - task.begin;
      queries[at] = q_ + offset(q, task.kvHead, i);
      outputs[at] = part == nullptr ? out_ + offset(q, task.kvHead, i) : part + at * p_.headDim;
      first[at] = std::max(firstVisible(position), task.from);
      last[at] = std::min(position, task.to - 1);
    }
    float* peaks = part == nullptr ? nullptr : part + kTile * p_.headDim;
    const int64_t stride = p_.kvHeads * (p_.headDim + cache_.vStride()) * kPage;  // pages of a layer follow each other
    kernels().attention({queries, outputs, first, last, static_cast<int>(task.end - task.begin), p_.headDim, p_.scale,
                         cache_.keys(layer_, 0, task.kvHead), cache_.values(layer_, 0, task.kvHead), pages(q), stride,
                         cache_.vStride(), p_.softcap, peaks, part == nullptr ? nullptr : peaks + kTile},
                        scratch);
  }

  // Sum of the parts by what they count, in order of position.
  void merge(const AttentionMerge& merge) const {
    const float* parts = work_.partial.as<float>() + merge.part * partFloats_;
    const auto peak = [&](int64_t range, int64_t i) {
      return static_cast<double>(parts[range * partFloats_ + kTile * p_.headDim + i]);
    };
    const auto sum = [&](int64_t range, int64_t i) {
      return static_cast<double>(parts[range * partFloats_ + kTile * (p_.headDim + 1) + i]);
    };
    for (int64_t i = 0; i < merge.count; ++i) {
      double best = peak(0, i), total = 0;
      for (int64_t range = 1; range < merge.ranges; ++range) best = std::max(best, peak(range, i));
      for (int64_t range = 0; range < merge.ranges; ++range) total += sum(range, i) * std::exp2(peak(range, i) - best);
      float* out = out_ + offset(sequence(static_cast<size_t>(merge.sequence)), merge.kvHead, merge.begin + i);
      std::fill(out, out + p_.headDim, 0.0f);
      for (int64_t range = 0; range < merge.ranges; ++range) {
        const double share = sum(range, i) * std::exp2(peak(range, i) - best) / total;
        kernels().axpy(static_cast<float>(share), parts + range * partFloats_ + i * p_.headDim, out, p_.headDim);
      }
    }
  }

  const StepContext& step_;
  const KvCache& cache_;
  AttentionWorkspace& work_;
  const AttentionParameters p_;
  const int64_t layer_, group_, partFloats_;
  const float *q_, *k_, *v_;
  float* out_;
  int64_t parts_ = 0;
  double products_ = 0;
};

}  // namespace

Status runAttention(const StepContext& step, const SectionRun& run, const Op& op) {
  return Attention(step, run, op).run();
}

}  // namespace tsq
