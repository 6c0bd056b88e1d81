// The one pool of worker threads of the process.
#pragma once
#include <atomic>
#include <cstdint>
#include <type_traits>

namespace tsq {

// A borrowed callable: two words, no allocation. The callee must outlive the call.
class TaskRef {
 public:
  template <typename F, typename = std::enable_if_t<!std::is_same_v<std::decay_t<F>, TaskRef>>>
  TaskRef(F&& function)  // NOLINT: implicit on purpose
      : object_(const_cast<void*>(static_cast<const void*>(&function))),
        call_([](void* object, int64_t task, int worker) {
          (*static_cast<std::remove_reference_t<F>*>(object))(task, worker);
        }) {}
  void operator()(int64_t task, int worker) const { call_(object_, task, worker); }

 private:
  void* object_;
  void (*call_)(void*, int64_t, int);
};

class ThreadPool {
 public:
  static constexpr int kMaxThreads = 256;
  // How long an idle thread keeps its CPU before it sleeps: longer than the gap between two operations of a forward
  // pass, and than what JavaScript does between two tokens. Waking a thread costs its caller more than ten
  // microseconds. With more threads than CPUs the CPU is needed by another at once.
  static constexpr int kSpinMicroseconds = 200;
  static ThreadPool& instance();  // never destroyed; shutdown() joins the workers

  // Number of threads that take part in a call, the caller included. Default: the CPUs this process may use
  // (affinity and cgroup quota). Safe while calls run: takes effect with the next call.
  void setThreads(int threads);
  int threads() const;

  // Runs fn(task, worker) for every task in [0, tasks), worker in [0, threads()). Tasks are handed out one by one;
  // results must not depend on which worker runs which task. Returns when all are done. Concurrent callers are served
  // first come, first served; a call from inside a task runs in place on that worker. fn must not throw.
  // Only workers below maxWorkers take part: pass the threads() by which a scratch area was sized, since setThreads()
  // may come in between. One task, or one thread, runs in place without queueing: worker ids are unique within a call,
  // not between concurrent ones.
  void run(int64_t tasks, TaskRef fn, int maxWorkers = kMaxThreads);

  // Waits for the calls ahead and joins the workers; the next run() starts new ones. Does nothing inside a task.
  void shutdown();

 private:
  ThreadPool();
  struct State;
  State* state_;
};

// A flag that the caller of long work may raise; null never is raised.
class AbortFlag {
 public:
  AbortFlag() = default;
  explicit AbortFlag(const int32_t* flag) : flag_(flag) {}
  bool raised() const { return flag_ != nullptr && __atomic_load_n(flag_, __ATOMIC_RELAXED) != 0; }

 private:
  const int32_t* flag_ = nullptr;
};

}  // namespace tsq
