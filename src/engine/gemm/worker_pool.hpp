// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "psa/plan.hpp"
#include "psa/types.hpp"

namespace psa::engine {

/// The threads of a model. Matrix products, element-wise work and, through share_with(), psa's own
/// attention run on this one set, so that no two pools compete for the processors.
///
/// One loop at a time: a pool serves one caller, and a body must not start another loop on it.
class WorkerPool {
 public:
  /// `threads` 0 means one per processor that this process may use; else 1..1024. The thread that
  /// calls is one of them. Throws Error(kInvalidArgument) for another count.
  explicit WorkerPool(int threads = 0);
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;
  ~WorkerPool();

  [[nodiscard]] int workers() const { return static_cast<int>(threads_.size()) + 1; }

  /// Calls body(item, worker) once for every item in 0..count-1; a worker takes the next item when
  /// it is done with its last. The first exception stops the handing-out and is rethrown here.
  void for_each(index_t count, const std::function<void(index_t item, int worker)>& body);

  /// Makes plans of `options` run on these threads. The pool must outlive the plans.
  void share_with(PlanOptions& options);

 private:
  using Task = std::function<void(int worker)>;

  void run(int workers, const Task& task);
  void serve(int worker);
  static void run_hook(void* pool, std::int32_t workers, void (*task)(void*, int), void* argument);

  std::mutex mutex_;
  std::condition_variable work_ready_;
  std::condition_variable work_done_;
  const Task* task_ = nullptr;  ///< must not throw
  int others_ = 0;              ///< threads 1..others_ take part in the current task
  int running_ = 0;             ///< of them, those that have not finished it
  std::uint64_t generation_ = 0;
  bool is_stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace psa::engine
