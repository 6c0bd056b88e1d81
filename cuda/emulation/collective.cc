#include "cuda/emulation/collective.h"

#include <cstring>

namespace tsq::emulation {
namespace {

bool samePlace(const Place& a, const Place& b) {
  return a.line() == b.line() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

Memory& shared() {
  return self().block->shared;
}

struct Shuffle {
  uint32_t value, result;
  int source;
  const Place* at;
};

struct Vote {
  bool predicate;
  uint32_t result;
};

struct Matrices {
  uint32_t* out;
  size_t row;
};

// PTX ISA, ldmatrix: lane l names row l % 8 of matrix l / 8 and gets elements 2 (l % 4) and the next of row l / 4,
// or, transposed, of column l / 4.
template <bool kTransposed>
void gatherMatrices(void* const* lanes) {
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto* mine = static_cast<const Matrices*>(lanes[lane]);
    for (int matrix = 0; matrix < 4; ++matrix) {
      uint16_t pair[2];
      for (int i = 0; i < 2; ++i) {
        const int along = lane % 4 * 2 + i, across = lane / 4;
        const int row = kTransposed ? along : across, column = kTransposed ? across : along;
        const auto* source = static_cast<const Matrices*>(lanes[matrix * 8 + row]);
        std::memcpy(&pair[i], shared().bytes() + source->row + column * 2, 2);
      }
      mine->out[matrix] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
    }
  }
}

}  // namespace

void collective(const char* operation, uint32_t mask, void* operands, void (*execute)(void* const* lanes),
                const Place& at) {
  Thread& thread = self();
  const int lane = thread.index % kWarp;
  auto& gatherings = thread.block->gatherings[static_cast<size_t>(thread.index / kWarp)];
  if ((mask >> lane & 1) == 0) fail(at, "divergence: lane %d takes part in %s of lanes %08x", lane, operation, mask);
  size_t i = 0;
  while (i < gatherings.size() && (gatherings[i].mask & mask) == 0) ++i;
  if (i == gatherings.size()) gatherings.push_back({operation, mask, 0, at, {}});
  Gathering& gathering = gatherings[i];
  if (std::strcmp(gathering.operation, operation) != 0 || gathering.mask != mask || !samePlace(gathering.at, at)) {
    fail(at, "divergence: lane %d comes to %s of lanes %08x while others wait in %s of lanes %08x at %s:%u", lane,
         operation, mask, gathering.operation, gathering.mask, gathering.at.file_name(),
         static_cast<unsigned>(gathering.at.line()));
  }
  gathering.arrived |= 1u << lane;
  gathering.operands[lane] = operands;
  if (gathering.arrived != mask) {
    machine().suspend(State::kWaiting, operation, at);
    return;
  }
  execute(gathering.operands);
  Thread* warp = &thread.block->threads[static_cast<size_t>(thread.index - lane)];
  for (int other = 0; other < kWarp; ++other) {
    if (other != lane && (mask >> other & 1) != 0) warp[other].state = State::kReady;
  }
  gatherings.erase(gatherings.begin() + static_cast<ptrdiff_t>(i));
}

void syncBlock(int barrier, int threads, const Place& at) {
  Thread& thread = self();
  Barrier& meeting = thread.block->barriers[barrier];
  if (meeting.arrived.empty()) meeting.at = at;
  if (!samePlace(meeting.at, at)) {
    fail(at, "divergence: comes to barrier %d while others wait in it at %s:%u", barrier, meeting.at.file_name(),
         static_cast<unsigned>(meeting.at.line()));
  }
  meeting.arrived.push_back(&thread);
  if (meeting.arrived.size() < static_cast<size_t>(threads)) {
    machine().suspend(State::kWaiting, "a barrier", at);
    return;
  }
  ++machine().outcome().barriers;
  std::vector<Clock*> clocks;
  for (Thread* other : meeting.arrived) {
    clocks.push_back(&other->clock);
    other->state = State::kReady;
  }
  meet(clocks, static_cast<uint32_t>(machine().launch().threads));
  meeting.arrived.clear();
}

void syncLanes(uint32_t mask, const Place& at) {
  collective(
      "syncWarp", mask, &self(),
      [](void* const* lanes) {
        std::vector<Clock*> clocks;
        for (int lane = 0; lane < kWarp; ++lane) {
          if (lanes[lane] != nullptr) clocks.push_back(&static_cast<Thread*>(lanes[lane])->clock);
        }
        meet(clocks, static_cast<uint32_t>(machine().launch().threads));
      },
      at);
}

uint32_t shuffle(uint32_t value, int source, uint32_t mask, const Place& at) {
  Shuffle mine{value, 0, source, &at};
  collective(
      "shuffle", mask, &mine,
      [](void* const* lanes) {
        for (int lane = 0; lane < kWarp; ++lane) {
          if (lanes[lane] == nullptr) continue;
          auto* operands = static_cast<Shuffle*>(lanes[lane]);
          const auto* from = static_cast<const Shuffle*>(lanes[operands->source % kWarp]);
          if (from == nullptr)
            fail(*operands->at, "shuffle: lane %d reads lane %d, which takes no part", lane, operands->source);
          operands->result = from->value;
        }
      },
      at);
  return mine.result;
}

uint32_t vote(bool predicate, uint32_t mask, const Place& at) {
  Vote mine{predicate, 0};
  collective(
      "ballot", mask, &mine,
      [](void* const* lanes) {
        uint32_t bits = 0;
        for (int lane = 0; lane < kWarp; ++lane) {
          if (lanes[lane] != nullptr && static_cast<Vote*>(lanes[lane])->predicate) bits |= 1u << lane;
        }
        for (int lane = 0; lane < kWarp; ++lane) {
          if (lanes[lane] != nullptr) static_cast<Vote*>(lanes[lane])->result = bits;
        }
      },
      at);
  return mine.result;
}

void loadMatrices(uint32_t (&out)[4], size_t row, bool transposed, const Place& at) {
  shared().access(Access::kRead, row, 16, actor(at));
  Matrices mine{out, row};
  if (transposed) {
    collective("ldmatrix.trans", kAllLanes, &mine, gatherMatrices<true>, at);
  } else {
    collective("ldmatrix", kAllLanes, &mine, gatherMatrices<false>, at);
  }
}

}  // namespace tsq::emulation
