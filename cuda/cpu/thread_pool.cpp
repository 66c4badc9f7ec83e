// SPDX-License-Identifier: GPL-3.0-or-later
#include "thread_pool.h"

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <new>
#include <stdexcept>
#include <system_error>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace peel {
namespace {

constexpr int kMaxThreads = 256;

struct Job {
  void (*function)(void*, int64_t, int);
  void* context;
  int64_t tasks;
  std::atomic<int64_t> next{0};
  std::atomic<bool> out_of_memory{false}, failed{false};
  int open_places;  // helpers that may still join; guarded by the pool's mutex, like the rest
  int joined = 0;
  std::atomic<int> active{0};  // written under the mutex

  void work(int worker) noexcept {
    try {
      for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
        function(context, task, worker);
      }
    } catch (const std::bad_alloc&) {
      out_of_memory = true;
      next = tasks;
    } catch (...) {
      failed = true;
      next = tasks;
    }
  }
};

// A frame is a handful of short jobs, and waking a thread takes longer than the pause between two:
// whoever waits looks around for some 30 microseconds before it goes to sleep.
template <class Condition>
void spin_until(Condition&& condition) {
  for (int i = 0; i < 64; ++i) {
    if (condition()) return;
    for (int pause = 0; pause < 16; ++pause) {
#if defined(__x86_64__) || defined(_M_X64)
      __builtin_ia32_pause();
#elif defined(__aarch64__)
      asm volatile("yield");
#endif
    }
  }
}

// The caller of a job always works on it itself, so a job ends even when no helper is free, when
// threads cannot be created, and in a forked child, which has none.
class Pool {
 public:
  void run(int threads, Job& job) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (helpers_ < threads - 1) {
        try {
          std::thread([this] { help(); }).detach();
        } catch (const std::system_error&) {
          break;
        }
        ++helpers_;
      }
      queue_.push_back(&job);
      posted_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    job.work(0);
    std::unique_lock<std::mutex> lock(mutex_);
    for (auto it = queue_.begin(); it != queue_.end(); ++it) {
      if (*it == &job) {
        queue_.erase(it);
        break;
      }
    }
    if (job.active != 0) {
      lock.unlock();
      spin_until([&] { return job.active.load(std::memory_order_acquire) == 0; });
      lock.lock();  // a helper that has left the job may still hold it
    }
    done_.wait(lock, [&] { return job.active == 0; });
  }

 private:
  void help() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return !queue_.empty(); });
      Job& job = *queue_.front();
      const int worker = ++job.joined;
      ++job.active;
      if (--job.open_places == 0) queue_.pop_front();
      lock.unlock();
      job.work(worker);
      lock.lock();
      if (--job.active == 0) done_.notify_all();
      if (queue_.empty()) {
        const uint64_t seen = posted_.load(std::memory_order_relaxed);
        lock.unlock();
        spin_until([&] { return posted_.load(std::memory_order_acquire) != seen; });
        lock.lock();
      }
    }
  }

  std::mutex mutex_;
  std::atomic<uint64_t> posted_{0};  // jobs so far
  std::condition_variable wake_, done_;
  std::deque<Job*> queue_;
  int helpers_ = 0;
};

// Never destroyed: helpers sleep in it until the process ends.
Pool*& pool() {
  static Pool* instance = [] {
#if defined(__unix__) || defined(__APPLE__)
    // A forked child inherits the mutexes in any state but none of the threads.
    pthread_atfork(nullptr, nullptr, [] { pool() = new (std::nothrow) Pool; });
#endif
    return new Pool;
  }();
  return instance;
}

int available_cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return static_cast<int>(std::thread::hardware_concurrency());
}

}  // namespace

int resolve_threads(int requested) {
  int threads = requested;
  if (threads <= 0) {
    const char* text = std::getenv("PEEL4D_THREADS");
    threads = text ? std::atoi(text) : 0;
  }
  if (threads <= 0) threads = available_cores();
  if (threads < 1) threads = 1;
  return threads < kMaxThreads ? threads : kMaxThreads;
}

void parallel_for_raw(int threads, int64_t tasks, void (*function)(void*, int64_t, int),
                      void* context) {
  if (tasks < threads) threads = static_cast<int>(tasks);
  if (threads <= 1 || pool() == nullptr) {
    for (int64_t task = 0; task < tasks; ++task) function(context, task, 0);
    return;
  }
  Job job;
  job.function = function;
  job.context = context;
  job.tasks = tasks;
  job.open_places = threads - 1;
  pool()->run(threads, job);
  if (job.out_of_memory) throw std::bad_alloc();
  if (job.failed) throw std::runtime_error("a task of the splat core failed");
}

}  // namespace peel
