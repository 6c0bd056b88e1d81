#include "cuda/emulation/copies.h"

#include <cstring>

namespace tsq::emulation {
namespace {

constexpr size_t kBytes = 16;

void moveBytes(const Copy& copy) {
  char* to = copy.to->bytes() + copy.toOffset;
  if (copy.sourceBytes > 0) std::memcpy(to, copy.from->bytes() + copy.fromOffset, copy.sourceBytes);
  std::memset(to + copy.sourceBytes, 0, kBytes - copy.sourceBytes);
}

void readSource(const Copy& copy, const Actor& actor) {
  if (copy.sourceBytes == kBytes) return copy.from->access(Access::kRead, copy.fromOffset, kBytes, actor);
  for (size_t i = 0; i < copy.sourceBytes; ++i) copy.from->access(Access::kRead, copy.fromOffset + i, 1, actor);
}

}  // namespace

void issueCopy(size_t to, const void* from, int sourceBytes, const Place& at) {
  Copy copy{&self().block->shared, nullptr, to, 0, static_cast<size_t>(sourceBytes), at};
  if (sourceBytes < 0 || copy.sourceBytes > kBytes) fail(at, "cp.async of %d bytes", sourceBytes);
  if (reinterpret_cast<uintptr_t>(from) % kBytes != 0) fail(at, "cp.async from %p, which is misaligned", from);
  if (sourceBytes > 0) {
    copy.from = &findBuffer(from, &copy.fromOffset, at);
    readSource(copy, actor(at));
  }
  copy.to->beginCopy(Access::kWrite, to, kBytes, actor(at));
  if (machine().launch().copies == Copies::kEager) moveBytes(copy);
  self().openCopies.push_back(copy);
  ++machine().outcome().copies;
}

void commitCopies() {
  Thread& thread = self();
  thread.copyGroups.push_back(std::move(thread.openCopies));
  thread.openCopies.clear();
}

void waitCopies(size_t left, const Place& at) {
  Thread& thread = self();
  for (; thread.copyGroups.size() > left; thread.copyGroups.pop_front()) {
    for (const Copy& copy : thread.copyGroups.front()) {
      if (copy.sourceBytes > 0) readSource(copy, actor(at));
      if (machine().launch().copies == Copies::kLazy) moveBytes(copy);
      copy.to->endCopy(Access::kWrite, copy.toOffset, kBytes, actor(at));
    }
  }
}

}  // namespace tsq::emulation
