#include "base/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

namespace kvferry {
namespace {

using testing::HasSubstr;

TEST(MetricsTest, SerialisesWhatWasCounted) {
  Metrics metrics;
  metrics.counter("kvferry_requests_total", "Requests.", {{"code", "200"}}).add();
  metrics.counter("kvferry_requests_total", "Requests.", {{"code", "200"}}).add(2);
  metrics.counter("kvferry_requests_total", "Requests.", {{"code", "500"}}).add();
  metrics.gauge("kvferry_pool_bytes", "Pool.").set(4096);
  metrics.gauge("kvferry_pool_bytes", "Pool.").add(-96);
  Histogram& seconds = metrics.histogram("kvferry_step_seconds", "Steps.", {}, {0.5, 1});
  seconds.observe(0.25);
  seconds.observe(0.75);
  seconds.observe(5);
  const std::string text = metrics.serialize();
  EXPECT_THAT(text, HasSubstr("# HELP kvferry_requests_total Requests.\n"
                              "# TYPE kvferry_requests_total counter\n"));
  EXPECT_THAT(text, HasSubstr("kvferry_requests_total{code=\"200\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("kvferry_requests_total{code=\"500\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("# TYPE kvferry_pool_bytes gauge\nkvferry_pool_bytes 4000\n"));
  EXPECT_THAT(text, HasSubstr("kvferry_step_seconds_count 3\n"));
  EXPECT_THAT(text, HasSubstr("kvferry_step_seconds_sum 6\n"));
  EXPECT_THAT(text, HasSubstr("kvferry_step_seconds_bucket{le=\"0.5\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("kvferry_step_seconds_bucket{le=\"1\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("kvferry_step_seconds_bucket{le=\"+Inf\"} 3\n"));
}

TEST(MetricsTest, SameNameAndLabelsAreTheSameMetric) {
  Metrics metrics;
  Counter& one = metrics.counter("kvferry_a_total", "A.", {{"x", "1"}, {"y", "2"}});
  Counter& same = metrics.counter("kvferry_a_total", "A.", {{"y", "2"}, {"x", "1"}});
  Counter& other = metrics.counter("kvferry_a_total", "A.", {{"x", "1"}, {"y", "3"}});
  EXPECT_EQ(&one, &same);
  EXPECT_NE(&one, &other);
  one.add(5);
  EXPECT_EQ(same.value(), 5);
  EXPECT_EQ(other.value(), 0);
}

TEST(MetricsTest, DefaultBucketsAscend) {
  EXPECT_TRUE(std::is_sorted(Metrics::kSecondsBuckets.begin(), Metrics::kSecondsBuckets.end()));
  Metrics metrics;
  metrics.histogram("kvferry_wait_seconds", "Waits.").observe(0.0007);
  EXPECT_THAT(metrics.serialize(), HasSubstr("kvferry_wait_seconds_bucket{le=\"0.0005\"} 0\n"));
  EXPECT_THAT(metrics.serialize(), HasSubstr("kvferry_wait_seconds_bucket{le=\"0.001\"} 1\n"));
}

TEST(MetricsTest, AnyThread) {
  Metrics metrics;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&metrics, t] {
      for (int i = 0; i < 200; ++i) {
        metrics.counter("kvferry_all_total", "All.").add();
        metrics.gauge("kvferry_each", "Each.", {{"thread", std::to_string(t)}}).set(i);
        if (i % 50 == 0) static_cast<void>(metrics.serialize());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(metrics.counter("kvferry_all_total", "All.").value(), 800);
}

TEST(MetricsDeathTest, OneNameHasOneKindAndOneHelp) {
  Metrics metrics;
  metrics.counter("kvferry_a_total", "A.");
  EXPECT_DEATH(metrics.gauge("kvferry_a_total", "A."), "kvferry_a_total");
  EXPECT_DEATH(metrics.counter("kvferry_a_total", "Another."), "kvferry_a_total");
}

}  // namespace
}  // namespace kvferry
