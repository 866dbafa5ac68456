// The two engines joined by the loopback transport, against a plain loop over the model.

#include <gtest/gtest.h>

#include <cstdlib>
#include <future>
#include <thread>

#include "base/clock.h"
#include "base/compute_pool.h"
#include "base/hash.h"
#include "cli/in_process.h"
#include "model/sampling.h"

namespace kvferry {
namespace {

using cli::InProcessCluster;

class Engines : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    pool_ = new ComputePool(2);
    model::LoadOptions options;
    options.pool = pool_;
    auto loaded =
        model::load_model(std::string(std::getenv("KVFERRY_SOURCE_DIR")) + "/models/mini", options);
    ASSERT_TRUE(loaded.ok()) << loaded.status().to_string();
    model_ = std::move(*loaded).release();
    auto codecs = codec::CodecSet::parse(
        {std::string(codec::kDefaultSpec), "raw", "hadamard | hack(k=2,v=2)"});
    ASSERT_TRUE(codecs.ok()) << codecs.status().to_string();
    codecs_ = new codec::CodecSet(*codecs);
  }
  static void TearDownTestSuite() {
    delete codecs_;
    delete model_;
    delete pool_;
  }

  void start(const cli::InProcessOptions& options = {}) {
    auto cluster = InProcessCluster::start(*model_, *codecs_, options);
    ASSERT_TRUE(cluster.ok()) << cluster.status().to_string();
    cluster_ = std::move(*cluster);
  }

  // Bytes out of a pool, but for the hubs' staging.
  static std::size_t held_bytes(const ExtentPool& pool) {
    std::size_t held = 0;
    const PoolUsage usage = pool.usage();
    for (const ExtentClass extents : {ExtentClass::kClosed, ExtentClass::kOpen}) {
      const auto& bytes = usage.classes[static_cast<std::size_t>(extents)];
      held += bytes.leased + bytes.resident + bytes.quarantined;
    }
    return held;
  }

  // Memory comes back a few turns of the threads after the last answer.
  void expect_idle_pools() {
    const std::uint64_t deadline_ns = monotonic_ns() + 20 * kSecond;
    for (ExtentPool* pool : {&cluster_->prefill_pool(), &cluster_->decode_pool()}) {
      while (held_bytes(*pool) > 0 && monotonic_ns() < deadline_ns) std::this_thread::yield();
      EXPECT_EQ(held_bytes(*pool), 0u);
      EXPECT_TRUE(pool->check().ok()) << pool->check().to_string();
    }
  }

  static std::vector<std::int32_t> prompt(std::uint64_t seed, std::uint32_t length) {
    std::vector<std::int32_t> ids = {1};
    for (std::uint32_t i = 1; i < length; ++i) {
      ids.push_back(static_cast<std::int32_t>(2 + counter_random(seed, i) % 1022));
    }
    return ids;
  }

  static proto::Plan plan(const std::vector<std::int32_t>& ids, const std::string& codec,
                          float temperature = 0, std::uint32_t max_tokens = 20) {
    static std::uint64_t next = 0;
    proto::Plan plan;
    plan.set_request_id(++next);
    plan.set_transfer_id(next);
    plan.mutable_ids()->Add(ids.begin(), ids.end());
    plan.set_max_tokens(max_tokens);
    plan.set_codec(codec);
    plan.mutable_sampling()->set_temperature(temperature);
    plan.mutable_sampling()->set_top_p(1);
    plan.mutable_sampling()->set_seed(5);
    plan.set_deadline_ms(120'000);
    return plan;
  }

  // The same by hand: the whole prompt in one step, then a token at a time.
  static std::vector<std::int32_t> by_hand(const proto::Plan& plan) {
    auto codec = codecs_->find(plan.codec());
    EXPECT_TRUE(codec.ok());
    const std::vector<std::int32_t> ids(plan.ids().begin(), plan.ids().end());
    const std::uint32_t total = static_cast<std::uint32_t>(ids.size()) + plan.max_tokens();
    codec::OwnedSequenceKv kv(*codec, model_->config().kv_geometry(), total);
    const model::SamplingParams sampling{plan.sampling().temperature(), plan.sampling().top_k(),
                                         plan.sampling().top_p(), plan.sampling().seed(), 0};
    std::vector<std::int32_t> answer;
    std::span<const std::int32_t> next = ids;
    std::vector<float> logits;
    while (answer.size() < plan.max_tokens()) {
      const model::SequenceChunk chunk{&kv.kv(), next, model::SequenceChunk::Logits::kLast};
      const Status status = model_->forward({&chunk, 1}, logits);
      EXPECT_TRUE(status.ok()) << status.to_string();
      answer.push_back(model::sample(logits, sampling, kv.kv().length));
      next = {&answer.back(), 1};
    }
    return answer;
  }

  static ComputePool* pool_;
  static model::Model* model_;
  static codec::CodecSet* codecs_;
  std::unique_ptr<InProcessCluster> cluster_;
};

ComputePool* Engines::pool_ = nullptr;
model::Model* Engines::model_ = nullptr;
codec::CodecSet* Engines::codecs_ = nullptr;

TEST_F(Engines, AnswerAsAPlainLoopOverTheModel) {
  std::vector<proto::Plan> plans;
  std::vector<std::vector<std::int32_t>> expected;
  for (const std::string& spec : codecs_->specs()) {
    for (const std::uint32_t length : {1u, 63u, 64u, 65u, 700u}) {
      for (const float temperature : {0.0f, 1.0f}) {
        plans.push_back(plan(prompt(length, length), spec, temperature));
        expected.push_back(by_hand(plans.back()));
      }
    }
  }
  start();
  for (std::size_t i = 0; i < plans.size(); ++i) {
    for (const bool remote : {true, false}) {
      plans[i].set_transfer_id(1000 + 2 * i + remote);
      const auto answer = cluster_->answer(plans[i], remote);
      ASSERT_TRUE(answer.ok()) << answer.status().to_string();
      EXPECT_EQ(answer->ids, expected[i]) << plans[i].codec() << ", length " << plans[i].ids_size();
      EXPECT_EQ(answer->finish_reason, "length");
      EXPECT_EQ(answer->usage.remote_prefill(), remote);
      EXPECT_EQ(answer->usage.raw_bytes(), 2048u * plans[i].ids_size());
      EXPECT_EQ(answer->usage.sent_bytes() > 0, remote);
    }
  }
  expect_idle_pools();
}

TEST_F(Engines, StopIdsEndTheAnswerAndAreNotSent) {
  const proto::Plan whole = plan(prompt(3, 200), "raw");
  const std::vector<std::int32_t> expected = by_hand(whole);
  start();
  for (std::size_t stop = 0; stop < expected.size(); ++stop) {
    const auto first = std::find(expected.begin(), expected.end(), expected[stop]);
    proto::Plan stopped = plan(prompt(3, 200), "raw");
    stopped.add_stop_ids(expected[stop]);
    const auto answer = cluster_->answer(stopped);
    ASSERT_TRUE(answer.ok()) << answer.status().to_string();
    EXPECT_EQ(answer->ids, std::vector<std::int32_t>(expected.begin(), first));
    EXPECT_EQ(answer->finish_reason, "stop");
  }
  expect_idle_pools();
}

TEST_F(Engines, ManyAtOnceAnswerAsAlone) {
  constexpr int kRequests = 24;
  std::vector<proto::Plan> plans;
  std::vector<std::vector<std::int32_t>> expected;
  for (int i = 0; i < kRequests; ++i) {
    plans.push_back(plan(prompt(50 + i, 1 + 37 * i), codecs_->specs()[i % 3], i % 2 ? 1.0f : 0.0f));
    expected.push_back(by_hand(plans.back()));
  }
  cli::InProcessOptions options;
  options.decode.max_running = 10;  // the others wait
  start(options);
  std::vector<std::promise<void>> over(kRequests);
  std::vector<std::vector<std::int32_t>> ids(kRequests);
  for (int i = 0; i < kRequests; ++i) {
    cluster_->submit(plans[i], i % 3 != 0, [&, i](const proto::Envelope& message) {
      if (message.has_token()) {
        EXPECT_EQ(message.token().position(), plans[i].ids_size() + ids[i].size());
        ids[i].push_back(message.token().id());
        return;
      }
      EXPECT_TRUE(message.has_finished()) << message.failed().message();
      over[i].set_value();
    });
  }
  for (int i = 0; i < kRequests; ++i) {
    over[i].get_future().wait();
    EXPECT_EQ(ids[i], expected[i]) << i;
  }
  expect_idle_pools();
}

TEST_F(Engines, RefuseWhatCannotBe) {
  start();
  auto code_of = [&](const proto::Plan& refused) {
    return cluster_->answer(refused).status().code();
  };
  EXPECT_EQ(code_of(plan({}, "raw")), Code::kInvalidArgument);
  EXPECT_EQ(code_of(plan(prompt(1, 10), "nonsense")), Code::kInvalidArgument);
  EXPECT_EQ(code_of(plan(prompt(1, 10), "hack(k=8,v=8)")), Code::kInvalidArgument);
  EXPECT_EQ(code_of(plan(prompt(1, 2040), "raw", 0, 20)), Code::kInvalidArgument);
  EXPECT_EQ(code_of(plan({1, 5000}, "raw")), Code::kInvalidArgument);
  EXPECT_EQ(code_of(plan({1, -7}, "raw")), Code::kInvalidArgument);
  EXPECT_TRUE(cluster_->answer(plan(prompt(1, 10), "raw")).ok());
  expect_idle_pools();
}

TEST_F(Engines, APoolThatHoldsOneRequestServesThemInTurn) {
  cli::InProcessOptions options;
  // Staging takes 48 MiB; a raw request of 2,000 tokens takes 4 MiB.
  options.pool_bytes = (std::size_t{48} << 20) + (std::size_t{5} << 20);
  start(options);
  std::vector<std::promise<void>> over(6);
  for (std::size_t i = 0; i < over.size(); ++i) {
    cluster_->submit(plan(prompt(i, 1900), "raw"), true, [&, i](const proto::Envelope& message) {
      if (message.has_token()) return;
      EXPECT_TRUE(message.has_finished()) << message.failed().message();
      over[i].set_value();
    });
  }
  for (auto& each : over) each.get_future().wait();
  expect_idle_pools();
}

TEST_F(Engines, ADeadlineEndsARequestThatWaits) {
  start();
  proto::Plan late = plan(prompt(1, 1500), "raw", 0, 400);
  late.set_deadline_ms(1);
  EXPECT_EQ(cluster_->answer(late).status().code(), Code::kDeadlineExceeded);
  EXPECT_TRUE(cluster_->answer(plan(prompt(1, 10), "raw")).ok());
  expect_idle_pools();
}

}  // namespace
}  // namespace kvferry
