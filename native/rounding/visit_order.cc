#include "rounding/visit_order.h"

#include <algorithm>
#include <numeric>

namespace tsq::rounding {

VisitOrder makeVisitOrder(ActOrder order, const std::vector<double>& diagonal, const GridSpec& grid, int64_t block) {
  const int64_t k = static_cast<int64_t>(diagonal.size()), size = grid.groupSize, groups = (k + size - 1) / size;
  VisitOrder made;
  made.columns.resize(static_cast<size_t>(k));
  std::iota(made.columns.begin(), made.columns.end(), 0);
  const auto larger = [&](int32_t a, int32_t b) {
    return diagonal[static_cast<size_t>(a)] > diagonal[static_cast<size_t>(b)];
  };
  // Scales of the whole tensor, or of groups in the order of columns, are known before the first column is visited.
  const bool fixed = order == ActOrder::kStatic || grid.perTensor;
  if (order == ActOrder::kStatic || order == ActOrder::kDynamic) {
    std::stable_sort(made.columns.begin(), made.columns.end(), larger);
  } else if (order == ActOrder::kGroupAware) {
    std::vector<double> sums(static_cast<size_t>(groups), 0.0);
    for (int64_t c = 0; c < k; ++c) sums[static_cast<size_t>(c / size)] += diagonal[static_cast<size_t>(c)];
    std::stable_sort(made.columns.begin(), made.columns.end(), [&](int32_t a, int32_t b) {
      const int64_t groupA = a / size, groupB = b / size;
      if (groupA == groupB) return larger(a, b);
      const double sumA = sums[static_cast<size_t>(groupA)], sumB = sums[static_cast<size_t>(groupB)];
      return sumA != sumB ? sumA > sumB : groupA < groupB;
    });
  }
  made.groupOf.resize(static_cast<size_t>(k));
  for (int64_t j = 0; j < k; ++j) {
    const int64_t id = order == ActOrder::kDynamic ? j / size : made.columns[static_cast<size_t>(j)] / size;
    made.groupOf[static_cast<size_t>(j)] = static_cast<int32_t>(id);
    if (fixed) continue;
    if (made.groups.empty() || made.groups.back().id != id) made.groups.push_back({j, 0, id});
    ++made.groups.back().size;
  }
  if (fixed) {
    for (int64_t j = 0; j < k; j += block) made.blocks.push_back({j, std::min(k, j + block)});
    return made;
  }
  for (const VisitOrder::Group& group : made.groups) {
    const int64_t end = group.begin + group.size;
    if (!made.blocks.empty() && end - made.blocks.back().begin <= block) {
      made.blocks.back().end = end;
      continue;
    }
    for (int64_t j = group.begin; j < end; j += block) made.blocks.push_back({j, std::min(end, j + block)});
  }
  return made;
}

}  // namespace tsq::rounding
