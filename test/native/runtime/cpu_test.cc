#include <algorithm>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

#include "check.h"
#include "runtime/cpu_count.h"
#include "runtime/cpu_features.h"

namespace {

namespace fs = std::filesystem;
using tsq::CpuFeatures;

// A made-up system: files under a temporary root.
class System {
 public:
  System() {
    std::random_device random;
    root_ = fs::temp_directory_path() / ("tsq-cpu-" + std::to_string(random()) + std::to_string(random()));
  }
  ~System() {
    std::error_code ignored;
    fs::remove_all(root_, ignored);
  }
  System& with(const std::string& path, const std::string& content) {
    const fs::path file = root_ / path;
    fs::create_directories(file.parent_path());
    std::ofstream(file) << content;
    return *this;
  }
  int limit() const { return tsq::cgroupCpuLimit(root_.string()); }

 private:
  fs::path root_;
};

const char* const kV2Mount = "25 20 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
const char* const kV1Mounts =
    "30 29 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "31 29 0:26 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "32 29 0:27 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n";

}  // namespace

TEST(cgroup_none) {
  const System empty;
  CHECK(empty.limit() == 0);
}

TEST(cgroup_v2_quota_is_rounded_up) {
  const struct {
    const char* max;
    int cpus;
  } cases[] = {{"max 100000\n", 0},  {"200000 100000\n", 2}, {"150000 100000\n", 2},
               {"1000 100000\n", 1}, {"50000 25000\n", 2},   {"", 0},
               {"garbage\n", 0},     {"100000 0\n", 0}};
  for (const auto& c : cases) {
    System system;
    system.with("proc/self/cgroup", "0::/app\n").with("proc/self/mountinfo", kV2Mount);
    system.with("sys/fs/cgroup/app/cpu.max", c.max);
    CHECK_MSG(system.limit() == c.cpus, std::string(c.max) + " gives " + std::to_string(system.limit()));
  }
}

TEST(cgroup_v2_lowest_ancestor_counts) {
  System system;
  system.with("proc/self/cgroup", "0::/pod/app/child\n").with("proc/self/mountinfo", kV2Mount);
  system.with("sys/fs/cgroup/pod/cpu.max", "300000 100000\n");
  system.with("sys/fs/cgroup/pod/app/cpu.max", "max 100000\n");
  system.with("sys/fs/cgroup/pod/app/child/cpu.max", "800000 100000\n");
  CHECK_MSG(system.limit() == 3, std::to_string(system.limit()));
}

TEST(cgroup_v1) {
  System system;
  system.with("proc/self/cgroup", "9:memory:/m\n4:cpu,cpuacct:/docker/abc\n3:cpuset:/other\n0::/\n");
  system.with("proc/self/mountinfo", kV1Mounts);
  const std::string folder = "sys/fs/cgroup/cpu,cpuacct/docker/abc/";
  system.with(folder + "cpu.cfs_quota_us", "-1\n").with(folder + "cpu.cfs_period_us", "100000\n");
  CHECK(system.limit() == 0);
  system.with(folder + "cpu.cfs_quota_us", "250000\n");
  CHECK_MSG(system.limit() == 3, std::to_string(system.limit()));
}

// Without a cgroup namespace the path names the host's tree, of which the container mounts its own part.
TEST(cgroup_v1_mounted_part) {
  System system;
  system.with("proc/self/cgroup", "4:cpu:/docker/abc/inner\n");
  system.with("proc/self/mountinfo", "31 29 0:26 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n");
  const std::string mount = "sys/fs/cgroup/cpu/";
  system.with(mount + "cpu.cfs_quota_us", "400000\n").with(mount + "cpu.cfs_period_us", "100000\n");
  CHECK_MSG(system.limit() == 4, std::to_string(system.limit()));
  system.with(mount + "inner/cpu.cfs_quota_us", "60000\n").with(mount + "inner/cpu.cfs_period_us", "50000\n");
  CHECK_MSG(system.limit() == 2, std::to_string(system.limit()));
}

TEST(available_cpus) {
  const int cpus = tsq::availableCpus();
  CHECK(cpus >= 1);
#if defined(__linux__)
  cpu_set_t all, one;
  CPU_ZERO(&all);
  if (sched_getaffinity(0, sizeof all, &all) != 0) return;  // a machine of more CPUs than cpu_set_t holds
  CHECK_MSG(cpus <= CPU_COUNT(&all), std::to_string(cpus));
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &all) && CPU_COUNT(&one) == 0) CPU_SET(cpu, &one);
  }
  CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
  CHECK_MSG(tsq::availableCpus() == 1, std::to_string(tsq::availableCpus()));
  CHECK(sched_setaffinity(0, sizeof all, &all) == 0);
  CHECK(tsq::availableCpus() == cpus);
#endif
}

// Every bit that a class stands on, taken away alone, takes the class away.
TEST(features_x86_need_every_bit) {
  using tsq::x86Features;
  using tsq::X86Words;
  const auto mask = [](std::initializer_list<int> bits) {
    uint32_t word = 0;
    for (const int bit : bits) word |= uint32_t{1} << bit;
    return word;
  };
  X86Words full;
  full.leaf1Ecx = mask({12, 28, 29});         // FMA, AVX, F16C
  full.leaf7Ebx = mask({5, 16, 17, 30, 31});  // AVX2, AVX512 F, DQ, BW, VL
  full.leaf7Ecx = mask({1, 11});              // VBMI, VNNI
  full.leaf71Eax = mask({4, 5});              // AVX-VNNI, AVX512-BF16
  full.xcr0 = 0xe7;
  CHECK(x86Features(full).names().size() == 6);
  CHECK(x86Features(X86Words{}).names().empty());
  for (const int bit : {12, 28, 29}) {
    X86Words words = full;
    words.leaf1Ecx &= ~mask({bit});
    CHECK_MSG(x86Features(words).names().empty(), std::to_string(bit));
  }
  for (const int bit : {16, 17, 30, 31}) {
    X86Words words = full;
    words.leaf7Ebx &= ~mask({bit});
    CHECK_MSG((x86Features(words).names() == std::vector<std::string>{"avx2", "avxvnni"}), std::to_string(bit));
  }
  X86Words words = full;
  words.leaf7Ebx &= ~mask({5});
  CHECK(x86Features(words).names().empty());
  // The processor has it all, the system does not save the registers.
  for (const int bit : {1, 2}) {
    words = full;
    words.xcr0 &= ~uint64_t{mask({bit})};
    CHECK_MSG(x86Features(words).names().empty(), std::to_string(bit));
  }
  for (const int bit : {5, 6, 7}) {
    words = full;
    words.xcr0 &= ~uint64_t{mask({bit})};
    CHECK_MSG((x86Features(words).names() == std::vector<std::string>{"avx2", "avxvnni"}), std::to_string(bit));
  }
  words = full;
  words.leaf7Ecx = mask({1});
  words.leaf71Eax = mask({5});
  CHECK((x86Features(words).names() == std::vector<std::string>{"avx2", "avx512", "avx512bf16", "avx512vbmi"}));
  words.leaf7Ecx = mask({11});
  words.leaf71Eax = mask({4});
  CHECK((x86Features(words).names() == std::vector<std::string>{"avx2", "avxvnni", "avx512", "avx512vnni"}));
}

TEST(features_imply_each_other) {
  const CpuFeatures& f = tsq::cpuFeatures();
  CHECK(&f == &tsq::cpuFeatures());
  CHECK(!f.avx512 || f.avx2);
  CHECK(!f.avxvnni || f.avx2);
  CHECK(!(f.avx512vnni || f.avx512bf16 || f.avx512vbmi) || f.avx512);
  CHECK(!(f.dotprod || f.i8mm || f.armbf16 || f.fp16) || f.neon);
  CHECK(!(f.avx2 && f.neon));
#if defined(__aarch64__)
  CHECK(f.neon);
#endif
}

TEST(features_names) {
  CHECK(CpuFeatures{}.names().empty());
  CpuFeatures all;
  all.avx2 = all.avx512 = all.avx512vnni = all.avx512bf16 = all.avx512vbmi = all.avxvnni = true;
  all.neon = all.dotprod = all.i8mm = all.armbf16 = all.fp16 = true;
  const std::vector<std::string> names = all.names();
  CHECK(names.size() == 11);
  CpuFeatures some;
  some.avx2 = some.avx512vnni = true;
  CHECK((some.names() == std::vector<std::string>{"avx2", "avx512vnni"}));
}

// The kernel's own list of flags, which it also limits to what it saves.
TEST(features_agree_with_kernel) {
#if defined(__linux__)
  std::ifstream file("/proc/cpuinfo");
  std::vector<std::string> flags;
  for (std::string line; std::getline(file, line) && flags.empty();) {
    if (line.rfind("flags", 0) != 0 && line.rfind("Features", 0) != 0) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    for (std::string word; words >> word;) flags.push_back(word);
  }
  if (flags.empty()) return;
  const auto has = [&](const char* flag) { return std::find(flags.begin(), flags.end(), flag) != flags.end(); };
  const CpuFeatures& f = tsq::cpuFeatures();
#if defined(__x86_64__)
  CHECK(f.avx2 == (has("avx2") && has("fma") && has("f16c")));
  CHECK(f.avx512 == (has("avx512f") && has("avx512bw") && has("avx512dq") && has("avx512vl")));
  CHECK(f.avx512vnni == (f.avx512 && has("avx512_vnni")));
  CHECK(f.avx512bf16 == (f.avx512 && has("avx512_bf16")));
  CHECK(f.avx512vbmi == (f.avx512 && has("avx512vbmi")));
  CHECK(f.avxvnni == has("avx_vnni"));
#elif defined(__aarch64__)
  if (!has("asimd")) return;  // user-mode emulation shows the host's flags
  CHECK(f.dotprod == has("asimddp"));
  CHECK(f.i8mm == has("i8mm"));
#endif
#endif
}
