// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/parallel.hpp"

namespace psa::core {
namespace {

TEST(Executor, RunsEachItemOnce) {
  for (int threads : {1, 2, 5}) {
    const Executor executor(threads);
    std::vector<std::atomic<int>> seen(1000);
    executor.for_each(1000, [&](index_t i, int worker) {
      EXPECT_GE(worker, 0);
      EXPECT_LT(worker, threads);
      ++seen[static_cast<std::size_t>(i)];
    });
    for (const auto& count : seen) EXPECT_EQ(count, 1);
  }
}

TEST(Executor, AcceptsNoItems) {
  Executor(3).for_each(0, [](index_t, int) { FAIL(); });
}

TEST(Executor, WorkersOfOneCallNeverShareAnIndex) {
  const Executor executor(4);
  std::vector<std::atomic<int>> inside(4);
  executor.for_each(2000, [&](index_t, int worker) {
    EXPECT_EQ(inside[static_cast<std::size_t>(worker)]++, 0);
    std::this_thread::yield();
    --inside[static_cast<std::size_t>(worker)];
  });
}

TEST(Executor, RethrowsTheFirstExceptionAndStopsEarly) {
  const Executor executor(2);
  std::atomic<int> calls{0};
  EXPECT_THROW(executor.for_each(1'000'000,
                                 [&](index_t, int) {
                                   ++calls;
                                   throw std::runtime_error("item failed");
                                 }),
               std::runtime_error);
  EXPECT_LT(calls, 1000);
  executor.for_each(10, [&](index_t, int) { ++calls; });  // still usable
}

TEST(Executor, ServesConcurrentAndNestedCallers) {
  const Executor executor(3);
  std::atomic<int> items{0};
  std::vector<std::jthread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 20; ++repeat) {
        executor.for_each(
            8, [&](index_t, int) { executor.for_each(2, [&](index_t, int) { ++items; }); });
      }
    });
  }
  callers.clear();
  EXPECT_EQ(items, 4 * 20 * 8 * 2);
}

TEST(Executor, UsesTheCallersThreadsWhenGiven) {
  int runs = 0;
  const ParallelHook hook{[](void* context, int workers, void (*task)(void*, int), void* task_arg) {
                            ++*static_cast<int*>(context);
                            for (int w = workers - 1; w >= 0; --w)
                              task(task_arg, w);  // any order is allowed
                          },
                          &runs};
  const Executor executor(4, hook);
  std::atomic<int> items{0};
  executor.for_each(100, [&](index_t, int) { ++items; });
  EXPECT_EQ(items, 100);
  EXPECT_EQ(runs, 1);
}

}  // namespace
}  // namespace psa::core
