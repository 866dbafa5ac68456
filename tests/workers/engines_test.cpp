// The two engines joined by the loopback transport, against a plain loop over the model.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <future>
#include <thread>

#include "base/clock.h"
#include "base/compute_pool.h"
#include "base/hash.h"
#include "cli/in_process.h"
#include "cluster/messages.h"
#include "codec/describe.h"
#include "model/choice_sampler.h"

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
        {std::string(codec::kDefaultSpec), "raw", "hadamard | hack(k=2,v=2)",
         "hadamard | hack(k=2,v=2) | rans", "raw | lossless", "hack(k=4,v=4) | zstd"});
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
    plan.mutable_sampling()->set_repetition_penalty(1);
    plan.set_prompt_tokens(static_cast<std::uint32_t>(ids.size()));
    plan.set_choices(1);
    plan.set_deadline_ms(120'000);
    return plan;
  }

  // The same by hand: the whole prompt in one step, then a token at a time, for one of the choices.
  static std::vector<std::int32_t> by_hand(const proto::Plan& plan, std::uint32_t choice = 0) {
    auto codec = codecs_->find(plan.codec());
    EXPECT_TRUE(codec.ok());
    const std::vector<std::int32_t> ids(plan.ids().begin(), plan.ids().end());
    const std::uint32_t total = static_cast<std::uint32_t>(ids.size()) + plan.max_tokens();
    codec::OwnedSequenceKv kv(*codec, model_->config().kv_geometry(), total);
    model::ChoiceSampler sampler(cluster::sampling_params<model::SamplingParams>(plan), ids,
                                 plan.prompt_tokens());
    sampler = sampler.for_choice(choice);
    std::vector<std::int32_t> answer;
    std::span<const std::int32_t> next = ids;
    std::vector<float> logits, scratch;
    while (answer.size() < plan.max_tokens()) {
      const model::SequenceChunk chunk{&kv.kv(), next, model::SequenceChunk::Logits::kLast};
      const Status status = model_->forward({&chunk, 1}, logits);
      EXPECT_TRUE(status.ok()) << status.to_string();
      answer.push_back(sampler.choose(logits, scratch));
      sampler.append(answer.back());
      next = {&answer.back(), 1};
    }
    return answer;
  }

  // Something of every kind that depends on the tokens before.
  static void penalize(proto::Plan& plan) {
    proto::Sampling& sampling = *plan.mutable_sampling();
    sampling.set_presence_penalty(0.7f);
    sampling.set_frequency_penalty(0.4f);
    sampling.set_repetition_penalty(1.3f);
    sampling.set_min_p(0.01f);
    sampling.set_min_tokens(6);
    for (const std::int32_t id : {40, 41, 42}) {
      proto::LogitBias& bias = *sampling.add_logit_bias();
      bias.set_id(id);
      bias.set_bias(3);
    }
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
      EXPECT_EQ(answer->choices.front().ids(), expected[i])
          << plans[i].codec() << ", length " << plans[i].ids_size();
      EXPECT_EQ(answer->choices.front().finish_reason, "length");
      EXPECT_EQ(answer->usage.remote_prefill(), remote);
      EXPECT_EQ(answer->usage.raw_bytes(), 2048u * plans[i].ids_size());
      EXPECT_EQ(answer->usage.sent_bytes() > 0, remote);
    }
  }
  expect_idle_pools();
}

// `codec describe` says what is sent, to the byte, and the same bits on closed tiles. The receiver
// may say first that the sender has to wait: one GRANT of 132 bytes more.
TEST_F(Engines, WhatIsDescribedIsSent) {
  start();
  std::uint64_t id = 7000;
  for (const char* spec : {"raw", "hadamard | hack(k=2,v=2)"}) {
    for (const std::uint32_t tokens : {64u, 700u, 1024u}) {
      proto::Plan asked = plan(prompt(9, tokens), spec);
      asked.set_transfer_id(++id);
      const auto answer = cluster_->answer(asked, true);
      ASSERT_TRUE(answer.ok()) << answer.status().to_string();
      const auto described = codec::describe_codec(spec, model_->config().kv_geometry(), {tokens});
      ASSERT_TRUE(described.ok()) << described.status().to_string();
      const codec::CostPoint& point = described->points[0];
      EXPECT_THAT(answer->usage.sent_bytes() - point.bytes.total(), testing::AnyOf(0, 132))
          << spec << ", " << tokens;
      EXPECT_EQ(answer->usage.closed_bits_per_value(), point.closed_bits_per_value);
    }
  }
}

// The usage counts the bytes that were sent, so a wire stage shows in it.
TEST_F(Engines, AWireStageSendsFewerBytes) {
  start();
  std::uint64_t id = 5000;
  for (const auto& [plain, wrapped] :
       {std::pair("raw", "raw | lossless"),
        std::pair("hadamard | hack(k=2,v=2)", "hadamard | hack(k=2,v=2) | rans")}) {
    std::vector<proto::KvUsage> usage;
    for (const char* spec : {plain, wrapped}) {
      proto::Plan asked = plan(prompt(9, 700), spec);
      asked.set_transfer_id(++id);
      const auto answer = cluster_->answer(asked, true);
      ASSERT_TRUE(answer.ok()) << answer.status().to_string();
      usage.push_back(answer->usage);
    }
    EXPECT_LT(usage[1].sent_bytes(), usage[0].sent_bytes() * 95 / 100) << wrapped;
    EXPECT_LT(usage[1].bits_per_value(), usage[0].bits_per_value() * 0.95) << wrapped;
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
    EXPECT_EQ(answer->choices.front().ids(), std::vector<std::int32_t>(expected.begin(), first));
    EXPECT_EQ(answer->choices.front().finish_reason, "stop");
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

TEST_F(Engines, ChoicesShareAPromptAndAnswerAsAlone) {
  std::vector<proto::Plan> plans;
  for (const std::uint32_t length : {1u, 63u, 64u, 65u, 300u}) {
    plans.push_back(plan(prompt(length, length), codecs_->specs()[length % 3], 1.2f, 70));
    plans.back().set_first_choice(length % 2);
    plans.back().set_choices(4);
    if (length % 2 == 0) penalize(plans.back());
  }
  std::vector<std::vector<std::vector<std::int32_t>>> expected;
  for (const proto::Plan& each : plans) {
    expected.emplace_back();
    for (std::uint32_t i = 0; i < each.choices(); ++i) {
      expected.back().push_back(by_hand(each, each.first_choice() + i));
    }
    EXPECT_NE(expected.back()[0], expected.back()[1]);
  }
  start();
  for (std::size_t i = 0; i < plans.size(); ++i) {
    for (const bool remote : {true, false}) {
      plans[i].set_transfer_id(2000 + 2 * i + remote);
      const auto answer = cluster_->answer(plans[i], remote);
      ASSERT_TRUE(answer.ok()) << answer.status().to_string();
      ASSERT_EQ(answer->choices.size(), 4u);
      for (std::uint32_t choice = 0; choice < 4; ++choice) {
        EXPECT_EQ(answer->choices[choice].ids(), expected[i][choice])
            << "length " << plans[i].ids_size() << ", choice " << choice << ", remote " << remote;
        EXPECT_EQ(answer->choices[choice].finish_reason, "length");
      }
      // One prompt, one transfer.
      EXPECT_EQ(answer->usage.raw_bytes(), 2048u * plans[i].ids_size());
    }
  }
  expect_idle_pools();
}

TEST_F(Engines, PenaltiesGoOnWhereAnotherWorkerStopped) {
  start();
  for (const float temperature : {0.0f, 0.9f}) {
    proto::Plan whole = plan(prompt(8, 90), "raw", temperature, 40);
    penalize(whole);
    const std::vector<std::int32_t> expected = by_hand(whole);
    proto::Plan plain = plan(prompt(8, 90), "raw", temperature, 40);
    EXPECT_NE(expected, by_hand(plain)) << "the penalties change nothing";
    for (const std::size_t done : {0u, 1u, 3u, 17u, 39u}) {
      proto::Plan rest = whole;
      rest.set_transfer_id(3000 + done + (temperature > 0 ? 100 : 0));
      rest.mutable_ids()->Add(expected.begin(), expected.begin() + done);
      rest.set_max_tokens(static_cast<std::uint32_t>(40 - done));
      const auto answer = cluster_->answer(rest, done % 2 == 1);
      ASSERT_TRUE(answer.ok()) << answer.status().to_string();
      EXPECT_EQ(answer->choices.front().ids(),
                std::vector<std::int32_t>(expected.begin() + done, expected.end()))
          << done;
    }
  }
  expect_idle_pools();
}

TEST_F(Engines, MinTokensKeepStopIdsAway) {
  const proto::Plan whole = plan(prompt(3, 200), "raw");
  const std::vector<std::int32_t> expected = by_hand(whole);
  start();
  proto::Plan stopped = whole;
  stopped.add_stop_ids(expected[0]);
  stopped.mutable_sampling()->set_min_tokens(5);
  for (const bool remote : {true, false}) {
    stopped.set_transfer_id(4000 + remote);
    const auto answer = cluster_->answer(stopped, remote);
    ASSERT_TRUE(answer.ok()) << answer.status().to_string();
    const std::vector<std::int32_t> ids = answer->choices.front().ids();
    EXPECT_GE(ids.size(), 5u);
    EXPECT_EQ(std::count(ids.begin(), ids.end(), expected[0]), 0);
  }
}

TEST_F(Engines, LogprobsAreOfTheModelsOwnDistribution) {
  proto::Plan asked = plan(prompt(11, 150), "raw", 0.8f, 10);
  asked.set_choices(2);
  asked.set_logprobs(3);
  asked.mutable_sampling()->set_presence_penalty(1.5f);
  const std::uint32_t vocab = model_->config().vocab;
  start();
  std::vector<std::string> seen;
  for (const bool remote : {true, false}) {
    asked.set_transfer_id(5000 + remote);
    asked.set_prompt_logprobs(!remote);
    const auto answer = cluster_->answer(asked, remote);
    ASSERT_TRUE(answer.ok()) << answer.status().to_string();
    std::vector<std::int32_t> ids(asked.ids().begin(), asked.ids().end());
    const proto::Token* last = nullptr;
    for (const proto::Token& token : answer->choices[1].tokens) ids.push_back(token.id());
    auto codec = codecs_->find("raw");
    codec::OwnedSequenceKv kv(*codec, model_->config().kv_geometry(), 200);
    std::vector<float> logits;
    const model::SequenceChunk chunk{&kv.kv(), ids, model::SequenceChunk::Logits::kAll};
    ASSERT_TRUE(model_->forward({&chunk, 1}, logits).ok());
    const auto row = [&](std::size_t position) {  // the one that tells of it
      return std::span<const float>(logits).subspan((position - 1) * vocab, vocab);
    };
    const auto expect_same = [&](const auto& told, std::size_t position) {
      EXPECT_EQ(told.logprob(), model::logprob(row(position), ids[position])) << position;
      const auto top = model::top_logprobs(row(position), 3);
      ASSERT_EQ(told.top_size(), 3) << position;
      for (int i = 0; i < 3; ++i) {
        EXPECT_EQ(told.top(i).id(), top[i].id);
        EXPECT_EQ(told.top(i).logprob(), top[i].logprob);
      }
    };
    for (const proto::Token& token : answer->choices[1].tokens) {
      expect_same(token, token.position());
      last = &token;
    }
    ASSERT_NE(last, nullptr);
    ASSERT_EQ(answer->prompt_logprobs.size(), remote ? 0u : 149u);
    for (std::size_t i = 0; i < answer->prompt_logprobs.size(); ++i) {
      expect_same(answer->prompt_logprobs[i], i + 1);
    }
  }
  expect_idle_pools();
}

TEST_F(Engines, APromptAloneCanBeScored) {
  start();
  proto::Plan score = plan(prompt(12, 100), "raw", 0, 0);
  score.set_logprobs(0);
  score.set_prompt_logprobs(true);
  const auto answer = cluster_->answer(score, false);
  ASSERT_TRUE(answer.ok()) << answer.status().to_string();
  EXPECT_EQ(answer->prompt_logprobs.size(), 99u);
  EXPECT_TRUE(answer->choices.front().tokens.empty());
  EXPECT_EQ(answer->choices.front().finish_reason, "length");
  score.set_transfer_id(6001);
  EXPECT_EQ(cluster_->answer(score, true).status().code(), Code::kInvalidArgument);
  expect_idle_pools();
}

// A choice that the gateway has enough of ends; the others do not notice, and all memory comes
// back.
TEST_F(Engines, AChoiceEndsAlone) {
  proto::Plan asked = plan(prompt(21, 200), "raw", 1.0f, 150);
  asked.set_choices(3);
  std::vector<std::vector<std::int32_t>> expected;
  for (std::uint32_t i = 0; i < 3; ++i) expected.push_back(by_hand(asked, i));
  start();
  std::vector<std::vector<std::int32_t>> ids(3);
  std::promise<void> over;
  int finished = 0;
  cluster_->submit(asked, true, [&](const proto::Envelope& message) {
    ASSERT_FALSE(message.has_failed()) << message.failed().message();
    if (message.has_token()) {
      const proto::Token& token = message.token();
      ids[token.choice()].push_back(token.id());
      if (token.choice() == 0 && ids[0].size() == 5)
        cluster_->cancel_choice(asked.transfer_id(), 0);
    } else if (++finished == 2) {
      over.set_value();
    }
  });
  over.get_future().wait();
  EXPECT_LT(ids[0].size(), 150u);
  EXPECT_EQ(ids[1], expected[1]);
  EXPECT_EQ(ids[2], expected[2]);
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
  for (const auto& spoil : std::vector<std::function<void(proto::Plan&)>>{
           [](proto::Plan& p) { p.set_choices(0); }, [](proto::Plan& p) { p.set_choices(17); },
           [](proto::Plan& p) { p.set_first_choice(16); },
           [](proto::Plan& p) { p.set_logprobs(21); },
           [](proto::Plan& p) { p.set_prompt_tokens(0); },
           [](proto::Plan& p) { p.set_prompt_tokens(11); },
           [](proto::Plan& p) { p.set_max_tokens(0); },
           [](proto::Plan& p) { p.mutable_sampling()->set_repetition_penalty(0); }}) {
    proto::Plan spoiled = plan(prompt(1, 10), "raw");
    spoil(spoiled);
    EXPECT_EQ(code_of(spoiled), Code::kInvalidArgument) << spoiled.choices();
  }
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
