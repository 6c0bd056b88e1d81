// How many processors this process may use.
#pragma once
#include <string>

namespace tsq {

// CPUs in the affinity mask, at most the cgroup's quota rounded up; at least 1.
int availableCpus();

// The CPU bandwidth limit of this process's cgroup (v1 or v2) in whole CPUs, rounded up: the lowest of the cgroup and
// its ancestors. 0 when there is no limit or no cgroup. `root` is put before every path (for tests; "" is the system).
int cgroupCpuLimit(const std::string& root);

}  // namespace tsq
