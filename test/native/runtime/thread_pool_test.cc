#include "runtime/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

namespace {

using tsq::ThreadPool;
using Clock = std::chrono::steady_clock;

// Sets a number of threads for one test.
class Threads {
 public:
  explicit Threads(int threads) : before_(ThreadPool::instance().threads()) {
    ThreadPool::instance().setThreads(threads);
  }
  ~Threads() { ThreadPool::instance().setThreads(before_); }

 private:
  int before_;
};

double microseconds(Clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

// A task per thread, each of which waits until all have begun: proves that every thread takes part. False after 30 s.
bool meet(int threads) {
  std::atomic<int> arrived{0};
  std::atomic<bool> late{false};
  ThreadPool::instance().run(threads, [&](int64_t, int) {
    arrived.fetch_add(1);
    const Clock::time_point begin = Clock::now();
    while (arrived.load() < threads && !late.load()) {
      std::this_thread::yield();
      if (microseconds(begin) > 30e6) late.store(true);
    }
  });
  return !late.load();
}

}  // namespace

TEST(pool_default_threads) {
  const int threads = ThreadPool::instance().threads();
  CHECK(threads >= 1 && threads <= ThreadPool::kMaxThreads);
  CHECK_MSG(threads <= static_cast<int>(std::max(1u, std::thread::hardware_concurrency())), std::to_string(threads));
}

TEST(pool_every_task_once) {
  for (const int threads : {1, 2, 3, 8}) {
    const Threads scope(threads);
    for (const int64_t tasks : {0, 1, 2, 3, 7, 64, 1000}) {
      std::vector<std::atomic<int>> hits(static_cast<size_t>(tasks));
      std::atomic<bool> inRange{true};
      ThreadPool::instance().run(tasks, [&](int64_t task, int worker) {
        hits[static_cast<size_t>(task)].fetch_add(1, std::memory_order_relaxed);
        if (worker < 0 || worker >= threads) inRange.store(false);
      });
      bool once = true;
      for (const auto& hit : hits) once = once && hit.load() == 1;
      CHECK_MSG(once && inRange.load(), std::to_string(threads) + " threads, " + std::to_string(tasks) + " tasks");
    }
  }
}

// Plain (not atomic) writes of the tasks are visible after run(), those of the caller inside the tasks.
TEST(pool_writes_are_visible) {
  const Threads scope(3);
  std::vector<int64_t> values(500);
  for (int64_t round = 0; round < 200; ++round) {
    const int64_t offset = round;
    ThreadPool::instance().run(500, [&](int64_t task, int) { values[static_cast<size_t>(task)] += task + offset; });
  }
  bool right = true;
  for (int64_t i = 0; i < 500; ++i) right = right && values[static_cast<size_t>(i)] == 200 * i + 199 * 200 / 2;
  CHECK(right);
}

// A worker id is used by one thread at a time, and the caller is worker 0.
TEST(pool_worker_ids_are_exclusive) {
  const Threads scope(4);
  std::atomic<int> users[4] = {};
  std::atomic<bool> exclusive{true}, callerIsZero{true};
  const std::thread::id caller = std::this_thread::get_id();
  for (int round = 0; round < 300; ++round) {
    ThreadPool::instance().run(16, [&](int64_t, int worker) {
      if (users[worker].fetch_add(1) != 0) exclusive.store(false);
      if ((worker == 0) != (std::this_thread::get_id() == caller)) callerIsZero.store(false);
      users[worker].fetch_sub(1);
    });
  }
  CHECK(exclusive.load());
  CHECK(callerIsZero.load());
}

TEST(pool_all_threads_take_part) {
  for (const int threads : {2, 5, 16}) {
    const Threads scope(threads);
    CHECK_MSG(meet(threads), std::to_string(threads));
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // now they are asleep
    CHECK_MSG(meet(threads), std::to_string(threads) + " after a pause");
  }
}

TEST(pool_max_workers) {
  const Threads scope(6);
  std::atomic<int> highest{0};
  std::mutex mutex;
  for (int round = 0; round < 100; ++round) {
    ThreadPool::instance().run(
        40,
        [&](int64_t, int worker) {
          std::lock_guard<std::mutex> lock(mutex);
          highest.store(std::max(highest.load(), worker));
        },
        3);
  }
  CHECK_MSG(highest.load() < 3, std::to_string(highest.load()));
}

TEST(pool_nested_runs_in_place) {
  for (const int threads : {1, 3}) {
    const Threads scope(threads);
    std::atomic<int> inner{0};
    std::atomic<bool> samePlace{true};
    ThreadPool::instance().run(12, [&](int64_t, int worker) {
      const std::thread::id self = std::this_thread::get_id();
      int64_t next = 0;
      ThreadPool::instance().run(5, [&](int64_t task, int innerWorker) {
        if (innerWorker != worker || std::this_thread::get_id() != self || task != next++) samePlace.store(false);
        inner.fetch_add(1);
      });
    });
    CHECK(inner.load() == 60);
    CHECK(samePlace.load());
  }
}

TEST(pool_clamps_threads) {
  const Threads scope(1);
  ThreadPool& pool = ThreadPool::instance();
  pool.setThreads(0);
  CHECK(pool.threads() == 1);
  pool.setThreads(-7);
  CHECK(pool.threads() == 1);
  pool.setThreads(1 << 20);
  CHECK(pool.threads() == ThreadPool::kMaxThreads);
}

TEST(pool_shrinks_and_grows) {
  const Threads scope(1);
  ThreadPool& pool = ThreadPool::instance();
  for (const int threads : {4, 2, 9, 3, 1, 2, 70}) {
    pool.setThreads(threads);
    CHECK_MSG(meet(threads), std::to_string(threads));
  }
}

TEST(pool_shutdown_and_restart) {
  const Threads scope(3);
  ThreadPool& pool = ThreadPool::instance();
  pool.shutdown();
  pool.shutdown();  // nothing left to join
  CHECK(pool.threads() == 3);
  for (int round = 0; round < 20; ++round) {
    CHECK(meet(3));
    pool.shutdown();
  }
  std::atomic<int> done{0};
  pool.run(4, [&](int64_t, int) {
    pool.shutdown();  // inside a task: refused, it would wait for itself
    done.fetch_add(1);
  });
  CHECK(done.load() == 4);
  CHECK(meet(3));
}

TEST(pool_concurrent_callers) {
  const Threads scope(3);
  std::atomic<int64_t> total{0};
  std::atomic<bool> stop{false};
  std::thread meddler([&] {
    for (int i = 0; !stop.load(); ++i) {
      ThreadPool::instance().setThreads(2 + i % 4);
      if (i % 8 == 0) ThreadPool::instance().shutdown();
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  });
  std::vector<std::thread> callers;
  std::atomic<bool> right{true};
  for (int c = 0; c < 5; ++c) {
    callers.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        std::atomic<int64_t> sum{0};
        ThreadPool::instance().run(17, [&](int64_t task, int) { sum.fetch_add(task + 1); });
        if (sum.load() != 17 * 18 / 2) right.store(false);
        total.fetch_add(sum.load());
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  stop.store(true);
  meddler.join();
  CHECK(right.load());
  CHECK(total.load() == 5 * 200 * 17 * 18 / 2);
}

// While one call holds the pool, others queue; they are served in the order they came.
TEST(pool_first_come_first_served) {
  const Threads scope(2);
  std::mutex mutex;
  std::vector<int> order;
  std::atomic<int> queued{0};
  std::vector<std::thread> callers;
  ThreadPool::instance().run(2, [&](int64_t task, int) {
    if (task != 0) return;
    for (int c = 0; c < 6; ++c) {
      callers.emplace_back([&, c] {
        queued.store(c + 1);
        ThreadPool::instance().run(2, [&](int64_t inner, int) {
          if (inner != 0) return;
          std::lock_guard<std::mutex> lock(mutex);
          order.push_back(c);
        });
      });
      while (queued.load() <= c) std::this_thread::yield();
      std::this_thread::sleep_for(std::chrono::milliseconds(50));  // from the signal to the ticket
    }
    std::lock_guard<std::mutex> lock(mutex);
    CHECK(order.empty());
  });
  for (std::thread& caller : callers) caller.join();
  CHECK((order == std::vector<int>{0, 1, 2, 3, 4, 5}));
}

// Calls that need the worker, after pauses of every length about the time at which it falls asleep: with a lost wake-up
// the two would not meet.
TEST(pool_wakes_reliably) {
  const Threads scope(2);
  bool met = true;
  for (int round = 0; round < 4000 && met; ++round) {
    const Clock::time_point begin = Clock::now();
    const double pause = ThreadPool::kSpinMicroseconds - 4.0 + 0.02 * (round % 1000);
    while (microseconds(begin) < pause) {
    }
    met = meet(2);
  }
  CHECK(met);
}

TEST(pool_dispatch_time) {
  const Threads scope(2);
  CHECK(meet(2));
  std::vector<double> empty, both;
  for (int round = 0; round < 5000; ++round) {
    Clock::time_point begin = Clock::now();
    ThreadPool::instance().run(2, [](int64_t, int) {});
    empty.push_back(microseconds(begin));
    begin = Clock::now();
    meet(2);
    both.push_back(microseconds(begin));
  }
  std::sort(empty.begin(), empty.end());
  std::sort(both.begin(), both.end());
  std::printf("# run() of 2 empty tasks: median %.2f us, p99 %.2f us; with both threads arriving: %.2f us, %.2f us\n",
              empty[2500], empty[4950], both[2500], both[4950]);
  // Generous: a machine under load must not fail, a pool that sleeps between calls on free CPUs does.
  CHECK_MSG(empty[2500] < 1000, std::to_string(empty[2500]));
}

TEST(abort_flag) {
  int32_t word = 0;
  const tsq::AbortFlag none, flag(&word);
  CHECK(!none.raised() && !flag.raised());
  word = 1;
  CHECK(!none.raised() && flag.raised());
}
