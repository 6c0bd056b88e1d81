// One job at a time. Callers queue by ticket; the one being served publishes its job in a single 64-bit word, the
// gate, and works on it as worker 0. Workers enter through the gate while it is open and take tasks off a counter. When
// the counter is used up the caller closes the gate and waits for those who entered, so a worker that is asleep or has
// lost its CPU never holds up a call.
#include "runtime/thread_pool.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#include "runtime/cpu_count.h"
#include "runtime/pin_module.h"

namespace tsq {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::nanoseconds kSpin{std::chrono::microseconds(ThreadPool::kSpinMicroseconds)};
constexpr std::chrono::nanoseconds kShortSpin{1'000};
constexpr std::chrono::nanoseconds kYieldAfter{4'000};

inline void pauseCpu() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb");  // `yield` is a no-op on most cores
#endif
}

// True as soon as done() is, false after `limit`.
template <typename Done>
bool spinUntil(std::chrono::nanoseconds limit, Done done) {
  if (done()) return true;
  const Clock::time_point begin = Clock::now();
  for (Clock::time_point now = begin; now - begin < limit; now = Clock::now()) {
    for (int i = 0; i < 16; ++i) {
      pauseCpu();
      if (done()) return true;
    }
    // On a busy machine the thread waited for may be queued behind this one.
    if (now - begin > kYieldAfter) std::this_thread::yield();
  }
  return done();
}

// The gate: bits 0-9 workers inside, bits 10-19 limit (workers with an id below it may enter; 0 = closed),
// bits 20-63 number of the job.
constexpr int kLimitShift = 10, kJobShift = 20;
constexpr uint64_t kFieldMask = 0x3ff;
constexpr uint64_t insideOf(uint64_t gate) {
  return gate & kFieldMask;
}
constexpr uint64_t limitOf(uint64_t gate) {
  return (gate >> kLimitShift) & kFieldMask;
}
constexpr uint64_t jobOf(uint64_t gate) {
  return gate >> kJobShift;
}
static_assert(ThreadPool::kMaxThreads < static_cast<int>(kFieldMask));

// The worker id of the task this thread is inside of, -1 outside. Trivial, so that thread exit runs no destructor.
thread_local int currentWorker = -1;

void runInPlace(int64_t tasks, int worker, const TaskRef& fn) {
  for (int64_t task = 0; task < tasks; ++task) fn(task, worker);
}

// A place for one thread to sleep.
struct alignas(64) Bed {
  std::mutex mutex;
  std::condition_variable wake;
  void ring() {
    { std::lock_guard<std::mutex> lock(mutex); }  // whoever holds it has not fallen asleep yet
    wake.notify_all();
  }
};

struct Worker {
  Bed bed;
  std::atomic<bool> stop{false};
  std::thread thread;
};

}  // namespace

struct ThreadPool::State {
  // Rarely written.
  const int cpus = availableCpus();
  std::atomic<int> wanted{std::min(cpus, kMaxThreads)};
  int running = 1;     // threads of the job being served, the caller included; changed by the ticket holder only
  int configured = 1;  // the value of `wanted` that `running` answers
  Worker workers[kMaxThreads];  // [0] is the caller's place and never used

  // Queue of callers.
  alignas(64) std::atomic<uint32_t> nextTicket{0};
  alignas(64) std::atomic<uint32_t> serving{0};
  std::atomic<int> queueSleepers{0};
  Bed queue;

  // The job.
  alignas(64) std::atomic<uint64_t> gate{0};
  const TaskRef* fn = nullptr;
  int64_t tasks = 0;
  alignas(64) std::atomic<int64_t> nextTask{0};
  alignas(64) std::atomic<bool> callerAsleep{false};
  Bed caller;
  // One bit a worker: asleep. Set by the worker, taken away by whoever wakes it.
  alignas(64) std::atomic<uint64_t> asleep[kMaxThreads / 64] = {};

  // How long to wait awake, where `threads` threads are about.
  std::chrono::nanoseconds spin(int threads) const { return threads <= cpus ? kSpin : kShortSpin; }
  void enterQueue();
  void leaveQueue();
  void resize(int threads);
  void wakeWorkers(int limit);
  void work(int worker);
  void finish();
  void workerMain(int id, uint64_t lastJob);
  void sleep(int id, uint64_t lastJob);
};

void ThreadPool::State::enterQueue() {
  const uint32_t ticket = nextTicket.fetch_add(1, std::memory_order_relaxed);
  const auto served = [&] { return serving.load(std::memory_order_seq_cst) == ticket; };
  // The caller ahead and its workers are busy: only spin on a CPU that they leave free.
  if (spinUntil(spin(wanted.load(std::memory_order_relaxed) + 1), served)) return;
  queueSleepers.fetch_add(1, std::memory_order_seq_cst);
  {
    std::unique_lock<std::mutex> lock(queue.mutex);
    queue.wake.wait(lock, served);
  }
  queueSleepers.fetch_sub(1, std::memory_order_relaxed);
}

void ThreadPool::State::leaveQueue() {
  serving.fetch_add(1, std::memory_order_seq_cst);
  if (queueSleepers.load(std::memory_order_seq_cst) > 0) queue.ring();
}

// Holder of the ticket only; no worker is inside the gate.
void ThreadPool::State::resize(int threads) {
  for (int id = threads; id < running; ++id) workers[id].stop.store(true, std::memory_order_seq_cst);
  for (int id = threads; id < running; ++id) {
    asleep[id / 64].fetch_and(~(uint64_t{1} << (id % 64)), std::memory_order_seq_cst);
    workers[id].bed.ring();
    workers[id].thread.join();
  }
  running = std::min(running, threads);
  if (running < threads) pinModule();
  const uint64_t lastJob = jobOf(gate.load(std::memory_order_relaxed));
  while (running < threads) {
    Worker& worker = workers[running];
    worker.stop.store(false, std::memory_order_relaxed);
    try {
      worker.thread = std::thread([this, id = running, lastJob] { workerMain(id, lastJob); });
    } catch (const std::system_error&) {
      break;  // the system's limit of threads: go on with those there are
    }
    ++running;
  }
  configured = threads;
}

void ThreadPool::State::wakeWorkers(int limit) {
  for (int word = 0; word * 64 < limit; ++word) {
    const int inWord = std::min(64, limit - word * 64);
    const uint64_t mask = inWord == 64 ? ~uint64_t{0} : (uint64_t{1} << inWord) - 1;
    if ((asleep[word].load(std::memory_order_seq_cst) & mask) == 0) continue;
    uint64_t mine = asleep[word].fetch_and(~mask, std::memory_order_seq_cst) & mask;
    for (; mine != 0; mine &= mine - 1) workers[word * 64 + std::countr_zero(mine)].bed.ring();
  }
}

void ThreadPool::State::work(int worker) {
  const TaskRef function = *fn;
  const int64_t end = tasks;
  currentWorker = worker;
  for (int64_t task; (task = nextTask.fetch_add(1, std::memory_order_relaxed)) < end;) function(task, worker);
  currentWorker = -1;
}

// Closes the gate and waits for the workers inside.
void ThreadPool::State::finish() {
  gate.fetch_and(~(kFieldMask << kLimitShift), std::memory_order_seq_cst);
  const auto empty = [&] { return insideOf(gate.load(std::memory_order_seq_cst)) == 0; };
  if (spinUntil(spin(running), empty)) return;
  callerAsleep.store(true, std::memory_order_seq_cst);
  {
    std::unique_lock<std::mutex> lock(caller.mutex);
    caller.wake.wait(lock, empty);
  }
  callerAsleep.store(false, std::memory_order_relaxed);
}

void ThreadPool::State::workerMain(int id, uint64_t lastJob) {
  const Worker& self = workers[id];
  const uint64_t ownId = static_cast<uint64_t>(id);
  uint64_t seen = 0, noticed = lastJob;
  // Something happened: a new job, or one that came and went. More follow, so that the wait begins anew.
  const auto called = [&] {
    seen = gate.load(std::memory_order_acquire);
    return jobOf(seen) != noticed || self.stop.load(std::memory_order_relaxed);
  };
  while (true) {
    if (!spinUntil(spin(wanted.load(std::memory_order_relaxed)), called)) {
      sleep(id, lastJob);
      continue;
    }
    if (self.stop.load(std::memory_order_acquire)) return;
    if (limitOf(seen) <= ownId || jobOf(seen) == lastJob) {
      noticed = jobOf(seen);
      continue;
    }
    if (!gate.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel, std::memory_order_relaxed)) continue;
    lastJob = noticed = jobOf(seen);
    work(id);
    const uint64_t before = gate.fetch_sub(1, std::memory_order_seq_cst);
    const bool last = insideOf(before) == 1 && limitOf(before) == 0;
    if (last && callerAsleep.load(std::memory_order_seq_cst)) caller.ring();
  }
}

// Until a caller wants this worker or it is to stop. Wakes for any new job, even one that is over by then: more follow.
void ThreadPool::State::sleep(int id, uint64_t lastJob) {
  Worker& self = workers[id];
  std::atomic<uint64_t>& word = asleep[id / 64];
  const uint64_t bit = uint64_t{1} << (id % 64);
  std::unique_lock<std::mutex> lock(self.bed.mutex);
  word.fetch_or(bit, std::memory_order_seq_cst);
  // A caller that opened the gate before it could see the bit will not ring.
  const uint64_t now = gate.load(std::memory_order_seq_cst);
  const bool called = limitOf(now) > static_cast<uint64_t>(id) && jobOf(now) != lastJob;
  if (called || self.stop.load(std::memory_order_seq_cst)) {
    word.fetch_and(~bit, std::memory_order_seq_cst);
    return;
  }
  self.bed.wake.wait(lock, [&] { return (word.load(std::memory_order_seq_cst) & bit) == 0; });
}

ThreadPool::ThreadPool() : state_(new State) {}

ThreadPool& ThreadPool::instance() {
  // Leaked on purpose: at process exit the workers are asleep on its locks, which no destructor may touch.
  static ThreadPool* const pool = new ThreadPool;
  return *pool;
}

void ThreadPool::setThreads(int threads) {
  state_->wanted.store(std::clamp(threads, 1, kMaxThreads), std::memory_order_relaxed);
}

int ThreadPool::threads() const {
  return state_->wanted.load(std::memory_order_relaxed);
}

void ThreadPool::run(int64_t tasks, TaskRef fn, int maxWorkers) {
  if (tasks <= 0) return;
  if (currentWorker >= 0) {
    runInPlace(tasks, currentWorker, fn);
    return;
  }
  if (tasks == 1 || maxWorkers <= 1 || threads() == 1) {
    currentWorker = 0;
    runInPlace(tasks, 0, fn);
    currentWorker = -1;
    return;
  }
  State& s = *state_;
  s.enterQueue();
  const int wanted = threads();
  if (wanted != s.configured) s.resize(wanted);
  const int limit = static_cast<int>(std::min<int64_t>(tasks, std::min(s.running, maxWorkers)));
  s.fn = &fn;
  s.tasks = tasks;
  s.nextTask.store(0, std::memory_order_relaxed);
  const uint64_t job = jobOf(s.gate.load(std::memory_order_relaxed)) + 1;
  s.gate.store(job << kJobShift | static_cast<uint64_t>(limit) << kLimitShift, std::memory_order_seq_cst);
  s.wakeWorkers(limit);
  s.work(0);
  s.finish();
  s.leaveQueue();
}

void ThreadPool::shutdown() {
  if (currentWorker >= 0) return;
  state_->enterQueue();
  state_->resize(1);
  state_->leaveQueue();
}

}  // namespace tsq
