#include "program/attention.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/kernels.h"
#include "program/kv_rotation.h"
#include "program/kv_writer.h"
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

// What a task reads apart: the sequence's first positions, the quantized ones, the recent ones.
constexpr int64_t kPieces = 3;

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
        sinks_(cache_.format().sinkPages * kPage),
        windowPages_(cache_.format().windowPages),
        q_(step.slot(op.in[0])),
        k_(step.slot(op.in[1])),
        v_(step.slot(op.in[2])),
        out_(step.slot(op.out)) {}

  Status run() {
    cutIntoTasks();
    TSQ_RETURN_IF_ERROR(reserve(&work_.partial, parts_ * partFloats_));
    TSQ_RETURN_IF_ERROR(reserve(&work_.staging, layout::divideUp(stagedPages_ * cache_.exactStride(), 4)));
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
  const int32_t* exactPages(const Sequence& sequence) const {
    return step_.request.exactTable.data() + sequence.pageBegin;
  }
  // The first position that a query sees as it was, the first ones of the sequence aside.
  int64_t firstRecent(int64_t position) const {
    return std::max(sinks_, (position / kPage - windowPages_ + 1) * kPage);
  }
  uint8_t* stagedBlock(int64_t page, int64_t head) const {
    return work_.staging.as<uint8_t>() + page * cache_.exactStride() + head * cache_.exactPage().bytes;
  }
  int64_t firstVisible(int64_t position) const {
    return p_.window > 0 ? std::max<int64_t>(0, position - p_.window + 1) : 0;
  }

  void cutIntoTasks() {
    work_.tasks.clear();
    work_.merges.clear();
    work_.appends.clear();
    work_.staged.clear();
    int64_t appends = 0;
    for (size_t s = 0; s < step_.request.sequences.size(); ++s) {
      const Sequence& q = sequence(s);
      const int64_t queries = q.rows * group_, tiles = layout::divideUp(queries, kTile), length = q.context + q.rows;
      products_ += static_cast<double>(q.rows * length) * static_cast<double>(p_.heads * p_.headDim);
      const int64_t firstPage = stage(q, length);
      const bool together = tiles == 1 && work_.staged.back().block < 0;
      // Where one task reads all of a head, it also writes what is new.
      if (!together) appends += layout::divideUp(length, kPage) - firstPage;
      work_.appends.push_back(appends);
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t begin = queries * tile / tiles, end = queries * (tile + 1) / tiles;
        for (int64_t head = 0; head < p_.kvHeads; ++head) {
          addRanges({static_cast<int32_t>(s), static_cast<int32_t>(head), begin, end,
                     firstVisible(q.context + begin / group_), q.context + (end - 1) / group_ + 1, -1, together},
                    tiles * p_.kvHeads);
        }
      }
    }
  }

  // Decides whether a sequence's exact pages are staged. The first page that is written: to the cache or to the staging
  // area.
  int64_t stage(const Sequence& q, int64_t length) {
    const int64_t page = q.context / kPage, last = (length - 1) / kPage;
    work_.staged.push_back({});
    if (windowPages_ == 0 || last - page < windowPages_) return page;
    const int64_t first = std::max<int64_t>(0, page - windowPages_ + 1);
    work_.staged.back() = {first, stagedPages_};
    stagedPages_ += last - first + 1;
    const int64_t count = static_cast<int64_t>(work_.stagedTable.size());
    for (int64_t i = count; i < stagedPages_; ++i) work_.stagedTable.push_back(static_cast<int32_t>(i));
    return first;
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

  // Writes what is new in [from, to) of one KV head of a sequence.
  void append(size_t index, int64_t head, int64_t from, int64_t to) const {
    const Sequence& q = sequence(index);
    const StagedPages& staged = work_.staged[index];
    const int64_t headDim = p_.headDim, width = p_.kvHeads * headDim;
    for (int64_t begin = std::max(from, q.context); begin < to;) {
      const int64_t page = begin / kPage, end = std::min(to, (page + 1) * kPage);
      const int64_t source = (q.rowBegin + begin - q.context) * width + head * headDim;
      KvTargets targets = {cache_.block(layer_, pages(q)[page], head), {nullptr, nullptr}};
      if (cache_.hasExact() && exactPages(q)[page] >= 0) {
        targets.exact[0] = cache_.exactBlock(layer_, exactPages(q)[page], head);
      }
      if (staged.block >= 0) targets.exact[1] = stagedBlock(staged.first + page - staged.block, head);
      writeKv(cache_, layer_, targets, begin % kPage, {k_ + source, v_ + source, width, end - begin});
      begin = end;
    }
  }

  // All heads of one page of a sequence of many queries: a page is never shared by two tasks.
  void appendPage(int64_t index) const {
    const auto after = std::upper_bound(work_.appends.begin(), work_.appends.end(), index);
    const size_t s = static_cast<size_t>(after - work_.appends.begin());
    const Sequence& q = sequence(s);
    const StagedPages& staged = work_.staged[s];
    const int64_t firstPage = staged.block >= 0 ? staged.block : q.context / kPage;
    const int64_t page = firstPage + index - (s == 0 ? 0 : work_.appends[s - 1]);
    const int64_t from = page * kPage, to = std::min(from + kPage, q.context + q.rows);
    // What earlier steps left of it.
    if (staged.block >= 0 && from < q.context) {
      std::memcpy(stagedBlock(staged.first + page - staged.block, 0), cache_.exactBlock(layer_, exactPages(q)[page], 0),
                  static_cast<size_t>(cache_.exactStride()));
    }
    for (int64_t head = 0; head < p_.kvHeads; ++head) append(s, head, from, to);
  }

  Status attend() {
    constexpr double kInlineProducts = 65536;
    ThreadPool& pool = ThreadPool::instance();
    const int workers = products_ < kInlineProducts ? 1 : pool.threads();
    // Of the kernel; rotated queries; what the pieces of a task give.
    const int64_t stride = layout::roundUp(attentionScratch(p_.headDim), 16) + kTile * layout::roundUp(p_.headDim, 16) +
                           kPieces * partFloats_;
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

  // What queries see of positions that are stored alike.
  struct Piece {
    const layout::KvPage* page;
    const uint8_t* cache;
    const int32_t* pages;
    int64_t pageStride, shift;  // shift: from a position to one in `pages`
    int64_t first[kTile], last[kTile];
    bool any = false;

    void see(int64_t query, int64_t begin, int64_t end) {
      first[query] = begin - shift;
      last[query] = end - shift;
      any = any || begin <= end;
    }
  };

  // The first positions of the sequence, those that are read quantized, and the recent ones. Where nothing is kept
  // exactly the second is all there is.
  void cutIntoPieces(const AttentionTask& task, Piece* pieces) const {
    const Sequence& q = sequence(static_cast<size_t>(task.sequence));
    const StagedPages& staged = work_.staged[static_cast<size_t>(task.sequence)];
    const layout::KvPage& exact = cache_.exactPage();
    const int64_t stride = cache_.exactStride(), head = task.kvHead;
    pieces[1] = {&cache_.page(), cache_.block(layer_, 0, head), pages(q), cache_.pageStride(), 0, {}, {}};
    if (cache_.hasExact()) {
      pieces[0] = {&exact, cache_.exactBlock(layer_, 0, head), exactPages(q), stride, 0, {}, {}};
      pieces[2] = pieces[0];
      if (staged.block >= 0) {
        pieces[2] = {
            &exact, stagedBlock(staged.first, head), work_.stagedTable.data(), stride, staged.block * kPage, {}, {}};
      }
    }
    for (int64_t i = task.begin; i < task.end; ++i) {
      const int64_t position = q.context + i / group_, at = i - task.begin;
      const int64_t first = std::max(firstVisible(position), task.from), last = std::min(position, task.to - 1);
      if (!cache_.hasExact()) {
        pieces[1].see(at, first, last);
        continue;
      }
      const int64_t recent = windowPages_ > 0 ? firstRecent(position) : position + 1;
      pieces[0].see(at, first, std::min(last, sinks_ - 1));
      pieces[1].see(at, std::max(first, sinks_), std::min(last, recent - 1));
      pieces[2].see(at, std::max(first, recent), last);
    }
  }

  void runTask(const AttentionTask& task, float* scratch) const {
    const Sequence& q = sequence(static_cast<size_t>(task.sequence));
    if (task.appends) append(static_cast<size_t>(task.sequence), task.kvHead, task.from, task.to);
    const int64_t count = task.end - task.begin;
    float* rotated = scratch + layout::roundUp(attentionScratch(p_.headDim), 16);
    float* results = rotated + kTile * layout::roundUp(p_.headDim, 16);
    const float* queries[kTile];
    for (int64_t i = 0; i < count; ++i) {
      queries[i] = q_ + offset(q, task.kvHead, task.begin + i);
      if (!cache_.format().rotateKeys) continue;
      std::copy(queries[i], queries[i] + p_.headDim, rotated + i * p_.headDim);
      queries[i] = rotated + i * p_.headDim;
      rotateHead(rotated + i * p_.headDim, p_.headDim);
    }
    Piece pieces[kPieces];
    cutIntoPieces(task, pieces);
    float* part = task.part < 0 ? nullptr : work_.partial.as<float>() + task.part * partFloats_;
    const int parts =
        static_cast<int>(pieces[0].any) + static_cast<int>(pieces[1].any) + static_cast<int>(pieces[2].any);
    int64_t done = 0;
    for (const Piece& piece : pieces) {
      if (!piece.any) continue;
      float* result = parts == 1 ? part : results + done++ * partFloats_;
      float* outputs[kTile];
      for (int64_t i = 0; i < count; ++i) {
        outputs[i] = result == nullptr ? out_ + offset(q, task.kvHead, task.begin + i) : result + i * p_.headDim;
      }
      float* peaks = result == nullptr ? nullptr : result + kTile * p_.headDim;
      const auto scaleOf = [&](const std::vector<float>& scales) {
        return scales.empty() ? 1.0f : scales[static_cast<size_t>(layer_)];
      };
      kernels().attention(
          {queries, outputs, piece.first, piece.last, static_cast<int>(count), p_.scale, piece.page, piece.cache,
           piece.pages, piece.pageStride, scaleOf(cache_.format().keyScales), scaleOf(cache_.format().valueScales),
           p_.softcap, peaks, peaks == nullptr ? nullptr : peaks + kTile},
          scratch);
    }
    for (int64_t i = 0; i < count; ++i) {
      float* out = part == nullptr ? out_ + offset(q, task.kvHead, task.begin + i) : part + i * p_.headDim;
      float* peaks = part == nullptr ? nullptr : part + kTile * p_.headDim + i;
      if (parts > 1) combine(results, parts, i, out, peaks, peaks == nullptr ? nullptr : peaks + kTile);
      if (part == nullptr && cache_.format().rotateValues) rotateHead(out, p_.headDim);
    }
  }

  // Sum of query i's parts by what they count, in order. peak, sum: of the whole, or null.
  void combine(const float* parts, int64_t count, int64_t i, float* out, float* peak, float* sum) const {
    const auto peakOf = [&](int64_t part) {
      return static_cast<double>(parts[part * partFloats_ + kTile * p_.headDim + i]);
    };
    const auto sumOf = [&](int64_t part) {
      return static_cast<double>(parts[part * partFloats_ + kTile * (p_.headDim + 1) + i]);
    };
    double best = peakOf(0), total = 0;
    for (int64_t part = 1; part < count; ++part) best = std::max(best, peakOf(part));
    for (int64_t part = 0; part < count; ++part) total += sumOf(part) * std::exp2(peakOf(part) - best);
    std::fill(out, out + p_.headDim, 0.0f);
    for (int64_t part = 0; part < count && total > 0; ++part) {
      const double share = sumOf(part) * std::exp2(peakOf(part) - best) / total;
      kernels().axpy(static_cast<float>(share), parts + part * partFloats_ + i * p_.headDim, out, p_.headDim);
    }
    if (peak == nullptr) return;
    *peak = static_cast<float>(best);
    *sum = static_cast<float>(total);
  }

  void merge(const AttentionMerge& merge) const {
    const Sequence& q = sequence(static_cast<size_t>(merge.sequence));
    for (int64_t i = 0; i < merge.count; ++i) {
      float* out = out_ + offset(q, merge.kvHead, merge.begin + i);
      combine(work_.partial.as<float>() + merge.part * partFloats_, merge.ranges, i, out, nullptr, nullptr);
      if (cache_.format().rotateValues) rotateHead(out, p_.headDim);
    }
  }

  const StepContext& step_;
  const KvCache& cache_;
  AttentionWorkspace& work_;
  const AttentionParameters p_;
  const int64_t layer_, group_, partFloats_;
  const int64_t sinks_, windowPages_;  // in positions, in pages
  const float *q_, *k_, *v_;
  float* out_;
  int64_t parts_ = 0, stagedPages_ = 0;
  double products_ = 0;
};

}  // namespace

Status runAttention(const StepContext& step, const SectionRun& run, const Op& op) {
  return Attention(step, run, op).run();
}

}  // namespace tsq
