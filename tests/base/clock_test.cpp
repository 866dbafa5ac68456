#include "base/clock.h"

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <limits>
#include <string>
#include <vector>

namespace kvferry {
namespace {

constexpr std::uint64_t kForever = std::numeric_limits<std::uint64_t>::max();

TEST(ManualTimersTest, RunsInTimeOrderAndAtTheirTimes) {
  ManualTimers timers;
  const std::uint64_t start = timers.now_ns();
  std::vector<std::pair<char, std::uint64_t>> runs;
  const auto record = [&](char name) {
    return [&, name] { runs.emplace_back(name, timers.now_ns() - start); };
  };
  timers.after(30, record('c'));
  timers.after(10, record('a'));
  timers.after(20, record('b'));
  timers.after(20, record('B'));  // same time: in the order they were set
  timers.after(41, record('d'));
  timers.advance(40);
  EXPECT_EQ(runs, (std::vector<std::pair<char, std::uint64_t>>{
                      {'a', 10}, {'b', 20}, {'B', 20}, {'c', 30}}));
  EXPECT_EQ(timers.now_ns(), start + 40);
  timers.advance(1);
  EXPECT_EQ(runs.size(), 5u);
}

TEST(ManualTimersTest, NeverInsideAt) {
  ManualTimers timers;
  bool ran = false;
  timers.at(0, [&] { ran = true; });
  EXPECT_FALSE(ran);
  timers.advance(0);
  EXPECT_TRUE(ran);
}

TEST(ManualTimersTest, CallbacksSetAndCancelTimers) {
  ManualTimers timers;
  std::string runs;
  Timers::Id victim = 0;
  timers.after(10, [&] {
    runs += '1';
    timers.cancel(victim);
    timers.after(5, [&] { runs += '2'; });
    timers.after(500, [&] { runs += 'x'; });
  });
  victim = timers.after(12, [&] { runs += 'v'; });
  timers.advance(20);
  EXPECT_EQ(runs, "12");
}

TEST(ManualTimersTest, UnknownIdsAreIgnored) {
  ManualTimers timers;
  int runs = 0;
  const Timers::Id id = timers.after(1, [&] { ++runs; });
  EXPECT_NE(id, 0u);
  timers.advance(1);
  timers.cancel(id);
  timers.cancel(0);
  timers.cancel(12345);
  timers.advance(1);
  EXPECT_EQ(runs, 1);
}

TEST(ManualTimersTest, HugeDelayNeverWraps) {
  ManualTimers timers;
  bool ran = false;
  timers.after(kForever, [&] { ran = true; });
  timers.advance(kSecond);
  EXPECT_FALSE(ran);
}

TEST(AsioTimersTest, RunsDueTimersInOrderAndLaterThanAsked) {
  boost::asio::io_context io;
  const auto timers = make_asio_timers(io);
  const std::uint64_t start = timers->now_ns();
  std::string runs;
  std::uint64_t at_b = 0;
  timers->at(start + 2 * kMillisecond, [&] {
    runs += 'b';
    at_b = timers->now_ns();
  });
  timers->at(start, [&] { runs += 'a'; });
  EXPECT_EQ(runs, "");
  io.run();
  EXPECT_EQ(runs, "ab");
  EXPECT_GE(at_b, start + 2 * kMillisecond);
}

TEST(AsioTimersTest, CancelledTimersDoNotRunEvenWhenDue) {
  boost::asio::io_context io;
  const auto timers = make_asio_timers(io);
  std::string runs;
  Timers::Id second = 0;
  // Both are due when run() starts, so the handler of the second is queued when the first cancels
  // it.
  timers->at(0, [&] {
    runs += '1';
    timers->cancel(second);
  });
  second = timers->at(0, [&] { runs += '2'; });
  const Timers::Id far = timers->after(kForever, [&] { runs += 'f'; });
  timers->cancel(far);
  timers->cancel(far);
  io.run();
  EXPECT_EQ(runs, "1");
}

TEST(AsioTimersTest, DestructionDropsPendingTimersEvenWhenDue) {
  boost::asio::io_context io;
  auto timers = make_asio_timers(io);
  std::string runs;
  timers->at(0, [&] {
    runs += '1';
    timers.reset();  // the handler of the next one is queued already
  });
  timers->at(0, [&] { runs += '2'; });
  timers->after(kForever, [&] { runs += '3'; });
  io.run();  // returns at once: no timer is left to wait for
  EXPECT_EQ(runs, "1");
}

}  // namespace
}  // namespace kvferry
