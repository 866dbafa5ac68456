// A checkpoint of every architecture and option, prefilled in one engine and decoded in the other,
// against a plain loop over the same checkpoint, loaded apart and on another number of threads.

#include <gtest/gtest.h>

#include <cstdlib>

#include "base/compute_pool.h"
#include "base/hash.h"
#include "cli/in_process.h"
#include "cluster/all.h"
#include "model/choice_sampler.h"

namespace kvferry {
namespace {

struct Loaded {
  explicit Loaded(const std::string& checkpoint, int threads) : pool(threads) {
    model::LoadOptions options;
    options.pool = &pool;
    auto loaded = model::load_model(
        std::string(std::getenv("KVFERRY_SOURCE_DIR")) + "/tests/golden/checkpoints/" + checkpoint,
        options);
    EXPECT_TRUE(loaded.ok()) << loaded.status().to_string();
    if (loaded.ok()) model = std::move(*loaded);
  }
  ComputePool pool;
  std::unique_ptr<model::Model> model;
};

proto::Plan make_plan(std::uint64_t id, std::uint32_t length, const std::string& codec,
                      float temperature) {
  proto::Plan plan;
  plan.set_request_id(id);
  plan.set_transfer_id(id);
  plan.add_ids(1);
  for (std::uint32_t i = 1; i < length; ++i) {
    plan.add_ids(static_cast<std::int32_t>(3 + counter_random(length, i) % 125));
  }
  plan.set_prompt_tokens(length);
  plan.set_max_tokens(70);  // crosses a tile in decode
  plan.set_choices(1);
  plan.set_codec(codec);
  plan.mutable_sampling()->set_temperature(temperature);
  plan.mutable_sampling()->set_top_p(1);
  plan.mutable_sampling()->set_seed(id);
  plan.mutable_sampling()->set_repetition_penalty(1);
  plan.set_deadline_ms(120'000);
  return plan;
}

std::vector<std::int32_t> by_hand(model::Model& model, const proto::Plan& plan) {
  const auto codec = codec::make_codec(plan.codec());
  const std::vector<std::int32_t> ids(plan.ids().begin(), plan.ids().end());
  codec::OwnedSequenceKv kv(*codec, model.config().kv_geometry(),
                            static_cast<std::uint32_t>(ids.size()) + plan.max_tokens());
  model::ChoiceSampler sampler =
      model::ChoiceSampler(cluster::sampling_params<model::SamplingParams>(plan), ids,
                           plan.prompt_tokens())
          .for_choice(0);
  std::vector<std::int32_t> answer;
  std::span<const std::int32_t> next = ids;
  std::vector<float> logits, scratch;
  while (answer.size() < plan.max_tokens()) {
    const model::SequenceChunk chunk{&kv.kv(), next, model::SequenceChunk::Logits::kLast};
    const Status status = model.forward({&chunk, 1}, logits);
    EXPECT_TRUE(status.ok()) << status.to_string();
    answer.push_back(sampler.choose(logits, scratch));
    sampler.append(answer.back());
    next = {&answer.back(), 1};
  }
  return answer;
}

class Architectures : public testing::TestWithParam<const char*> {};

TEST_P(Architectures, AnswerAsAPlainLoopOverTheModel) {
  Loaded served(GetParam(), 2), plain(GetParam(), 1);
  ASSERT_TRUE(served.model && plain.model);
  std::vector<std::string> specs{"raw"};
  if (served.model->config().head_dim == 64) {  // what hack needs
    specs.insert(specs.end(), {std::string(codec::kDefaultSpec), "hadamard | hack(k=2,v=2)"});
  }
  const auto codecs = codec::CodecSet::parse(specs);
  ASSERT_TRUE(codecs.ok()) << codecs.status().to_string();
  auto cluster = cli::InProcessCluster::start(*served.model, *codecs, {});
  ASSERT_TRUE(cluster.ok()) << cluster.status().to_string();
  std::uint64_t id = 0;
  for (const std::string& spec : specs) {
    for (const std::uint32_t length : {1u, 64u, 65u, 300u}) {
      const float temperature = length % 2 == 0 ? 0.0f : 0.8f;
      const proto::Plan reference = make_plan(++id, length, spec, temperature);
      const auto expected = by_hand(*plain.model, reference);
      for (const bool remote : {true, false}) {
        proto::Plan plan = reference;
        plan.set_transfer_id(1000 + 2 * id + (remote ? 1 : 0));
        const auto answer = (*cluster)->answer(plan, remote);
        ASSERT_TRUE(answer.ok()) << answer.status().to_string();
        EXPECT_EQ(answer->choices.front().ids(), expected) << spec << ", length " << length;
        EXPECT_EQ(answer->usage.remote_prefill(), remote);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Architectures,
                         testing::Values("llama2", "llama3", "llama-linear", "mistral", "qwen2",
                                         "qwen3"));

}  // namespace
}  // namespace kvferry
