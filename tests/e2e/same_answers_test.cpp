// Disaggregated output equals single-process output token for token: every combination of prompt
// length, codec, sampling, concurrency and number of workers, 216 prompts for each model, and 96
// with codecs of other kinds; among them requests of several choices, with penalties, and with
// log-probabilities. The models are the bundled one and a random checkpoint of every architecture.

#include <gtest/gtest.h>

#include <atomic>
#include <iterator>
#include <set>
#include <span>
#include <thread>

#include "base/compute_pool.h"
#include "cluster_fixture.h"
#include "kernels/isa.h"
#include "model/model.h"
#include "random_checkpoint.h"

namespace kvferry::e2e {
namespace {

constexpr std::uint32_t kLengths[] = {1, 63, 64, 65, 127, 128, 129, 500, 2000};
constexpr const char* kBundled = "mini";

std::vector<Ask> asks_of_length(std::span<const std::uint32_t> lengths) {
  std::vector<Ask> asks;
  std::uint64_t seed = 100;
  for (const std::uint32_t length : lengths) {
    for (std::size_t codec = 0; codec < std::size(kCodecs); ++codec) {
      for (const float temperature : {0.0f, 0.9f}) {
        ++seed;
        if (codec >= kOtherCodecs && length != 65 && length != 129 && length != 500) continue;
        Ask ask{random_prompt(seed, length), kCodecs[codec], temperature, seed, 16};
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

// A model and what one process answers with it.
struct Served {
  std::unique_ptr<RandomCheckpoint> checkpoint;  // null for the bundled model
  std::filesystem::path directory = model_directory();
  std::vector<Ask> asks;
  std::vector<Answer> answers;
};

Served serve(const std::string& name, std::span<const std::uint32_t> lengths) {
  Served served;
  served.asks = asks_of_length(lengths);
  if (name != kBundled) {
    auto made = RandomCheckpoint::create(name);
    EXPECT_TRUE(made.ok()) << made.status().to_string();
    if (!made.ok()) return served;
    served.checkpoint = std::move(*made);
    served.directory = served.checkpoint->directory();
  }
  auto single = Undisturbed::create(served.directory);
  EXPECT_TRUE(single.ok()) << single.status().to_string();
  if (!single.ok()) return served;
  std::set<std::vector<std::int32_t>> distinct;
  for (const Ask& ask : served.asks) {
    auto answer = (*single)->answer(ask);
    EXPECT_TRUE(answer.ok()) << answer.status().to_string();
    served.answers.push_back(answer.ok() ? *answer : Answer{});
    distinct.insert(served.answers.back().ids);
  }
  // Or answers that are equal here would say little.
  EXPECT_GT(distinct.size(), served.asks.size() * 3 / 4) << name;
  return served;
}

const Served& served(const std::string& name) {
  static std::map<std::string, Served> all;
  const auto known = all.find(name);
  return known != all.end() ? known->second
                            : all.emplace(name, serve(name, kLengths)).first->second;
}

// Asks everything with `concurrency` clients; half of the requests stream.
void expect_same(const Cluster& cluster, const Served& of, std::uint32_t concurrency) {
  const std::vector<Ask>& asks = of.asks;
  const std::vector<Answer>& expected = of.answers;
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

using ModelAndWorkers = std::tuple<const char*, std::uint32_t>;
class SameAnswers : public testing::TestWithParam<ModelAndWorkers> {};

TEST_P(SameAnswers, AtConcurrencyOneAndSixteen) {
  const auto& [name, workers] = GetParam();
  ClusterOptions options;
  options.model = served(name).directory;
  options.prefill = options.decode = workers;
  options.arguments = {"--local-prefill-tokens", "0"};  // every prompt crosses the wire
  auto cluster = Cluster::start(options);
  ASSERT_TRUE(cluster.ok()) << cluster.status().to_string();
  for (const std::uint32_t concurrency : {1u, 16u}) {
    expect_same(**cluster, served(name), concurrency);
    expect_idle(**cluster);
  }
  const auto stopped = (*cluster)->stop();
  ASSERT_TRUE(stopped.ok()) << stopped.status().to_string();
  EXPECT_EQ(*stopped, 0);
}

std::string name_of(const testing::TestParamInfo<ModelAndWorkers>& test) {
  const auto& [name, workers] = test.param;
  return std::string(name) + "_" + std::to_string(workers) + "_of_each_kind";
}

INSTANTIATE_TEST_SUITE_P(Bundled, SameAnswers,
                         testing::Combine(testing::Values(kBundled), testing::Values(1u, 2u)),
                         name_of);
INSTANTIATE_TEST_SUITE_P(Random, SameAnswers,
                         testing::Combine(testing::ValuesIn(kArchitectures),
                                          testing::Values(1u, 2u)),
                         name_of);

// What qwen2 is here for: without it the answers above would hold nothing of removed biases.
TEST(RandomCheckpoints, OnlyQwen2HasBiasesToLeaveOutOfKv) {
  ComputePool pool(1);
  model::LoadOptions options;
  options.pool = &pool;
  for (const std::string name : kArchitectures) {
    const auto loaded = model::load_model(served(name).directory.string(), options);
    ASSERT_TRUE(loaded.ok()) << loaded.status().to_string();
    EXPECT_EQ((*loaded)->config().kv_geometry().removed_bias != 0, name == "qwen2") << name;
  }
}

// A prompt below the limit is prefilled on the decode worker, with the same answer.
TEST(LocalPrefill, SameAnswers) {
  ClusterOptions options;
  options.arguments = {"--local-prefill-tokens", "130"};
  auto cluster = Cluster::start(options);
  ASSERT_TRUE(cluster.ok()) << cluster.status().to_string();
  expect_same(**cluster, served(kBundled), 4);
  expect_idle(**cluster);
}

// An instruction set forced on every process runs in all of them, and they say so.
TEST(ForcedKernels, SameAnswersAndNamedByTheMetrics) {
  constexpr std::uint32_t kShort[] = {63, 129};  // scalar kernels are slow
  for (const kernels::Isa isa : kernels::available_isas()) {
    const std::string name(kernels::isa_name(isa));
    ASSERT_TRUE(kernels::force_isa(isa));
    const Served expected = serve(kBundled, kShort);
    ClusterOptions options;
    options.arguments = {"--isa", name};
    auto cluster = Cluster::start(options);
    ASSERT_TRUE(cluster.ok()) << cluster.status().to_string();
    expect_same(**cluster, expected, 4);
    for (const std::string& worker : (*cluster)->workers()) {
      EXPECT_TRUE((*cluster)->metric(worker, "kvferry_build_info", "kernels=\"" + name + "\"").ok())
          << worker;
    }
  }
  ASSERT_TRUE(kernels::force_isa(kernels::available_isas().back()));
}

}  // namespace
}  // namespace kvferry::e2e
