// Atomics of the device's scope. Those that release or acquire order what lies around them; the others order nothing.
#include "cuda/device.cuh"

namespace tsq::cuda {
namespace {

using emulation::Access;
using emulation::join;
using emulation::machine;
using emulation::Place;
using emulation::release;
using emulation::self;
using emulation::State;

// Others may come first: this is the one place where threads decide something by their order.
void touch(const int* address, State state, const Place& at) {
  machine().suspend(state, "an atomic", at);
  size_t offset;
  emulation::findBuffer(address, &offset, at).access(Access::kAtomic, offset, sizeof(int), emulation::actor(at));
}

void releaseTo(const int* address) {
  auto& published = machine().published(address);
  published = join(published, release(self().clock, static_cast<uint32_t>(machine().launch().threads)));
}

void acquireFrom(const int* address) {
  self().clock.seen = join(self().clock.seen, machine().published(address));
}

}  // namespace

int atomicAdd(Global<int> to, int value, Place at) {
  touch(to.pointer, State::kReady, at);
  const int old = *to.pointer;
  *to.pointer = old + value;
  return old;
}

int atomicAddSync(Global<int> to, int value, Place at) {
  touch(to.pointer, State::kReady, at);
  const int old = *to.pointer;
  *to.pointer = old + value;
  releaseTo(to.pointer);
  acquireFrom(to.pointer);
  return old;
}

int loadAcquire(Global<const int> from, Place at) {
  touch(from.pointer, State::kPolling, at);  // loops on it wait for others
  acquireFrom(from.pointer);
  return *from.pointer;
}

void storeRelease(Global<int> to, int value, Place at) {
  touch(to.pointer, State::kReady, at);
  *to.pointer = value;
  releaseTo(to.pointer);
}

}  // namespace tsq::cuda
