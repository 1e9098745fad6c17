// SPDX-License-Identifier: Apache-2.0
#include "core/parallel.hpp"

#include <sched.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

namespace psa::core {

/// Threads that help the callers of run(): each call offers its workers 1..n-1 to the pool and does
/// the work of worker 0 itself, so that a call ends even when every pool thread is busy elsewhere.
class ThreadPool {
 public:
  explicit ThreadPool(int threads) {
    for (int i = 1; i < threads; ++i) {
      threads_.emplace_back([this](const std::stop_token& stop) { serve(stop); });
    }
  }

  void run(int workers, const std::function<void(int worker)>& task) {
    Job job{&task, 1, workers, 0};
    {
      const std::lock_guard lock(mutex_);
      if (workers > 1) jobs_.push_back(&job);
    }
    work_ready_.notify_all();
    task(0);
    std::unique_lock lock(mutex_);
    // Workers that no thread took have nothing left to do: worker 0 emptied the list of items.
    std::erase(jobs_, &job);
    job_done_.wait(lock, [&] { return job.running == 0; });
  }

 private:
  struct Job {
    const std::function<void(int)>* task;
    int next_worker;
    int workers;
    int running;
  };

  void serve(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    while (work_ready_.wait(lock, stop, [&] { return !jobs_.empty(); })) {
      Job& job = *jobs_.front();
      const int worker = job.next_worker++;
      ++job.running;
      if (job.next_worker == job.workers) jobs_.pop_front();
      lock.unlock();
      (*job.task)(worker);
      lock.lock();
      if (--job.running == 0) job_done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable_any work_ready_;
  std::condition_variable job_done_;
  std::deque<Job*> jobs_;
  std::vector<std::jthread> threads_;  // last: stops and joins before the rest goes
};

namespace {

int processors_of_this_process() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

/// One pool per thread count, alive as long as an executor uses it.
std::shared_ptr<ThreadPool> shared_pool(int threads) {
  static std::mutex mutex;
  static std::map<int, std::weak_ptr<ThreadPool>> pools;
  const std::lock_guard lock(mutex);
  std::shared_ptr<ThreadPool> pool = pools[threads].lock();
  if (pool == nullptr) {
    pool = std::make_shared<ThreadPool>(threads);
    pools[threads] = pool;
  }
  return pool;
}

}  // namespace

Executor::Executor(int threads, ParallelHook hook)
    : workers_(threads > 0 ? threads : processors_of_this_process()), hook_(hook) {
  if (hook_.run == nullptr && workers_ > 1) pool_ = shared_pool(workers_);
}

void Executor::for_each(index_t count, const std::function<void(index_t, int)>& body) const {
  std::atomic<index_t> next{0};
  std::mutex mutex;
  std::exception_ptr failure;
  const std::function<void(int)> work = [&](int worker) {
    try {
      for (index_t i = next++; i < count; i = next++) body(i, worker);
    } catch (...) {
      next = count;
      const std::lock_guard lock(mutex);
      if (failure == nullptr) failure = std::current_exception();
    }
  };
  const int workers = static_cast<int>(std::min<index_t>(workers_, count));
  if (workers <= 1) {
    work(0);
  } else if (hook_.run != nullptr) {
    hook_.run(
        hook_.context, workers,
        [](void* task, int worker) {
          (*static_cast<const std::function<void(int)>*>(task))(worker);
        },
        const_cast<void*>(static_cast<const void*>(&work)));
  } else {
    pool_->run(workers, work);
  }
  if (failure != nullptr) std::rethrow_exception(failure);
}

}  // namespace psa::core
