// SPDX-License-Identifier: Apache-2.0
#pragma once

// The only place that knows about threads.

#include <atomic>
#include <functional>
#include <memory>

#include "psa/types.hpp"

namespace psa::core {

/// A caller's own threads: must call task(task_arg, worker) once for each worker in 0..workers-1,
/// concurrently or not, and return when all have returned. `task` does not throw.
struct ParallelHook {
  void (*run)(void* context, int workers, void (*task)(void* task_arg, int worker),
              void* task_arg) = nullptr;
  void* context = nullptr;
};

class ThreadPool;

/// Runs loops over independent items on `workers()` workers. Thread-safe: several calls may run at
/// once on one executor; each has its own workers 0..workers()-1.
class Executor {
 public:
  /// `threads` 0 means one per processor that this process may use. Without a hook the threads come
  /// from one pool per thread count, shared by the process.
  explicit Executor(int threads = 0, ParallelHook hook = {});

  [[nodiscard]] int workers() const { return workers_; }

  /// Calls body(item, worker) for every item in 0..count-1; a worker takes the next item when it is
  /// done with its last, so items may differ in cost. The order of items on one worker is rising.
  /// The first exception of a body stops the handing-out of items and is rethrown here.
  void for_each(index_t count, const std::function<void(index_t item, int worker)>& body) const;

 private:
  int workers_;
  ParallelHook hook_;
  std::shared_ptr<ThreadPool> pool_;
};

}  // namespace psa::core
