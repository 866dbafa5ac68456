#include "gateway/api_request.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "base/clock.h"
#include "gateway/unsupported_fields.h"

namespace kvferry::gateway {
namespace {

namespace json = boost::json;

class ApiRequestTest : public testing::Test {
 protected:
  ApiRequestTest() {
    const char* root = std::getenv("KVFERRY_SOURCE_DIR");
    auto model =
        ServedModel::load(std::string(root == nullptr ? "." : root) + "/models/mini", "", "");
    EXPECT_TRUE(model.ok()) << model.status().to_string();
    model_ = std::move(*model);
    auto codecs = codec::CodecSet::parse({"hadamard | hack(k=4,v=2)", "raw"});
    EXPECT_TRUE(codecs.ok()) << codecs.status().to_string();
    codecs_ = std::make_unique<codec::CodecSet>(std::move(*codecs));
    context_.model = &model_;
    context_.codecs = codecs_.get();
    context_.timeout_ns = kSecond;
  }

  ApiResult<ApiRequest> parse(const std::string& body, Endpoint endpoint = Endpoint::kCompletions,
                              const std::string& header = "") {
    return parse_api_request(endpoint, body, header, context_);
  }
  ApiRequest good(const std::string& body, Endpoint endpoint = Endpoint::kCompletions,
                  const std::string& header = "") {
    auto parsed = parse(body, endpoint, header);
    if (const auto* error = std::get_if<ApiError>(&parsed)) {
      ADD_FAILURE() << error->json();
      return {};
    }
    return std::get<ApiRequest>(parsed);
  }
  ApiError bad(const std::string& body, Endpoint endpoint = Endpoint::kCompletions,
               const std::string& header = "") {
    auto parsed = parse(body, endpoint, header);
    if (auto* error = std::get_if<ApiError>(&parsed)) return *error;
    ADD_FAILURE() << "was accepted: " << body;
    return {};
  }

  ServedModel model_;
  std::unique_ptr<codec::CodecSet> codecs_;
  ApiContext context_;
};

TEST_F(ApiRequestTest, WrongTypesAndRangesNameTheField) {
  const std::pair<const char*, const char*> cases[] = {
      {R"("max_tokens":"5")", "max_tokens"},
      {R"("max_tokens":0)", "max_tokens"},
      {R"("max_tokens":-1)", "max_tokens"},
      {R"("max_tokens":1.5)", "max_tokens"},
      {R"("max_tokens":99999999999999999999)", "max_tokens"},
      {R"("temperature":"hot")", "temperature"},
      {R"("temperature":2.1)", "temperature"},
      {R"("temperature":-0.1)", "temperature"},
      {R"("top_p":0)", "top_p"},
      {R"("top_p":1.01)", "top_p"},
      {R"("top_k":-2)", "top_k"},
      {R"("seed":"x")", "seed"},
      {R"("seed":18446744073709551615)", "seed"},
      {R"("stop":5)", "stop"},
      {R"("stop":["a",5])", "stop"},
      {R"("stop":"")", "stop"},
      {R"("stop":["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"])",
       "stop"},
      {R"("stream":"yes")", "stream"},
      {R"("stream":true,"stream_options":5)", "stream_options"},
      {R"("stream_options":{"include_usage":true})", "stream_options"},
      {R"("stream":true,"stream_options":{"include_usage":1})", "stream_options.include_usage"},
      {R"("n":17)", "n"},
      {R"("n":0)", "n"},
      {R"("best_of":3)", "best_of"},
      {R"("model":7)", "model"},
      {R"("kv_codec":7)", "kv_codec"},
      {R"("n":2,"best_of":3)", "best_of"},
      {R"("logprobs":21)", "logprobs"},
      {R"("logprobs":-1)", "logprobs"},
      {R"("logprobs":true)", "logprobs"},
      {R"("echo":1)", "echo"},
      {R"("add_special_tokens":"false")", "add_special_tokens"},
      {R"("split_special_tokens":0)", "split_special_tokens"},
      {R"("suffix":"x")", "suffix"},
      {R"("presence_penalty":2.1)", "presence_penalty"},
      {R"("frequency_penalty":-2.1)", "frequency_penalty"},
      {R"("repetition_penalty":0)", "repetition_penalty"},
      {R"("repetition_penalty":2.1)", "repetition_penalty"},
      {R"("min_p":1.1)", "min_p"},
      {R"("min_tokens":-1)", "min_tokens"},
      {R"("min_tokens":6,"max_tokens":5)", "min_tokens"},
      {R"("ignore_eos":1)", "ignore_eos"},
      {R"("include_stop_str_in_output":"yes")", "include_stop_str_in_output"},
      {R"("stop_token_ids":5)", "stop_token_ids"},
      {R"("stop_token_ids":[1024])", "stop_token_ids"},
      {R"("stop_token_ids":[-1])", "stop_token_ids"},
      {R"("logit_bias":[1])", "logit_bias"},
      {R"("logit_bias":{"a":1})", "logit_bias"},
      {R"("logit_bias":{"1024":1})", "logit_bias"},
      {R"("logit_bias":{"-1":1})", "logit_bias"},
      {R"("logit_bias":{"5":101})", "logit_bias"},
      {R"("logit_bias":{"5":"1"})", "logit_bias"},
      {R"("logit_bias":{"5":1,"05":1})", "logit_bias"},
      {R"("response_format":{"type":"json_object"})", "response_format"},
  };
  for (const auto& [field, param] : cases) {
    const ApiError error = bad("{\"prompt\":\"a\"," + std::string(field) + "}");
    EXPECT_EQ(error.status, 400) << field;
    EXPECT_EQ(error.type, "invalid_request_error") << field;
    EXPECT_EQ(error.param, param) << field;
    EXPECT_NE(error.message.find(param), std::string::npos) << error.message;
  }
}

// Each field that is known and not there: refused by its name, but not for what changes nothing.
TEST_F(ApiRequestTest, FieldsThatWouldChangeTheAnswerAreRefused) {
  const std::string chat = R"({"messages":[{"role":"user","content":"a"}],"max_tokens":4,)";
  const auto body = [&](std::string_view name, const std::string& value) {
    return chat + "\"" + std::string(name) + "\":" + value + "}";
  };
  EXPECT_GT(unsupported_fields().size(), 30u);
  for (const UnsupportedField& field : unsupported_fields()) {
    json::array neutral = json::parse(field.neutral).as_array();
    neutral.push_back(nullptr);
    for (const json::value& value : neutral) {
      EXPECT_TRUE(std::holds_alternative<ApiRequest>(
          parse(body(field.name, json::serialize(value)), Endpoint::kChat)))
          << field.name << value;
    }
    for (const char* value : {"[7]", R"("audio")", R"({"a":1})", "12", "0.5"}) {
      const ApiError error = bad(body(field.name, value), Endpoint::kChat);
      EXPECT_EQ(error.status, 400) << field.name;
      EXPECT_EQ(error.param, field.name);
      EXPECT_NE(error.message.find(field.name), std::string::npos) << error.message;
    }
  }
  for (const char* field :
       {R"("chat_template_kwargs":{"enable_thinking":0})", R"("chat_template":"{{x}}")",
        R"("continue_final_message":true)", R"("detokenize":false)", R"("bad_words":["a"])",
        R"("skip_special_tokens":false)", R"("use_beam_search":true)", R"("prompt_logprobs":0)",
        R"("add_generation_prompt":"no")", R"("add_special_tokens":true)",
        R"("chat_template_kwargs":[])", R"("chat_template_kwargs":{"tools":1})",
        R"("modalities":["audio"])", R"("reasoning_effort":"low")", R"("best_of":2)"}) {
    const ApiError error = bad(chat + field + "}", Endpoint::kChat);
    const std::string name(field + 1, std::string_view(field).find('"', 1) - 1);
    EXPECT_TRUE(error.param.starts_with(name)) << error.json();
  }
  EXPECT_EQ(bad(chat + R"("regex":"a"})", Endpoint::kChat).message,
            R"('regex' is not supported; it may be null or "")");
}

TEST_F(ApiRequestTest, TheManualListsTheFieldsThatAreRefused) {
  const char* root = std::getenv("KVFERRY_SOURCE_DIR");
  std::ifstream file(std::string(root == nullptr ? "." : root) + "/docs/operations.md");
  std::stringstream manual;
  manual << file.rdbuf();
  for (const UnsupportedField& field : unsupported_fields()) {
    EXPECT_NE(manual.str().find("`" + std::string(field.name) + "`"), std::string::npos)
        << field.name;
  }
}

TEST_F(ApiRequestTest, SeedsAreOf64Bits) {
  for (const std::int64_t seed : {INT64_MIN, std::int64_t{-1}, INT64_MAX}) {
    EXPECT_EQ(good(R"({"prompt":"a","seed":)" + std::to_string(seed) + "}").generations[0].seed,
              static_cast<std::uint64_t>(seed));
  }
  for (const char* seed : {"9223372036854775808", "18446744073709551615", "-9223372036854775809",
                           "99999999999999999999"}) {
    EXPECT_EQ(bad(R"({"prompt":"a","seed":)" + std::string(seed) + "}").message,
              "'seed' must be from -9223372036854775808 to 9223372036854775807");
  }
  EXPECT_EQ(bad(R"({"prompt":"a","seed":1.5})").message, "'seed' must be a whole number");
}

TEST_F(ApiRequestTest, ThoughtsAreSwitchedOffAsTheTemplateDoes) {
  const auto loaded = text::ChatTemplate::load(".", "qwen3");
  ASSERT_TRUE(loaded.ok()) << loaded.status().to_string();
  model_.chat = *loaded;
  const auto prompt = [&](const std::string& more) {
    return good(R"({"messages":[{"role":"user","content":"a"}],"max_tokens":4)" + more + "}",
                Endpoint::kChat)
        .generations[0]
        .prompt;
  };
  const auto encoded = [&](const std::string& text) {
    return *model_.tokenizer->encode(text, false);
  };
  const std::string turn = "<|im_start|>user\na<|im_end|>\n", answer = "<|im_start|>assistant\n";
  EXPECT_EQ(prompt(""), encoded(turn + answer));
  EXPECT_EQ(prompt(R"(,"chat_template_kwargs":{"enable_thinking":true})"), encoded(turn + answer));
  EXPECT_EQ(prompt(R"(,"chat_template_kwargs":{"enable_thinking":false})"),
            encoded(turn + answer + "<think>\n\n</think>\n\n"));
  EXPECT_EQ(prompt(R"(,"add_generation_prompt":false)"), encoded(turn));
}

TEST_F(ApiRequestTest, WrongPrompts) {
  for (const char* prompt : {"5", "null", "{}", "[]", R"(["a",5])", R"([[1],[]])", R"([1,"a"])",
                             "[-1]", "[1024]", "[1.5]", "[true]", "[[]]", "[null]"}) {
    const ApiError error = bad(std::string(R"({"prompt":)") + prompt + "}");
    EXPECT_EQ(error.status, 400) << prompt;
    EXPECT_EQ(error.param, "prompt") << prompt;
  }
  EXPECT_EQ(bad("{}").param, "prompt");
  for (const char* messages :
       {"5", "null", "[]", "[5]", R"([{"role":"user"}])", R"([{"role":"king","content":"x"}])",
        R"([{"content":"x"}])", R"([{"role":"user","content":[{"type":"image_url"}]}])"}) {
    const ApiError error = bad(std::string(R"({"messages":)") + messages + "}", Endpoint::kChat);
    EXPECT_EQ(error.status, 400) << messages;
    EXPECT_TRUE(error.param.starts_with("messages")) << messages;
  }
}

TEST_F(ApiRequestTest, BrokenBodies) {
  std::string nested(100000, '[');
  for (const std::string& body :
       {std::string("{"), std::string(""), std::string("{\"prompt\":\"\xff\"}"), nested,
        std::string("{\"prompt\":\"a\"} x")}) {
    const ApiError error = bad(body);
    EXPECT_EQ(error.status, 400);
    EXPECT_EQ(error.code, "invalid_json");
  }
  EXPECT_EQ(bad("[]").status, 400);
  EXPECT_EQ(
      bad("{\"prompt\":5}").json(),
      R"({"error":{"message":"'prompt' must be a string or an array of token ids, or a list of )"
      R"(these",)"
      R"("type":"invalid_request_error","param":"prompt","code":null}})");
}

TEST_F(ApiRequestTest, UnknownModelAndCodec) {
  const ApiError model = bad(R"({"model":"gpt-9","prompt":"a"})");
  EXPECT_EQ(model.status, 404);
  EXPECT_EQ(model.code, "model_not_found");
  for (const ApiError& error : {bad(R"-({"prompt":"a","kv_codec":"hack(k=2,v=2)"})-"),
                                bad(R"({"prompt":"a","kv_codec":"zip"})"),
                                bad(R"({"prompt":"a"})", Endpoint::kCompletions, "zip")}) {
    EXPECT_EQ(error.status, 400);
    EXPECT_EQ(error.param, "kv_codec");
    for (const std::string& allowed : codecs_->specs()) {
      EXPECT_NE(error.message.find(allowed), std::string::npos) << error.message;
    }
  }
}

TEST_F(ApiRequestTest, CodecsByFieldHeaderAndDefault) {
  EXPECT_EQ(good(R"({"prompt":"a"})").generations[0].codec, codecs_->specs()[0]);
  EXPECT_EQ(good(R"({"prompt":"a"})", Endpoint::kCompletions, "raw").generations[0].codec, "raw");
  EXPECT_EQ(good(R"-({"prompt":"a","kv_codec":"hadamard|hack( v=2, k=4 )"})-",
                 Endpoint::kCompletions, "raw")
                .generations[0]
                .codec,
            codecs_->specs()[0]);
}

TEST_F(ApiRequestTest, TooLongPrompts) {
  std::string ids = "1";
  for (int i = 1; i < 2048; ++i) ids += ",5";
  const ApiError by_ids = bad("{\"prompt\":[" + ids + "]}");
  EXPECT_EQ(by_ids.status, 400);
  EXPECT_EQ(by_ids.code, "context_length_exceeded");
  EXPECT_EQ(by_ids.param, "prompt");
  EXPECT_NE(by_ids.message.find("maximum context length is 2048 tokens"), std::string::npos);
  EXPECT_EQ(bad("{\"prompt\":\"" + std::string(3000, '7') + "\"}").code, "context_length_exceeded");
  // Refused by its bytes alone.
  const ApiError huge = bad("{\"prompt\":\"" + std::string(4 << 20, '7') + "\"}");
  EXPECT_NE(huge.message.find("at least"), std::string::npos);
  const ApiError chat =
      bad(R"({"messages":[{"role":"user","content":")" + std::string(3000, '7') + "\"}]}",
          Endpoint::kChat);
  EXPECT_EQ(chat.param, "messages");
}

TEST_F(ApiRequestTest, MaxTokensAreClippedToTheContext) {
  std::string ids = "1";
  for (int i = 1; i < 2047; ++i) ids += ",5";
  EXPECT_EQ(good("{\"prompt\":[" + ids + "]}").generations[0].max_tokens, 1u);
  EXPECT_EQ(good("{\"prompt\":[1,2]}").generations[0].max_tokens, 512u);
  EXPECT_EQ(good("{\"prompt\":[1,2],\"max_tokens\":100000}").generations[0].max_tokens, 2046u);
  EXPECT_EQ(good(R"({"messages":[{"role":"user","content":"a"}],"max_tokens":9,)"
                 R"("max_completion_tokens":7})",
                 Endpoint::kChat)
                .generations[0]
                .max_tokens,
            7u);
}

TEST_F(ApiRequestTest, ToolCallsOfEarlierAnswersHaveNoContent) {
  const std::string call =
      R"({"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function",)"
      R"("function":{"name":"f","arguments":"{}"}}]})";
  const std::string answer = R"({"role":"tool","tool_call_id":"c","content":"b"})";
  const auto body = [](const std::string& messages) {
    return R"({"max_tokens":9,"messages":[)" + messages + "]}";
  };
  EXPECT_FALSE(good(body(call + "," + answer), Endpoint::kChat).generations[0].prompt.empty());
  for (const char* calls : {"1", "[1]", R"([{"function":{"name":"f"}}])", R"([{"id":"c"}])"}) {
    const std::string message =
        R"({"role":"assistant","content":"a","tool_calls":)" + std::string(calls) + "}";
    const ApiError error = bad(body(message), Endpoint::kChat);
    EXPECT_EQ(error.param, "messages[0].tool_calls") << calls;
    EXPECT_TRUE(error.message.starts_with("'messages[0].tool_calls' must be")) << error.message;
  }
  EXPECT_EQ(bad(body(R"({"role":"user","content":null,"tool_calls":[]})"), Endpoint::kChat).param,
            "messages[0]");
}

TEST_F(ApiRequestTest, WhatIsGivenIsTaken) {
  const ApiRequest request =
      good(R"({"prompt":["a b"],"max_tokens":3,"temperature":0.5,"top_k":5,"top_p":0.9,"seed":-3,)"
           R"("stop":["x","y"],"stream":true,"stream_options":{"include_usage":true},"n":1,)"
           R"("user":"me","unknown":{"a":[1]},"logit_bias":{},"logprobs":null,"echo":false})");
  EXPECT_EQ(request.generations[0].prompt, *model_.tokenizer->encode("a b", true));
  EXPECT_EQ(request.generations[0].max_tokens, 3u);
  EXPECT_FLOAT_EQ(request.generations[0].temperature, 0.5f);
  EXPECT_EQ(request.generations[0].top_k, 5u);
  EXPECT_FLOAT_EQ(request.generations[0].top_p, 0.9f);
  EXPECT_EQ(static_cast<std::int64_t>(request.generations[0].seed), -3);
  EXPECT_EQ(request.generations[0].stop, (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(request.generations[0].stop_ids, std::vector<std::int32_t>{0});
  EXPECT_EQ(request.generations[0].timeout_ns, kSecond);
  EXPECT_FALSE(request.generations[0].logprobs.has_value());
  EXPECT_TRUE(request.echo.empty());
  EXPECT_TRUE(request.stream);
  EXPECT_TRUE(request.include_usage);
  EXPECT_TRUE(request.sampled);
  // Ids are taken as they are, without BOS.
  EXPECT_EQ(good(R"({"prompt":[[7,8]]})").generations[0].prompt, (std::vector<std::int32_t>{7, 8}));
}

// <|endoftext|> is 0 and <|begin|>, the BOS, is 1.
TEST_F(ApiRequestTest, SpecialTokensOfAPromptAreTextUnlessAskedFor) {
  const auto ids = [&](const std::string& text, const std::string& fields) {
    return good(R"({"prompt":[")" + text + "\"]" + fields + "}").generations[0].prompt;
  };
  const auto plain = [&](const char* text) { return *model_.tokenizer->encode(text, false); };
  const auto joined = [](std::vector<std::int32_t> front, const std::vector<std::int32_t>& back) {
    front.insert(front.end(), back.begin(), back.end());
    return front;
  };
  const auto literal = plain("<|endoftext|>a");
  ASSERT_GT(literal.size(), 2u);
  EXPECT_EQ(ids("<|endoftext|>a", ""), joined({1}, literal));
  EXPECT_EQ(ids("<|endoftext|>a", R"(,"split_special_tokens":true)"), joined({1}, literal));
  EXPECT_EQ(ids("<|endoftext|>a", R"(,"split_special_tokens":false)"), joined({1, 0}, plain("a")));
  EXPECT_EQ(ids("<|endoftext|>a", R"(,"add_special_tokens":false)"), literal);
  EXPECT_EQ(ids("<|endoftext|>a", R"(,"add_special_tokens":false,"split_special_tokens":false)"),
            joined({0}, plain("a")));
  // A prompt that a client's template wrote has its BOS once.
  EXPECT_EQ(ids("<|begin|>a", R"(,"split_special_tokens":false)"), joined({1}, plain("a")));
  EXPECT_EQ(bad(R"({"prompt":"","add_special_tokens":false})").param, "prompt");
}

TEST_F(ApiRequestTest, MessagesHaveNoSpecialTokens) {
  const auto body = [](const std::string& split) {
    return R"({"messages":[{"role":"user","content":"<|endoftext|>"}],"split_special_tokens":)" +
           split + "}";
  };
  EXPECT_EQ(good(body("true"), Endpoint::kChat).generations[0].prompt,
            *model_.tokenizer->encode("<|endoftext|>\n", true));
  for (const char* wrong : {"false", "1"}) {
    EXPECT_EQ(bad(body(wrong), Endpoint::kChat).param, "split_special_tokens") << wrong;
  }
}

TEST_F(ApiRequestTest, DefaultsFollowTheCheckpoint) {
  const ApiRequest request = good(R"({"prompt":"a","temperature":null})");
  EXPECT_FLOAT_EQ(request.generations[0].temperature, 0);  // do_sample: false
  EXPECT_FALSE(request.sampled);
  const ApiRequest sampled = good(R"({"prompt":"a","temperature":1})");
  const ApiRequest again = good(R"({"prompt":"a","temperature":1})");
  EXPECT_TRUE(sampled.sampled);
  EXPECT_NE(sampled.generations[0].seed, again.generations[0].seed);
  EXPECT_LT(sampled.generations[0].seed, std::uint64_t{1} << 53);
}

}  // namespace
}  // namespace kvferry::gateway
