// What clients of /v1/completions and /v1/chat/completions see of choices, lists of prompts, echo
// and log-probabilities.
#include <boost/json/serialize.hpp>
#include <map>

#include "gateway_harness.h"

namespace kvferry::gateway {
namespace {

namespace json = boost::json;

class GenerationApiTest : public GatewayHarness {
 protected:
  void one_of_each(const std::string& answer) {
    add(proto::ROLE_DECODE).answer = ids(answer);
    add(proto::ROLE_PREFILL);
    start();
  }
  static std::vector<json::value> events(const Answer& answer) {
    std::vector<json::value> list;
    for (std::size_t at = 0; (at = answer.body.find("data: {", at)) != std::string::npos;) {
      const std::size_t end = answer.body.find("\n\n", at);
      list.push_back(json::parse(answer.body.substr(at + 6, end - at - 6)));
      at = end;
    }
    return list;
  }
};

TEST_F(GenerationApiTest, ChoicesAreNumberedPromptByPrompt) {
  one_of_each(" ball");
  const Answer answer =
      ask("/v1/completions", R"({"prompt":["a b c d e",[5,6,7,8,9]],"n":2,"temperature":1})");
  EXPECT_EQ(answer.status, 200) << answer.body;
  const json::value value = answer.json();
  ASSERT_EQ(value.at("choices").as_array().size(), 4u);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(value.at("choices").at(i).at("index").to_number<std::size_t>(), i);
    EXPECT_EQ(value.at("choices").at(i).at("text"), " ball");
  }
  ASSERT_EQ(decode_[0]->decodes.size(), 2u);
  const proto::Plan& first = decode_[0]->decodes[0].plan();
  const proto::Plan& second = decode_[0]->decodes[1].plan();
  EXPECT_EQ(first.choices(), 2u);
  const std::size_t prompts = first.prompt_tokens() + second.prompt_tokens();
  const std::size_t tokens = 4 * ids(" ball").size();
  const json::value& usage = value.at("usage");
  EXPECT_EQ(usage.at("prompt_tokens").to_number<std::size_t>(), prompts);
  EXPECT_EQ(usage.at("completion_tokens").to_number<std::size_t>(), tokens);
  EXPECT_EQ(usage.at("kvferry").at("values"), 2048);
  EXPECT_DOUBLE_EQ(usage.at("kvferry").at("bits_per_value").to_number<double>(), 4);
  // Nobody gave a seed: each prompt has its own, and they are told in order.
  EXPECT_NE(first.sampling().seed(), second.sampling().seed());
  const json::array& seeds = usage.at("kvferry").at("seed").as_array();
  EXPECT_EQ(seeds.at(0).to_number<std::uint64_t>(), first.sampling().seed());
  EXPECT_EQ(seeds.at(1).to_number<std::uint64_t>(), second.sampling().seed());

  const Answer seeded =
      ask("/v1/completions", R"({"prompt":["a b c","a b c"],"seed":-7,"temperature":1})");
  EXPECT_EQ(seeded.json().at("usage").at("kvferry").at("seed"), -7);
}

TEST_F(GenerationApiTest, StreamsOfSeveralChoicesAreInterleavedByIndex) {
  add(proto::ROLE_DECODE);
  start();
  auto client = post("/v1/chat/completions",
                     R"({"messages":[{"role":"user","content":"a b"}],"stream":true,"n":2,)"
                     R"("stream_options":{"include_usage":true}})");
  ASSERT_TRUE(run_until([&] { return decode_[0]->decodes.size() == 1; }));
  const proto::Plan& plan = decode_[0]->decodes[0].plan();
  decode_[0]->say(plan, 0, 34, 1);
  decode_[0]->say(plan, 0, 35, 0);
  decode_[0]->finish(plan, 1);
  decode_[0]->say(plan, 1, 36, 0);
  decode_[0]->finish(plan, 0);
  const Answer answer = answer_of(client);
  std::map<int, std::string> text;
  std::map<int, int> roles, ends;
  const auto list = events(answer);
  for (std::size_t i = 0; i + 1 < list.size(); ++i) {
    const json::value& choice = list[i].at("choices").at(0);
    const int index = choice.at("index").to_number<int>();
    EXPECT_EQ(ends[index], 0) << "a chunk behind the last of its choice";
    EXPECT_TRUE(list[i].at("usage").is_null());
    const json::object& delta = choice.at("delta").as_object();
    roles[index] += delta.contains("role");
    if (delta.contains("content")) text[index] += delta.at("content").as_string();
    ends[index] += choice.at("finish_reason").is_string();
  }
  EXPECT_EQ(text, (std::map<int, std::string>{{0, "BC"}, {1, "A"}}));
  EXPECT_EQ(roles, (std::map<int, int>{{0, 1}, {1, 1}}));
  EXPECT_EQ(ends, (std::map<int, int>{{0, 1}, {1, 1}}));
  EXPECT_TRUE(list.back().at("choices").as_array().empty());
  EXPECT_EQ(list.back().at("usage").at("completion_tokens"), 3);
  EXPECT_TRUE(answer.body.ends_with("data: [DONE]\n\n"));
}

TEST_F(GenerationApiTest, CompletionsLogprobs) {
  one_of_each("AB");
  const json::value whole = ask("/v1/completions", R"({"prompt":"a b c d e","logprobs":2})").json();
  const json::value& logprobs = whole.at("choices").at(0).at("logprobs");
  EXPECT_EQ(json::serialize(logprobs),
            R"({"text_offset":[0,1],"token_logprobs":[-5E-1,-5E-1],"tokens":["A","B"],)"
            R"("top_logprobs":[{"A":-5E-1,"B":-1.5E0},{"A":-5E-1,"B":-1.5E0}]})");
  // The same in pieces.
  json::array offsets;
  for (const json::value& event :
       events(ask("/v1/completions", R"({"prompt":"a b c d e","logprobs":0,"stream":true})"))) {
    const json::value& part = event.at("choices").at(0).at("logprobs");
    if (part.is_null()) continue;
    for (const json::value& offset : part.at("text_offset").as_array()) offsets.push_back(offset);
  }
  EXPECT_EQ(json::serialize(offsets), "[0,1]");
  EXPECT_TRUE(ask("/v1/completions", R"({"prompt":"a b c d e"})")
                  .json()
                  .at("choices")
                  .at(0)
                  .at("logprobs")
                  .is_null());
}

TEST_F(GenerationApiTest, ChatLogprobs) {
  one_of_each("A");
  const json::value whole =
      ask("/v1/chat/completions",
          R"({"messages":[{"role":"user","content":"a b"}],"logprobs":true,"top_logprobs":1})")
          .json();
  EXPECT_EQ(json::serialize(whole.at("choices").at(0).at("logprobs")),
            R"({"content":[{"token":"A","logprob":-5E-1,"bytes":[65],"top_logprobs":)"
            R"([{"token":"A","logprob":-5E-1,"bytes":[65]}]}],"refusal":null})");
  const Answer bad = ask("/v1/chat/completions",
                         R"({"messages":[{"role":"user","content":"a b"}],"top_logprobs":1})");
  EXPECT_EQ(bad.status, 400);
  EXPECT_EQ(bad.json().at("error").at("param"), "top_logprobs");
}

// Half characters are tokens of their own here: their names stay distinct and offsets in step.
TEST_F(GenerationApiTest, LogprobsOfHalfCharacters) {
  one_of_each("\xe2\x82\xac!");
  const std::size_t parts = ids("\xe2\x82\xac").size();
  ASSERT_GT(parts, 1u);
  const json::value whole = ask("/v1/completions", R"({"prompt":"a b c d e","logprobs":0})").json();
  EXPECT_EQ(whole.at("choices").at(0).at("text"), "\xe2\x82\xac!");
  const json::value& logprobs = whole.at("choices").at(0).at("logprobs");
  EXPECT_TRUE(logprobs.at("tokens").at(0).as_string().starts_with("bytes:\\xe2"));
  for (std::size_t i = 0; i < parts; ++i) EXPECT_EQ(logprobs.at("text_offset").at(i), 0);
  EXPECT_EQ(logprobs.at("text_offset").at(parts), 1);
}

// As lm-eval's loglikelihood asks: the prompt's own log-probabilities.
TEST_F(GenerationApiTest, EchoWithLogprobsScoresThePrompt) {
  one_of_each("A");
  for (const char* generate : {"0", "1"}) {
    const json::value whole =
        ask("/v1/completions", std::string(R"({"prompt":"a b c d e","echo":true,"logprobs":1,)") +
                                   R"("max_tokens":)" + generate + "}")
            .json();
    const bool one = *generate == '1';
    const json::value& choice = whole.at("choices").at(0);
    EXPECT_EQ(choice.at("text"), one ? "a b c d eA" : "a b c d e");
    const auto prompt = *tokenizer_->encode("a b c d e", true);
    const json::value& logprobs = choice.at("logprobs");
    ASSERT_EQ(logprobs.at("tokens").as_array().size(), prompt.size() + one);
    EXPECT_TRUE(logprobs.at("token_logprobs").at(0).is_null());
    EXPECT_TRUE(logprobs.at("top_logprobs").at(0).is_null());
    for (std::size_t i = 1; i < prompt.size(); ++i) {
      EXPECT_EQ(logprobs.at("token_logprobs").at(i).to_number<double>(), -static_cast<double>(i));
    }
    EXPECT_EQ(whole.at("usage").at("completion_tokens").to_number<int>(), one);
  }
  EXPECT_TRUE(prefill_[0]->prefills.empty());
  const json::value ids_only =
      ask("/v1/completions", R"({"prompt":[1,66,67],"echo":true,"max_tokens":1})").json();
  EXPECT_EQ(ids_only.at("choices").at(0).at("text"), "abA");
  const Answer stream =
      ask("/v1/completions", R"({"prompt":"a b c","echo":true,"stream":true,"n":2})");
  std::map<int, std::string> text;
  for (const json::value& event : events(stream)) {
    const json::value& part = event.at("choices").at(0);
    text[part.at("index").to_number<int>()] += part.at("text").as_string();
  }
  EXPECT_EQ(text, (std::map<int, std::string>{{0, "a b cA"}, {1, "a b cA"}}));
}

TEST_F(GenerationApiTest, ParametersReachThePlan) {
  one_of_each("A");
  ask("/v1/completions",
      R"({"prompt":"a b c d e","temperature":0.5,"min_p":0.25,"presence_penalty":0.5,)"
      R"("frequency_penalty":-0.5,"repetition_penalty":1.25,"logit_bias":{"7":-5,"8":2.5},)"
      R"("min_tokens":3,"max_completion_tokens":9,"stop_token_ids":[9,10],"ignore_eos":true})");
  ASSERT_EQ(decode_[0]->decodes.size(), 1u);
  const proto::Plan& plan = decode_[0]->decodes[0].plan();
  const proto::Sampling& sampling = plan.sampling();
  EXPECT_EQ(sampling.min_p(), 0.25f);
  EXPECT_EQ(sampling.presence_penalty(), 0.5f);
  EXPECT_EQ(sampling.frequency_penalty(), -0.5f);
  EXPECT_EQ(sampling.repetition_penalty(), 1.25f);
  ASSERT_EQ(sampling.logit_bias_size(), 2);
  EXPECT_EQ(sampling.logit_bias(0).id(), 7);
  EXPECT_EQ(sampling.logit_bias(0).bias(), -5);
  EXPECT_EQ(sampling.min_tokens(), 3u);
  EXPECT_EQ(plan.max_tokens(), 9u);
  EXPECT_EQ(std::vector<std::int32_t>(plan.stop_ids().begin(), plan.stop_ids().end()),
            (std::vector<std::int32_t>{9, 10}));
  EXPECT_EQ(prefill_[0]->prefills[0].plan().SerializeAsString(), plan.SerializeAsString());
}

// A prompt of a list that cannot be answered fails the request; the others are let go of.
TEST_F(GenerationApiTest, AListFailsAsOne) {
  add(proto::ROLE_DECODE);
  config_.requests.admission = {.running = 2, .queued = 0};
  start();
  const Answer refused = ask("/v1/completions", R"({"prompt":["a","b","c"]})");
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(gateway_->active(), 0u);
  ASSERT_TRUE(run_until([&] { return decode_[0]->cancels.size() == 2; }));
  auto client = post("/v1/completions", R"({"prompt":["a","b"]})");
  ASSERT_TRUE(run_until([&] { return decode_[0]->decodes.size() == 4; }));
  decode_[0]->fail(decode_[0]->decodes[3].plan(), Code::kInvalidArgument);
  const Answer failed = answer_of(client);
  EXPECT_EQ(failed.status, 400);
  // The attempt that failed, and then the other.
  ASSERT_TRUE(run_until([&] { return decode_[0]->cancels.size() == 4; }));
  EXPECT_EQ(decode_[0]->cancels[3], decode_[0]->decodes[2].plan().transfer_id());
  EXPECT_EQ(gateway_->active(), 0u);
  EXPECT_EQ(ask("/v1/completions", R"({"prompt":["a",[]]})").status, 400);
  std::string list = "\"a\"";
  for (int i = 1; i < 129; ++i) list += ",\"a\"";
  EXPECT_EQ(ask("/v1/completions", "{\"prompt\":[" + list + "]}").json().at("error").at("param"),
            "prompt");
}

}  // namespace
}  // namespace kvferry::gateway
