// Disaggregated output equals single-process output token for token: every combination of prompt
// length, codec, sampling, concurrency and number of workers, 216 prompts; among them requests of
// several choices, with penalties, and with log-probabilities.

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <thread>

#include "cluster_fixture.h"

namespace kvferry::e2e {
namespace {

constexpr std::uint32_t kLengths[] = {1, 63, 64, 65, 127, 128, 129, 500, 2000};
constexpr const char* kCodecs[] = {"raw", "hadamard | hack(k=4,v=2)", "hadamard | hack(k=2,v=2)"};

std::vector<Ask> all_asks() {
  std::vector<Ask> asks;
  std::uint64_t seed = 100;
  for (const std::uint32_t length : kLengths) {
    for (const char* codec : kCodecs) {
      for (const float temperature : {0.0f, 0.9f}) {
        Ask ask{random_prompt(++seed, length), codec, temperature, seed, 16};
        // Every combination of the three, over the others' combinations.
        ask.choices = seed % 2 == 0 ? 3 : 1;
        ask.penalties = seed / 2 % 2 == 0;
        ask.logprobs = seed / 4 % 2 == 0;
        asks.push_back(std::move(ask));
      }
    }
  }
  return asks;
}

const std::vector<Answer>& undisturbed(const std::vector<Ask>& asks) {
  static const std::vector<Answer> answers = [&] {
    std::vector<Answer> made;
    auto single = Undisturbed::create();
    EXPECT_TRUE(single.ok()) << single.status().to_string();
    if (!single.ok()) return made;
    for (const Ask& ask : asks) {
      auto answer = (*single)->answer(ask);
      EXPECT_TRUE(answer.ok()) << answer.status().to_string();
      made.push_back(answer.ok() ? *answer : Answer{});
    }
    return made;
  }();
  return answers;
}

// Asks everything with `concurrency` clients; half of the requests stream.
void expect_same(const Cluster& cluster, std::uint32_t concurrency) {
  const std::vector<Ask> asks = all_asks();
  const std::vector<Answer>& expected = undisturbed(asks);
  ASSERT_EQ(expected.size(), asks.size());
  std::atomic<std::size_t> next{0};
  auto client = [&] {
    for (std::size_t i; (i = next++) < asks.size();) {
      const auto answer =
          i % 2 == 0 ? complete(cluster.url(), asks[i]) : stream(cluster.url(), asks[i]);
      ASSERT_TRUE(answer.ok()) << answer.status().to_string();
      EXPECT_EQ(answer->status, 200) << answer->error;
      EXPECT_EQ(answer->ids, expected[i].ids)
          << "length " << asks[i].prompt.size() << ", " << asks[i].codec << ", temperature "
          << asks[i].temperature << ", concurrency " << concurrency;
      EXPECT_EQ(answer->others, expected[i].others) << "length " << asks[i].prompt.size();
      EXPECT_EQ(answer->logprobs, expected[i].logprobs) << "length " << asks[i].prompt.size();
      EXPECT_EQ(answer->finish_reason, expected[i].finish_reason);
    }
  };
  std::vector<std::thread> clients;
  for (std::uint32_t i = 0; i < concurrency; ++i) clients.emplace_back(client);
  for (std::thread& thread : clients) thread.join();
}

// Nothing is leased or pinned when nothing runs; the rest is the staging of an idle process.
void expect_idle(const Cluster& cluster) {
  for (const std::string& worker : cluster.workers()) {
    const Status idle = cluster.wait_metric(worker, "kvferry_requests_active",
                                            [](double active) { return active == 0; });
    EXPECT_TRUE(idle.ok()) << idle.to_string();
    for (const char* extents : {"closed", "open"}) {
      const Status none = cluster.wait_metric(
          worker, "kvferry_pool_bytes", [](double bytes) { return bytes == 0; },
          std::string("class=\"") + extents + "\"");
      EXPECT_TRUE(none.ok()) << none.to_string();
    }
  }
}

class SameAnswers : public testing::TestWithParam<std::uint32_t> {};

TEST_P(SameAnswers, AtConcurrencyOneAndSixteen) {
  ClusterOptions options;
  options.prefill = options.decode = GetParam();
  options.arguments = {"--local-prefill-tokens", "0"};  // every prompt crosses the wire
  auto cluster = Cluster::start(options);
  ASSERT_TRUE(cluster.ok()) << cluster.status().to_string();
  expect_same(**cluster, 1);
  expect_idle(**cluster);
  expect_same(**cluster, 16);
  expect_idle(**cluster);
  const auto stopped = (*cluster)->stop();
  ASSERT_TRUE(stopped.ok()) << stopped.status().to_string();
  EXPECT_EQ(*stopped, 0);
}

INSTANTIATE_TEST_SUITE_P(WorkersOfEachKind, SameAnswers, testing::Values(1u, 2u));

// A prompt below the limit is prefilled on the decode worker, with the same answer.
TEST(LocalPrefill, SameAnswers) {
  ClusterOptions options;
  options.arguments = {"--local-prefill-tokens", "130"};
  auto cluster = Cluster::start(options);
  ASSERT_TRUE(cluster.ok()) << cluster.status().to_string();
  expect_same(**cluster, 4);
  expect_idle(**cluster);
}

}  // namespace
}  // namespace kvferry::e2e
