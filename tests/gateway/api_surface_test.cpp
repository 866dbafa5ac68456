// What every request of the API has, whatever it asks: a name, a key, a deadline, limits; and the
// endpoints that generate nothing.
#include <boost/json/serialize.hpp>
#include <boost/json/value_to.hpp>
#include <filesystem>
#include <fstream>

#include "base/sha256.h"
#include "gateway/api_exchange.h"
#include "gateway/api_fields.h"
#include "gateway_harness.h"

namespace kvferry::gateway {
namespace {

namespace json = boost::json;
namespace fs = std::filesystem;

constexpr const char* kAsk = R"({"prompt":"where is the ball of Lily","max_tokens":5})";

class ApiSurfaceTest : public GatewayHarness {
 protected:
  ~ApiSurfaceTest() override {
    if (!keys_file_.empty()) fs::remove(keys_file_);
  }
  void one_worker(const std::string& answer) {
    add(proto::ROLE_DECODE).answer = ids(answer);
    start();
  }
  // Key "open", of which two requests may run at once.
  void need_keys() {
    keys_file_ = fs::temp_directory_path() / ("kvferry-keys-" + std::to_string(::getpid()));
    std::ofstream(keys_file_) << "keys:\n  - {name: k1, sha256: " << to_hex(sha256("open"))
                              << ", concurrent: 2}\n";
    config_.api_keys = keys_file_;
  }
  static std::string header(const Answer& answer, const std::string& name) {
    const std::size_t at = answer.head.find("\r\n" + name + ": ");
    if (at == std::string::npos) return "";
    const std::size_t begin = at + name.size() + 4;
    return answer.head.substr(begin, answer.head.find("\r\n", begin) - begin);
  }

  fs::path keys_file_;
};

TEST_F(ApiSurfaceTest, EveryAnswerNamesItsRequest) {
  one_worker("A");
  EXPECT_EQ(header(ask("/v1/completions", kAsk, "X-Request-Id: mine/7\r\n"), "X-Request-Id"),
            "mine/7");
  EXPECT_EQ(header(ask("/v1/completions", "{", "X-Request-Id: bad-1\r\n"), "X-Request-Id"),
            "bad-1");
  EXPECT_EQ(header(ask("/nowhere", "", "X-Request-Id: lost\r\n"), "X-Request-Id"), "lost");
  EXPECT_EQ(
      header(ask("/v1/completions", R"({"prompt":"a","stream":true})", "X-Request-Id: stream\r\n"),
             "X-Request-Id"),
      "stream");
  const std::string made = header(get("/v1/models"), "X-Request-Id");
  EXPECT_EQ(made.size(), 4u + 16u);
  EXPECT_TRUE(made.starts_with("req-"));
  EXPECT_NE(header(get("/v1/models"), "X-Request-Id"), made);
  EXPECT_EQ(registry_value("kvferry_gateway_answers_total{endpoint=\"models\",status=\"200\"}"),
            "2");
  EXPECT_EQ(
      registry_value("kvferry_gateway_answers_total{endpoint=\"completions\",status=\"400\"}"),
      "1");
}

TEST_F(ApiSurfaceTest, ARequestThatALimitRefusesIsNamedToo) {
  config_.http.body_bytes = 100;
  one_worker("A");
  const std::string body(101, ' ');
  const Answer mine = ask("/v1/completions", body, "X-Request-Id: mine\r\n");
  EXPECT_EQ(mine.status, 413);
  EXPECT_EQ(header(mine, "X-Request-Id"), "mine");
  EXPECT_TRUE(mine.json().at("error").at("code").is_null());
  EXPECT_EQ(header(ask("/v1/completions", body), "X-Request-Id").size(), 4u + 16u);
  EXPECT_EQ(registry_value("kvferry_gateway_http_refused_total{cause=\"body_bytes\"}"), "2");
}

TEST(RequestName, WhatCannotBeSentBackIsReplaced) {
  EXPECT_EQ(request_name(std::string(128, 'x'), 1), std::string(128, 'x'));
  EXPECT_EQ(request_name(std::string(129, 'x'), 1), "req-0000000000000001");
  EXPECT_EQ(request_name("a b", 2), "req-0000000000000002");
  EXPECT_EQ(request_name("caf\xc3\xa9", 3), "req-0000000000000003");
  EXPECT_EQ(request_name("", ~0ull), "req-ffffffffffffffff");
}

TEST_F(ApiSurfaceTest, KeysAreAskedForEverywhereButAtProbes) {
  need_keys();
  one_worker("A");
  for (const char* path : {"/healthz", "/readyz", "/metrics"}) {
    EXPECT_EQ(get(path).status, 200) << path;
  }
  const Answer none = ask("/v1/completions", kAsk, "X-Request-Id: r1\r\n");
  EXPECT_EQ(none.status, 401);
  EXPECT_EQ(header(none, "WWW-Authenticate"), "Bearer");
  EXPECT_EQ(header(none, "X-Request-Id"), "r1");
  EXPECT_EQ(none.json().at("error").at("type"), "invalid_request_error");
  EXPECT_TRUE(none.json().at("error").at("code").is_null());
  const Answer wrong = ask("/v1/completions", kAsk, "Authorization: Bearer shut\r\n");
  EXPECT_EQ(wrong.status, 401);
  EXPECT_EQ(wrong.json().at("error").at("code"), "invalid_api_key");
  EXPECT_EQ(wrong.body.find("shut"), std::string::npos);
  for (const char* path : {"/tokenize", "/v1/models", "/v1/chat/completions", "/nowhere"}) {
    EXPECT_EQ(ask(path, "{}").status, 401) << path;
  }
  EXPECT_EQ(ask("/v1/completions", kAsk, "Authorization: Bearer open\r\n").status, 200);
  EXPECT_EQ(registry_value("kvferry_gateway_keys_refused_total{cause=\"missing\"}"), "5");
  EXPECT_EQ(registry_value("kvferry_gateway_keys_refused_total{cause=\"unknown\"}"), "1");
}

TEST_F(ApiSurfaceTest, AStrangersBodyIsNotRead) {
  need_keys();
  one_worker("A");
  auto client = connect();
  boost::asio::write(client->socket,
                     boost::asio::buffer(std::string(
                         "POST /v1/completions HTTP/1.1\r\nContent-Length: 1000\r\n\r\n")));
  EXPECT_EQ(answer_of(client).status, 401);
}

TEST_F(ApiSurfaceTest, AKeysRequestsAtOnce) {
  need_keys();
  add(proto::ROLE_DECODE);
  start();
  const std::string key = "Authorization: Bearer open\r\n";
  auto first = post("/v1/completions", kAsk, key);
  auto second = post("/v1/completions", kAsk, key);
  ASSERT_TRUE(run_until([&] { return decode_[0]->decodes.size() == 2; }));
  const Answer third = ask("/v1/completions", kAsk, key);
  EXPECT_EQ(third.status, 429);
  EXPECT_EQ(header(third, "Retry-After"), "1");
  EXPECT_EQ(third.json().at("error").at("code"), "rate_limit_exceeded");
  EXPECT_EQ(registry_value("kvferry_gateway_keys_refused_total{cause=\"concurrency\"}"), "1");
  EXPECT_NE(get("/metrics").body.find("kvferry_gateway_key_running{key=\"k1\"} 2"),
            std::string::npos);
  // An answer, and a client that goes away, both make room.
  decode_[0]->finish(decode_[0]->decodes[0].plan());
  EXPECT_EQ(answer_of(first).status, 200);
  second->socket.close();
  ASSERT_TRUE(run_until([&] { return gateway_->active() == 0; }));
  EXPECT_NE(get("/metrics").body.find("kvferry_gateway_key_running{key=\"k1\"} 0"),
            std::string::npos);
  auto fourth = post("/v1/completions", kAsk, key);
  ASSERT_TRUE(run_until([&] { return decode_[0]->decodes.size() == 3; }));
  decode_[0]->finish(decode_[0]->decodes[2].plan());
  EXPECT_EQ(answer_of(fourth).status, 200);
}

TEST_F(ApiSurfaceTest, ABadKeyFileStopsTheStart) {
  config_.workers.push_back({"127.0.0.1", 1});
  config_.api_keys = "/nowhere/keys.yaml";
  const auto gateway = Gateway::start(io_, *timers_, metrics_, config_);
  ASSERT_FALSE(gateway.ok());
  EXPECT_NE(gateway.status().message().find("/nowhere/keys.yaml"), std::string::npos);
}

TEST(TimeoutHeader, EdgesAndNonsense) {
  const auto read = [](std::string_view header) { return read_timeout(header, 10 * kSecond); };
  EXPECT_EQ(std::get<std::uint64_t>(read("")), 10 * kSecond);
  EXPECT_EQ(std::get<std::uint64_t>(read("0.5")), kSecond / 2);
  EXPECT_EQ(std::get<std::uint64_t>(read("10")), 10 * kSecond);
  EXPECT_EQ(std::get<std::uint64_t>(read("10.001")), 10 * kSecond);
  EXPECT_EQ(std::get<std::uint64_t>(read("1e300")), 10 * kSecond);
  EXPECT_EQ(std::get<std::uint64_t>(read("1e-300")), 1u);
  for (const char* wrong : {"0", "-1", "nan", "5s", " 5", "soon"}) {
    EXPECT_TRUE(std::holds_alternative<ApiError>(read(wrong))) << wrong;
  }
}

TEST_F(ApiSurfaceTest, ATimeoutHeaderShortensTheDeadline) {
  add(proto::ROLE_DECODE);
  start();
  const Answer late = ask("/v1/completions", kAsk, "Timeout: 0.05\r\n");
  EXPECT_EQ(late.status, 504);
  EXPECT_EQ(late.json().at("error").at("type"), "timeout_error");
  EXPECT_LE(decode_[0]->decodes[0].plan().deadline_ms(), 50u);
  const Answer wrong = ask("/v1/completions", kAsk, "Timeout: soon\r\n");
  EXPECT_EQ(wrong.status, 400);
  EXPECT_EQ(wrong.json().at("error").at("param"), "timeout");
}

TEST_F(ApiSurfaceTest, ModelsSayTheirContext) {
  one_worker("A");
  const json::value one = get("/v1/models/mini").json();
  EXPECT_EQ(one.at("max_model_len"), 2048);
  EXPECT_EQ(one.at("object"), "model");
  EXPECT_EQ(get("/v1/models").json().at("data").at(0).at("max_model_len"), 2048);
}

TEST_F(ApiSurfaceTest, TokenizeAndBack) {
  one_worker("A");
  const std::string text = "where is the ball of Lily? caf\xc3\xa9";
  const json::value with =
      ask("/tokenize", json::serialize(json::value{{"model", "mini"}, {"prompt", text}})).json();
  const auto expected = *tokenizer_->encode(text, tokenizer_->add_bos());
  EXPECT_EQ(json::value_to<std::vector<std::int32_t>>(with.at("tokens")), expected);
  EXPECT_EQ(with.at("count").to_number<std::size_t>(), expected.size());
  EXPECT_EQ(with.at("max_model_len"), 2048);
  EXPECT_TRUE(with.at("token_strs").is_null());

  const json::value without =
      ask("/tokenize",
          json::serialize(json::value{{"prompt", text}, {"add_special_tokens", false}}))
          .json();
  EXPECT_EQ(json::value_to<std::vector<std::int32_t>>(without.at("tokens")), ids(text));

  const json::value special =
      ask("/tokenize", R"({"prompt":"<|endoftext|>","split_special_tokens":false})").json();
  EXPECT_EQ(special.at("tokens"), json::value({1, 0}));

  const auto back = [&](const json::value& tokens) {
    const Answer answer = ask("/detokenize", json::serialize(json::value{{"tokens", tokens}}));
    return std::string(answer.json().at("prompt").as_string());
  };
  EXPECT_EQ(back(without.at("tokens")), text);
  // As vLLM: special tokens are written out.
  EXPECT_EQ(back(with.at("tokens")), tokenizer_->bos_token() + text);
  EXPECT_EQ(back(json::array{}), "");
}

TEST_F(ApiSurfaceTest, TokenizeGivesTheTokensAsTheTokenizerWritesThem) {
  one_worker("A");
  const json::value given =
      ask("/tokenize", R"({"prompt":"is it red","return_token_strs":true})").json();
  std::string joined;
  for (const json::value& token : given.at("token_strs").as_array()) joined += token.as_string();
  EXPECT_EQ(given.at("token_strs").as_array().size(), given.at("count").as_int64());
  EXPECT_EQ(joined, "<|begin|>is\u0120it\u0120red");  // a space of byte-level BPE
}

TEST_F(ApiSurfaceTest, TokenizeCountsWhatAChatHas) {
  one_worker("A");
  const std::string chat = R"({"messages":[{"role":"user","content":"is it red"}]})";
  const json::value tokens = ask("/tokenize", chat).json();
  EXPECT_EQ(json::value_to<std::vector<std::int32_t>>(tokens.at("tokens")),
            *tokenizer_->encode("is it red\n", true));
  ask("/v1/chat/completions", chat);
  EXPECT_EQ(static_cast<std::size_t>(decode_[0]->decodes[0].plan().ids_size()),
            tokens.at("count").to_number<std::size_t>());
}

TEST_F(ApiSurfaceTest, TokenizeRefusesWhatItCannotDo) {
  one_worker("A");
  const std::pair<const char*, const char*> cases[] = {
      {"{}", "prompt"},
      {R"({"prompt":7})", "prompt"},
      {R"({"prompt":"x","return_token_strs":1})", "return_token_strs"},
      {R"({"messages":[{"role":"user","content":"x"}],"add_generation_prompt":1})",
       "add_generation_prompt"},
      {R"({"messages":[{"role":"user","content":"x"}],"continue_final_message":true})",
       "continue_final_message"},
      {R"({"messages":[{"role":"user","content":"x"}],"tools":[{"type":"function"}]})", "tools"},
      {R"({"messages":[{"role":"user","content":"x"}],"add_special_tokens":true})",
       "add_special_tokens"},
      {R"({"prompt":"x","add_special_tokens":1})", "add_special_tokens"},
      {R"({"prompt":"x","split_special_tokens":"no"})", "split_special_tokens"},
      {R"({"messages":[{"role":"user","content":"x"}],"split_special_tokens":false})",
       "split_special_tokens"},
      {R"({"messages":[]})", "messages"},
  };
  for (const auto& [body, param] : cases) {
    const Answer answer = ask("/tokenize", body);
    EXPECT_EQ(answer.status, 400) << body;
    EXPECT_EQ(answer.json().at("error").at("param"), param) << body;
  }
  EXPECT_EQ(ask("/tokenize", R"({"model":"other","prompt":"x"})").status, 404);
  for (const char* body : {"{}", R"({"tokens":"x"})", R"({"tokens":[1024]})", R"({"tokens":[-1]})",
                           R"({"tokens":[1.5]})"}) {
    EXPECT_EQ(ask("/detokenize", body).status, 400) << body;
  }
  EXPECT_EQ(ask("/detokenize", R"({"tokens":[1023]})").status, 200);
  EXPECT_EQ(get("/tokenize").status, 405);
}

// Bodies over 64 KiB are read beside the reactor.
TEST_F(ApiSurfaceTest, LongBodiesAreAnsweredAndOvertaken) {
  one_worker("A");
  const std::string text(300'000, 'a');
  const std::string body = json::serialize(json::value{{"prompt", text}});
  auto longer = post("/tokenize", body);
  const Answer shorter = ask("/tokenize", R"({"prompt":"x"})");
  EXPECT_EQ(shorter.status, 200);
  const Answer answer = answer_of(longer);
  EXPECT_EQ(answer.json().at("count").to_number<std::size_t>(),
            tokenizer_->encode(text, tokenizer_->add_bos())->size());
  const Answer refused = ask("/v1/completions", body);
  EXPECT_EQ(refused.json().at("error").at("code"), "context_length_exceeded");
  const std::string padded = R"({"prompt":"a b c","other":")" + text + "\"}";
  auto first = ask("/v1/completions", padded);
  auto second = ask("/v1/completions", kAsk);
  EXPECT_EQ(first.status, 200) << first.body;
  EXPECT_NE(first.json().at("id"), second.json().at("id"));
}

TEST_F(ApiSurfaceTest, AClientThatLeavesWhileItsBodyIsRead) {
  one_worker("A");
  for (int i = 0; i < 3; ++i) {
    auto client =
        post("/tokenize", json::serialize(json::value{{"prompt", std::string(400'000, 'a')}}));
    io_.restart();
    io_.poll();
    client->socket.close();
  }
  EXPECT_EQ(get("/v1/models").status, 200);
  gateway_.reset();  // whatever has been read by now
}

// ---- limits of what a request says, at their edges; cluster/ has those of HTTP ----

TEST_F(ApiSurfaceTest, ThePromptFitsOrIsRefused) {
  one_worker("A");
  const auto of_tokens = [](int count) {
    json::array prompt;
    for (int i = 0; i < count; ++i) prompt.push_back(5);
    return json::serialize(json::object{{"prompt", prompt}});
  };
  EXPECT_EQ(ask("/v1/completions", of_tokens(2047)).status, 200);
  const Answer refused = ask("/v1/completions", of_tokens(2048));
  EXPECT_EQ(refused.status, 400);
  EXPECT_EQ(refused.json().at("error").at("code"), "context_length_exceeded");
  EXPECT_EQ(registry_value("kvferry_gateway_refused_total{code=\"context_length_exceeded\"}"), "1");
}

TEST_F(ApiSurfaceTest, StopStringsInNumberAndLength) {
  one_worker("A");
  const auto with_stops = [&](int count, int bytes) {
    json::array stop;
    for (int i = 0; i < count; ++i) {
      stop.push_back(json::value(std::to_string(i) + std::string(bytes, 'z')).as_string());
      stop.back().as_string().resize(static_cast<std::size_t>(bytes));
    }
    return ask("/v1/completions", json::serialize(json::object{{"prompt", "a"}, {"stop", stop}}));
  };
  EXPECT_EQ(with_stops(16, 8).status, 200);
  EXPECT_EQ(with_stops(17, 8).json().at("error").at("param"), "stop");
  EXPECT_EQ(with_stops(1, 1024).status, 200);
  EXPECT_EQ(with_stops(1, 1025).json().at("error").at("param"), "stop");
}

}  // namespace
}  // namespace kvferry::gateway
