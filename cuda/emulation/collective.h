// Operations in which lanes of a warp take part together. Each lane leaves its operands and waits; the last to come
// computes for all of them.
#pragma once
#include <cstdint>

#include "cuda/emulation/machine.h"

namespace tsq::emulation {

constexpr uint32_t kAllLanes = 0xffffffffu;

// `execute` gets the operands of the lanes in `mask`, null for the others. Lanes that meet with different operations,
// masks or places fail the launch.
void collective(const char* operation, uint32_t mask, void* operands, void (*execute)(void* const* lanes),
                const Place& at);

void syncBlock(int barrier, int threads, const Place& at);
void syncLanes(uint32_t mask, const Place& at);
uint32_t shuffle(uint32_t value, int source, uint32_t mask, const Place& at);
uint32_t vote(bool predicate, uint32_t mask, const Place& at);
// ldmatrix.x4: `row` is the offset in shared memory of the 16 bytes that this lane names.
void loadMatrices(uint32_t (&out)[4], size_t row, bool transposed, const Place& at);

}  // namespace tsq::emulation
