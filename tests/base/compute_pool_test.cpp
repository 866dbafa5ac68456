#include "base/compute_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <set>
#include <vector>

#include "base/clock.h"

namespace kvferry {
namespace {

class ComputePoolSizes : public testing::TestWithParam<int> {};

TEST_P(ComputePoolSizes, EveryIndexRunsOnceBeforeItReturns) {
  ComputePool pool(GetParam());
  ASSERT_EQ(pool.threads(), GetParam());
  for (const std::size_t count : {0, 1, 2, 3, 7, 64, 1000}) {
    // Plain ints: a thread sanitizer sees when the return does not wait for the tasks.
    std::vector<int> runs(count, 0);
    std::atomic<bool> worker_in_range = true;
    pool.parallel_for(count, [&](std::size_t index, int worker) {
      ++runs[index];
      if (worker < 0 || worker >= GetParam()) worker_in_range = false;
    });
    EXPECT_EQ(runs, std::vector<int>(count, 1)) << count;
    EXPECT_TRUE(worker_in_range);
  }
}

TEST_P(ComputePoolSizes, ManySmallJobsInARow) {
  ComputePool pool(GetParam());
  std::uint64_t total = 0;
  for (int job = 0; job < 2000; ++job) {
    const std::size_t count = 1 + static_cast<std::size_t>(job) % 9;
    std::atomic<std::uint64_t> sum = 0;  // dies with this turn: a late task would write to it
    pool.parallel_for(count, [&sum](std::size_t index, int) { sum += index + 1; });
    ASSERT_EQ(sum.load(), count * (count + 1) / 2) << job;
    total += sum;
  }
  EXPECT_GT(total, 0u);
}

TEST_P(ComputePoolSizes, ScratchOfAWorkerIsItsOwn) {
  ComputePool pool(GetParam());
  std::vector<std::uint64_t> scratch(static_cast<std::size_t>(GetParam()), 0);
  for (int job = 0; job < 50; ++job) {
    pool.parallel_for(
        100, [&](std::size_t, int worker) { ++scratch[static_cast<std::size_t>(worker)]; });
  }
  std::uint64_t total = 0;
  for (const std::uint64_t count : scratch) total += count;
  EXPECT_EQ(total, 5000u);
}

INSTANTIATE_TEST_SUITE_P(Threads, ComputePoolSizes, testing::Values(1, 2, 3, 8, 17));

TEST(ComputePoolTest, ThreadsWorkAtTheSameTime) {
  ComputePool pool(3);
  std::mutex mutex;
  std::condition_variable all_here;
  int here = 0;
  std::set<int> workers;
  // Each task waits for the two others: only three threads at once can finish this.
  pool.parallel_for(3, [&](std::size_t, int worker) {
    std::unique_lock lock(mutex);
    workers.insert(worker);
    if (++here == 3) all_here.notify_all();
    all_here.wait(lock, [&] { return here == 3; });
  });
  EXPECT_EQ(workers, (std::set<int>{0, 1, 2}));
}

TEST(ComputePoolTest, NonPositiveSizeMeansTheCallerAlone) {
  ComputePool pool(0);
  EXPECT_EQ(pool.threads(), 1);
  int runs = 0;
  pool.parallel_for(5, [&](std::size_t, int) { ++runs; });
  EXPECT_EQ(runs, 5);
}

TEST(ComputePoolTest, CountsCpuTimeOfTasks) {
  ComputePool pool(2);
  const std::uint64_t before = pool.busy_ns();
  pool.parallel_for(4, [](std::size_t, int) {
    volatile std::uint64_t sink = 0;
    for (std::uint64_t i = 0; i < 100'000; ++i) sink = sink + i;
  });
  EXPECT_GT(pool.busy_ns(), before);
}

}  // namespace
}  // namespace kvferry
