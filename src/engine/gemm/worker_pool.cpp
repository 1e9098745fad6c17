// SPDX-License-Identifier: Apache-2.0
#include "engine/gemm/worker_pool.hpp"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <string>

#include "psa/error.hpp"

namespace psa::engine {
namespace {

constexpr int kMaxThreads = 1024;

int processors_of_this_process() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace

WorkerPool::WorkerPool(int threads) {
  if (threads < 0 || threads > kMaxThreads) {
    throw Error(Status::kInvalidArgument, "the number of threads is " + std::to_string(threads) +
                                              "; allowed are 0 (one per processor) to " +
                                              std::to_string(kMaxThreads));
  }
  const int wanted = threads > 0 ? threads : std::min(processors_of_this_process(), kMaxThreads);
  for (int worker = 1; worker < wanted; ++worker) {
    threads_.emplace_back([this, worker] { serve(worker); });
  }
}

WorkerPool::~WorkerPool() {
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  work_ready_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void WorkerPool::for_each(index_t count,
                          const std::function<void(index_t item, int worker)>& body) {
  std::atomic<index_t> next{0};
  std::mutex failure_mutex;
  std::exception_ptr failure;
  const Task task = [&](int worker) {
    try {
      for (index_t item = next++; item < count; item = next++) body(item, worker);
    } catch (...) {
      next = count;
      const std::lock_guard lock(failure_mutex);
      if (failure == nullptr) failure = std::current_exception();
    }
  };
  run(static_cast<int>(std::min<index_t>(workers(), count)), task);
  if (failure != nullptr) std::rethrow_exception(failure);
}

void WorkerPool::share_with(PlanOptions& options) {
  options.num_threads = workers();
  options.parallel_for = &WorkerPool::run_hook;
  options.parallel_context = this;
}

void WorkerPool::run_hook(void* pool, std::int32_t workers, void (*task)(void*, int),
                          void* argument) {
  static_cast<WorkerPool*>(pool)->run(workers, [&](int worker) { task(argument, worker); });
}

void WorkerPool::run(int workers, const Task& task) {
  if (workers <= 0) return;
  const int others = std::min(workers, this->workers()) - 1;
  if (others > 0) {
    const std::lock_guard lock(mutex_);
    task_ = &task;
    others_ = others;
    running_ = others;
    ++generation_;
  }
  work_ready_.notify_all();
  task(0);
  for (int worker = others + 1; worker < workers; ++worker) task(worker);
  std::unique_lock lock(mutex_);
  work_done_.wait(lock, [&] { return running_ == 0; });
}

void WorkerPool::serve(int worker) {
  std::uint64_t seen = 0;
  std::unique_lock lock(mutex_);
  while (true) {
    work_ready_.wait(lock, [&] { return is_stopping_ || generation_ != seen; });
    if (is_stopping_) return;
    seen = generation_;
    if (worker > others_) continue;
    const Task& task = *task_;
    lock.unlock();
    task(worker);
    lock.lock();
    if (--running_ == 0) work_done_.notify_one();
  }
}

}  // namespace psa::engine
