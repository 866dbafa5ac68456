// Clients that go away: 500 requests, most of them closed at a random event, leave every process as
// it was: in pages exactly, in heap bytes within 5 %.

#include <gtest/gtest.h>

#include <atomic>
#include <iterator>
#include <map>
#include <thread>

#include "base/hash.h"
#include "cluster_fixture.h"
#include "random_checkpoint.h"

namespace kvferry::e2e {
namespace {

constexpr int kClients = 8;

void run_requests(const Cluster& cluster, std::uint64_t first_seed, int count) {
  std::atomic<int> next{0};
  auto client = [&] {
    for (int i; (i = next++) < count;) {
      const std::uint64_t seed = first_seed + static_cast<std::uint64_t>(i);
      const std::uint32_t length = 1 + counter_random(seed, 0) % 700;
      const Ask ask{random_prompt(seed, length), kCodecs[seed % std::size(kCodecs)], 0.7f, seed,
                    24};
      // Every fifth runs to its end; the others close at event 0 (before the first token) to 19.
      const std::uint32_t close_at = counter_random(seed, 1) % 20;
      const bool to_the_end = seed % 5 == 0;
      if (close_at == 0 && !to_the_end) {
        abandon(cluster.url(), ask);
        continue;
      }
      const auto answer = stream(cluster.url(), ask, [&](const Answer& so_far) {
        return to_the_end || so_far.events < close_at;
      });
      ASSERT_TRUE(answer.ok()) << answer.status().to_string();
    }
  };
  std::vector<std::thread> clients;
  for (int i = 0; i < kClients; ++i) clients.emplace_back(client);
  for (std::thread& thread : clients) thread.join();
}

// Bytes of the pools and of the heaps once nothing runs any more.
std::map<std::string, std::pair<double, double>> idle_bytes(const Cluster& cluster) {
  std::map<std::string, std::pair<double, double>> bytes;
  for (const std::string& worker : cluster.workers()) {
    EXPECT_TRUE(cluster
                    .wait_metric(worker, "kvferry_requests_active",
                                 [](double active) { return active == 0; })
                    .ok());
    for (const char* extents : {"class=\"closed\"", "class=\"open\""}) {
      const Status none = cluster.wait_metric(
          worker, "kvferry_pool_bytes", [](double left) { return left == 0; }, extents);
      EXPECT_TRUE(none.ok()) << none.to_string();
    }
    const auto free = cluster.metric(worker, "kvferry_pool_bytes", "state=\"free\"");
    const auto heap = cluster.metric(worker, "kvferry_process_allocated_bytes");
    EXPECT_TRUE(free.ok() && heap.ok());
    if (free.ok() && heap.ok()) bytes[worker] = {*free, *heap};
  }
  const auto heap = cluster.metric("gateway", "kvferry_process_allocated_bytes");
  EXPECT_TRUE(heap.ok()) << heap.status().to_string();
  if (heap.ok()) bytes["gateway"] = {0, *heap};
  return bytes;
}

void expect_nothing_left(const ClusterOptions& options) {
  auto cluster = Cluster::start(options);
  ASSERT_TRUE(cluster.ok()) << cluster.status().to_string();
  // Warm-up: scratch memory and the bounded tables (tombstones of ended transfers, beats) grow to
  // their size.
  run_requests(**cluster, 1'000, 500);
  const auto before = idle_bytes(**cluster);
  run_requests(**cluster, 10'000, 500);
  const auto after = idle_bytes(**cluster);
  ASSERT_EQ(before.size(), 3u);
  ASSERT_EQ(after.size(), 3u);
  for (const auto& [process, bytes] : before) {
    EXPECT_EQ(after.at(process).first, bytes.first) << process << ": free bytes of the pool";
    EXPECT_LE(after.at(process).second, bytes.second * 1.05) << process << ": heap bytes";
  }
}

TEST(Cancel, FiveHundredRequestsLeaveNothingBehind) { expect_nothing_left({}); }

// Their steps are shorter, so clients go at other moments.
class CancelOfArchitecture : public testing::TestWithParam<const char*> {};

TEST_P(CancelOfArchitecture, FiveHundredRequestsLeaveNothingBehind) {
  const auto checkpoint = RandomCheckpoint::create(GetParam());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().to_string();
  ClusterOptions options;
  options.model = (*checkpoint)->directory();
  expect_nothing_left(options);
}

INSTANTIATE_TEST_SUITE_P(All, CancelOfArchitecture, testing::ValuesIn(kArchitectures),
                         [](const auto& architecture) { return std::string(architecture.param); });

}  // namespace
}  // namespace kvferry::e2e
