// cp.async: copies of 16 bytes from global to shared memory that a thread issues, commits in groups, and waits for.
#pragma once
#include "cuda/emulation/machine.h"

namespace tsq::emulation {

// The last 16 - sourceBytes become zero, and no byte is read for them.
void issueCopy(size_t to, const void* from, int sourceBytes, const Place& at);
void commitCopies();
// Until at most `left` of this thread's groups are under way.
void waitCopies(size_t left, const Place& at);

}  // namespace tsq::emulation
