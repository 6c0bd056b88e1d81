#include "runtime/cpu_count.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>

#include <cerrno>
#endif

namespace tsq {

namespace {

std::string readText(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  if (file) text << file.rdbuf();
  return text.str();
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

bool listHas(const std::string& list, const std::string& item) {
  const std::vector<std::string> items = split(list, ',');
  return std::find(items.begin(), items.end(), item) != items.end();
}

// Quota and period in microseconds of one cgroup folder, as CPUs rounded up; 0 for no limit.
int folderLimit(const std::string& folder, bool v2) {
  double quota = 0, period = 0;
  if (v2) {
    std::istringstream(readText(folder + "/cpu.max")) >> quota >> period;  // "max 100000" leaves 0
  } else {
    std::istringstream(readText(folder + "/cpu.cfs_quota_us")) >> quota;  // -1: none
    std::istringstream(readText(folder + "/cpu.cfs_period_us")) >> period;
  }
  if (!(quota > 0) || !(period > 0)) return 0;
  const double cpus = quota / period;
  if (cpus >= 1e6) return 0;
  const int whole = static_cast<int>(cpus);
  return std::max(1, whole + (cpus > whole ? 1 : 0));
}

// One hierarchy as this process sees it: where it is mounted and which part of it the mount shows.
struct Mount {
  std::string folder, shown;
  bool v2;
};

// Lines of mountinfo: id parent major:minor root mountpoint options [tags] - type source superoptions (proc(5)).
std::vector<Mount> cgroupMounts(const std::string& mountinfo) {
  std::vector<Mount> mounts;
  for (const std::string& line : split(mountinfo, '\n')) {
    const std::vector<std::string> fields = split(line, ' ');
    const auto dash = std::find(fields.begin(), fields.end(), "-");
    if (fields.size() < 6 || fields.end() - dash < 4) continue;
    const bool v2 = dash[1] == "cgroup2";
    if (v2 || (dash[1] == "cgroup" && listHas(dash[3], "cpu"))) mounts.push_back({fields[4], fields[3], v2});
  }
  return mounts;
}

// This process's path in the hierarchy. Lines of /proc/self/cgroup: id:controllers:path, v2 with no controllers.
std::string cgroupPath(const std::string& table, bool v2) {
  for (const std::string& line : split(table, '\n')) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (v2 ? controllers.empty() : listHas(controllers, "cpu")) return line.substr(second + 1);
  }
  return "";
}

int affinityCpus() {
#if defined(__linux__)
  // The kernel refuses (EINVAL) a mask shorter than its own, which no header states.
  for (int cpus = 1024; cpus <= 1 << 20; cpus *= 2) {
    cpu_set_t* set = CPU_ALLOC(static_cast<size_t>(cpus));
    if (set == nullptr) break;
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(cpus));
    const bool known = sched_getaffinity(0, bytes, set) == 0;
    const bool tooShort = !known && errno == EINVAL;
    const int count = known ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (known) return count;
    if (!tooShort) break;
  }
#endif
  return static_cast<int>(std::thread::hardware_concurrency());
}

}  // namespace

int cgroupCpuLimit(const std::string& root) {
  const std::string table = readText(root + "/proc/self/cgroup");
  int lowest = 0;
  for (const Mount& mount : cgroupMounts(readText(root + "/proc/self/mountinfo"))) {
    std::string path = cgroupPath(table, mount.v2);
    // A container without its own cgroup namespace sees the host's path, of which only a part is mounted.
    if (mount.shown != "/" && path.compare(0, mount.shown.size(), mount.shown) == 0) {
      path.erase(0, mount.shown.size());
    }
    while (!path.empty() && path.back() == '/') path.pop_back();
    while (true) {
      const int limit = folderLimit(root + mount.folder + path, mount.v2);
      if (limit > 0) lowest = lowest == 0 ? limit : std::min(lowest, limit);
      if (path.empty()) break;
      const size_t slash = path.rfind('/');
      path.erase(slash == std::string::npos ? 0 : slash);
    }
  }
  return lowest;
}

int availableCpus() {
  const int cpus = std::max(1, affinityCpus());
#if defined(__linux__)
  const int limit = cgroupCpuLimit("");
  if (limit > 0) return std::min(cpus, limit);
#endif
  return cpus;
}

}  // namespace tsq
