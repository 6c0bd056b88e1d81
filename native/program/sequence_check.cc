#include "layout/packed.h"
#include "program/request_check.h"

namespace tsq {

namespace {

constexpr int64_t kMaxContext = int64_t{1} << 31;

int32_t page(const StepRequest& request, const Sequence& sequence, int64_t index) {
  return request.pageTable[static_cast<size_t>(sequence.pageBegin + index)];
}

Status sharedPage(const StepRequest& request, size_t s, int64_t index) {
  const Sequence& q = request.sequences[s];
  return optionError("pageTable[", q.pageBegin + index, "] (sequences[", s, "]): page ", page(request, q, index),
                     " is used elsewhere in the step while new tokens are written to it; copy it first");
}

// That there is an exact page wherever one is read after this step or was written before it, and that no page is
// written for two.
Status checkExactPages(const StepRequest& request) {
  const KvCache& cache = *request.cache;
  if (!cache.hasExact()) return Status();
  const KvFormat& format = cache.format();
  if (request.exactTable.size() != request.pageTable.size()) {
    return optionError("exactTable has ", request.exactTable.size(), " entries, expected as many as the page table's ",
                       request.pageTable.size(), ": the cache keeps the first and the recent positions of a sequence");
  }
  std::vector<uint8_t> used(static_cast<size_t>(format.exactPages), 0);  // 1: read, 2: written
  for (size_t s = 0; s < request.sequences.size(); ++s) {
    const Sequence& q = request.sequences[s];
    const int64_t begun = q.context / KvCache::kPage, last = (q.context + q.rows - 1) / KvCache::kPage;
    for (int64_t i = 0; i <= last; ++i) {
      const int64_t index = q.pageBegin + i;
      const int32_t exact = request.exactTable[static_cast<size_t>(index)];
      // Read by this step's first query, or by one of a later step.
      const bool sink = i < format.sinkPages, read = i * KvCache::kPage < q.context && i > begun - format.windowPages;
      const bool needed = sink || read || i > last - format.windowPages;
      if (exact < (needed ? 0 : -1) || exact >= format.exactPages) {
        return optionError("exactTable[", index, "] (sequences[", s, "]) is ", exact, ", expected ", needed ? 0 : -1,
                           " to ", format.exactPages - 1, " (the cache's exact pages)");
      }
      if (exact < 0 || (!needed && i < begun)) continue;
      uint8_t& use = used[static_cast<size_t>(exact)];
      const bool written = i >= begun;
      if (use == 2 || (written && use != 0)) {
        return optionError("exactTable[", index, "] (sequences[", s, "]): exact page ", exact,
                           " is used elsewhere in the step while new tokens are written to it; copy it first");
      }
      use = written ? 2 : 1;
    }
  }
  return Status();
}

}  // namespace

Status checkSequences(const StepRequest& request, StepPlan* plan) {
  plan->positions.clear();
  int64_t next = 0;
  for (size_t s = 0; s < request.sequences.size(); ++s) {
    const Sequence& sequence = request.sequences[s];
    if (sequence.rowBegin != next) {
      return optionError("sequences[", s, "].rowBegin is ", sequence.rowBegin, ", expected ", next,
                         ": sequences follow each other without gaps");
    }
    if (sequence.rows < 1 || sequence.rows > request.rows - next) {
      return optionError("sequences[", s, "].rows is ", sequence.rows, ", expected 1 to ", request.rows - next);
    }
    if (sequence.context < 0 || sequence.context > kMaxContext - sequence.rows) {
      return optionError("sequences[", s, "].context is ", sequence.context, ", expected 0 to ",
                         kMaxContext - sequence.rows);
    }
    const int64_t adapters = static_cast<int64_t>(request.adapters.size());
    if (sequence.adapter < -1 || sequence.adapter >= adapters) {
      return optionError("sequences[", s, "].adapter is ", sequence.adapter, ", expected -1 (none) to ", adapters - 1);
    }
    for (int64_t i = 0; i < sequence.rows; ++i) plan->positions.push_back(sequence.context + i);
    next += sequence.rows;
  }
  if (next == request.rows) return Status();
  return optionError("the sequences cover ", next, " rows, expected all ", request.rows,
                     " (rope, attention and adapters need to know whose they are)");
}

Status checkPages(const StepRequest& request, StepPlan* plan) {
  const int64_t table = static_cast<int64_t>(request.pageTable.size());
  const int64_t pages = request.cache->pages();
  plan->writtenPages.assign(static_cast<size_t>(pages), 0);
  for (size_t s = 0; s < request.sequences.size(); ++s) {
    const Sequence& q = request.sequences[s];
    if (q.pageBegin < 0 || q.pages < 0 || q.pageBegin > table || q.pages > table - q.pageBegin) {
      return optionError("sequences[", s, "] has pages ", q.pageBegin, " to ", q.pageBegin, " + ", q.pages,
                         ", but the page table has ", table);
    }
    if (q.pages < layout::divideUp(q.context + q.rows, KvCache::kPage)) {
      return optionError("sequences[", s, "] has ", q.pages, " pages of ", KvCache::kPage, " positions, expected ",
                         layout::divideUp(q.context + q.rows, KvCache::kPage), " for ", q.context, " + ", q.rows,
                         " tokens");
    }
    for (int64_t i = 0; i < q.pages; ++i) {
      if (page(request, q, i) < 0 || page(request, q, i) >= pages) {
        return optionError("pageTable[", q.pageBegin + i, "] (sequences[", s, "]) is ", page(request, q, i),
                           ", expected 0 to ", pages - 1, " (the cache's pages)");
      }
    }
    for (int64_t i = q.context / KvCache::kPage; i * KvCache::kPage < q.context + q.rows; ++i) {
      uint8_t& written = plan->writtenPages[static_cast<size_t>(page(request, q, i))];
      if (written != 0) return sharedPage(request, s, i);
      written = 1;
    }
  }
  TSQ_RETURN_IF_ERROR(checkExactPages(request));
  // Full pages of earlier positions may be shared by sequences with a common beginning, but nobody may write to them.
  for (size_t s = 0; s < request.sequences.size(); ++s) {
    const Sequence& q = request.sequences[s];
    for (int64_t i = 0; i < q.context / KvCache::kPage; ++i) {
      if (plan->writtenPages[static_cast<size_t>(page(request, q, i))] != 0) return sharedPage(request, s, i);
    }
  }
  return Status();
}

}  // namespace tsq
