#include "layout/shared_values.h"

#include <random>
#include <vector>

#include "check.h"

using namespace tsq::layout;  // NOLINT: what is tested

namespace {

template <typename T>
void roundTrip(const Sharing& sharing) {
  std::mt19937 random(3);
  CHECK(checkSharing(sharing).ok());
  const int64_t groups = groupsOf(sharing);
  std::vector<T> stored(static_cast<size_t>(storedCount(sharing)));
  for (T& value : stored) value = static_cast<T>(random());
  std::vector<T> all(static_cast<size_t>(sharing.n * groups)), back(stored.size());
  expandShared(stored.data(), sharing, all.data());
  // Element by element of the matrix.
  bool same = true;
  for (int64_t row = 0; row < sharing.n; ++row)
    for (int64_t column = 0; column < sharing.k; ++column) {
      const int64_t group = column / sharing.groupSize;
      const int64_t index = sharing.runLength > 0 ? (row * sharing.k + column) / sharing.runLength
                                                  : row / sharing.blockRows * groups + group;
      same = same && all[static_cast<size_t>(row * groups + group)] == stored[static_cast<size_t>(index)];
    }
  CHECK(same);
  CHECK(collapseShared(all.data(), sharing, back.data()));
  CHECK(back == stored);
  if (all.size() == stored.size()) return;
  // Some value that is shared, changed.
  for (size_t i = 1; i < all.size(); ++i) {
    if (all[i] != all[i - 1]) continue;
    all[i] = static_cast<T>(all[i] ^ 1);
    CHECK(!collapseShared(all.data(), sharing, back.data()));
    return;
  }
}

}  // namespace

TEST(shared_values_of_blocks_and_runs) {
  for (const Sharing& sharing : {Sharing{5, 7, 3, 1, 0}, Sharing{5, 7, 3, 2, 0}, Sharing{300, 257, 128, 128, 0},
                                 Sharing{5, 7, 7, 1, 35}, Sharing{6, 24, 8, 1, 16}, Sharing{7, 24, 8, 1, 64},
                                 Sharing{9, 5, 1, 1, 64}, Sharing{3000, 96, 32, 1, 64}, Sharing{1, 1, 1, 1, 1}}) {
    roundTrip<uint8_t>(sharing);
    roundTrip<uint32_t>(sharing);
  }
}

TEST(shared_values_refuses_runs_that_end_within_a_group) {
  CHECK(!checkSharing({4, 16, 8, 1, 12}).ok());
  CHECK(!checkSharing({4, 12, 8, 1, 16}).ok());
  CHECK(!checkSharing({4, 16, 0, 1, 0}).ok());
  CHECK(!checkSharing({4, 16, 17, 1, 0}).ok());
  CHECK(!checkSharing({4, 16, 8, 0, 0}).ok());
}
