// SPDX-License-Identifier: Apache-2.0
#include "engine/gemm/worker_pool.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <stdexcept>
#include <vector>

#include "psa/error.hpp"

namespace psa::engine {
namespace {

TEST(WorkerPool, EveryItemRunsOnceOnAKnownWorker) {
  for (const int threads : {1, 2, 5}) {
    WorkerPool pool(threads);
    EXPECT_EQ(pool.workers(), threads);
    for (const index_t count : {index_t{0}, index_t{1}, index_t{3}, index_t{1000}}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(count));
      pool.for_each(count, [&](index_t item, int worker) {
        ++runs[static_cast<std::size_t>(item)];
        EXPECT_GE(worker, 0);
        EXPECT_LT(worker, threads);
      });
      for (const std::atomic<int>& run : runs) EXPECT_EQ(run, 1);
    }
  }
}

TEST(WorkerPool, ManyShortLoopsFollowEachOther) {
  WorkerPool pool(3);
  index_t sum = 0;
  for (int round = 0; round < 2000; ++round) {
    std::atomic<index_t> items{0};
    pool.for_each(4, [&](index_t, int) { ++items; });
    sum += items;
  }
  EXPECT_EQ(sum, 8000);
}

TEST(WorkerPool, AnExceptionEndsTheLoopAndReachesTheCaller) {
  WorkerPool pool(2);
  std::atomic<index_t> after{0};
  const auto fail = [&](index_t item, int) {
    if (item == 3) throw std::runtime_error("item 3");
    if (item > 100'000) ++after;
  };
  EXPECT_THROW(pool.for_each(10'000'000, fail), std::runtime_error);
  EXPECT_LT(after, 9'000'000);
  std::atomic<int> again{0};
  pool.for_each(8, [&](index_t, int) { ++again; });
  EXPECT_EQ(again, 8);
}

TEST(WorkerPool, PlansRunOnItsThreads) {
  WorkerPool pool(2);
  PlanOptions options;
  pool.share_with(options);
  EXPECT_EQ(options.num_threads, 2);
  struct Calls {
    std::atomic<int> sum{0};
  } calls;
  const auto task = [](void* argument, int worker) {
    static_cast<Calls*>(argument)->sum += worker + 1;
  };
  options.parallel_for(options.parallel_context, 2, task, &calls);
  EXPECT_EQ(calls.sum, 3);
  options.parallel_for(options.parallel_context, 1, task, &calls);
  EXPECT_EQ(calls.sum, 4);
}

TEST(WorkerPool, ThreadCountsOutOfRangeAreRefused) {
  EXPECT_GE(WorkerPool(0).workers(), 1);
  EXPECT_THROW(WorkerPool(-1), Error);
  EXPECT_THROW(WorkerPool(1025), Error);
}

}  // namespace
}  // namespace psa::engine
