#include "base/engine_thread.h"

#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <thread>
#include <vector>

#include "base/clock.h"

namespace kvferry {
namespace {

TEST(EngineThreadTest, RunsTasksInOrderOnOneThread) {
  EngineThread engine;
  std::vector<int> order;
  std::thread::id first_id;
  std::thread::id last_id;
  std::promise<void> done;
  engine.post([&] { first_id = std::this_thread::get_id(); });  // before start: waits for it
  engine.start();
  for (int i = 0; i < 100; ++i) engine.post([&order, i] { order.push_back(i); });
  engine.post([&] {
    last_id = std::this_thread::get_id();
    done.set_value();
  });
  done.get_future().wait();
  ASSERT_EQ(order.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
  EXPECT_EQ(first_id, last_id);
  EXPECT_NE(first_id, std::this_thread::get_id());
}

TEST(EngineThreadTest, StepsWhileThereIsWorkThenSleeps) {
  EngineThread engine;
  int left = 0;
  int idle_turns = 0;
  std::promise<void> finished;
  engine.add_stepper([&] {
    if (left == 0) {
      ++idle_turns;
      return false;
    }
    if (--left == 0) finished.set_value();
    return true;
  });
  engine.start();
  engine.post([&] { left = 1000; });
  finished.get_future().wait();
  std::promise<int> turns;
  engine.post([&] { turns.set_value(idle_turns); });
  // At most one turn after each of: the start, the last step, the posts.
  EXPECT_LE(turns.get_future().get(), 4);
}

TEST(EngineThreadTest, PostFromInsideATask) {
  EngineThread engine;
  std::promise<void> done;
  engine.start();
  engine.post([&] { engine.post([&] { done.set_value(); }); });
  done.get_future().wait();
}

TEST(EngineThreadTest, StopDropsWhatIsLeftAndTakesNothingMore) {
  EngineThread engine;
  std::promise<void> entered;
  bool ran = false;
  engine.post([&] {
    entered.set_value();
    // Until stop() is under way, which shows in a posted task that is dropped at once.
    for (;;) {
      const auto probe = std::make_shared<int>(0);
      engine.post([&ran, probe] { ran = true; });
      if (probe.use_count() == 1) return;
      std::this_thread::yield();
    }
  });
  engine.start();
  entered.get_future().wait();
  engine.stop();
  engine.stop();
  engine.post([&] { ran = true; });
  EXPECT_FALSE(ran);
}

TEST(EngineThreadTest, IsStillOnlyWhileATaskHangs) {
  EngineThread engine;
  EXPECT_EQ(engine.still_ns(), 0u) << "not started";
  std::promise<void> entered;
  std::promise<void> go_on;
  engine.start();
  engine.post([&] {
    entered.set_value();
    go_on.get_future().wait();
  });
  entered.get_future().wait();
  const std::uint64_t hung = monotonic_ns();
  std::uint64_t now = hung;
  while (now == hung) now = monotonic_ns();
  EXPECT_GE(engine.still_ns(), now - hung) << "grows while the task hangs";
  std::promise<void> after;
  go_on.set_value();
  const std::uint64_t posted = monotonic_ns();
  engine.post([&] { after.set_value(); });
  after.get_future().wait();
  const std::uint64_t still = engine.still_ns();
  EXPECT_LE(still, monotonic_ns() - posted) << "the loop has turned since the post";
  while (engine.still_ns() != 0) std::this_thread::yield();  // nothing is left to do: 0, and stays
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(engine.still_ns(), 0u);
}

}  // namespace
}  // namespace kvferry
