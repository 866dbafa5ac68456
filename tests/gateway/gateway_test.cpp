#include <boost/json/serialize.hpp>
#include <regex>

#include "gateway_harness.h"

namespace kvferry::gateway {
namespace {

namespace json = boost::json;
using boost::asio::ip::tcp;

class GatewayTest : public GatewayHarness {
 protected:
  void one_of_each(const std::string& answer) {
    add(proto::ROLE_DECODE).answer = ids(answer);
    add(proto::ROLE_PREFILL);
    start();
  }
  // Ids and times differ from run to run.
  static std::string fixed(std::string text) {
    text = std::regex_replace(text, std::regex("cmpl-[0-9a-f]{16}"), "cmpl-ID");
    text = std::regex_replace(text, std::regex("\"created\":[0-9]+"), "\"created\":0");
    return std::regex_replace(text, std::regex("\"(queue|ttft)_ms\":[-+0-9.eE]+"), "\"$1_ms\":0");
  }
};

constexpr const char* kAsk =
    R"({"model":"mini","prompt":"where is the ball of Lily","max_tokens":5})";

TEST_F(GatewayTest, Completions) {
  one_of_each(" a red ball");
  const Answer answer = ask("/v1/completions", kAsk, "X-Request-Id: my-1\r\n");
  EXPECT_EQ(answer.status, 200);
  EXPECT_NE(answer.head.find("X-Request-Id: my-1\r\n"), std::string::npos);
  const json::value value = answer.json();
  EXPECT_EQ(value.at("object"), "text_completion");
  EXPECT_EQ(value.at("model"), "mini");
  EXPECT_TRUE(value.at("id").as_string().starts_with("cmpl-"));
  const json::value& choice = value.at("choices").at(0);
  EXPECT_EQ(choice.at("text"), " a red ball");
  EXPECT_EQ(choice.at("finish_reason"), "stop");
  EXPECT_TRUE(choice.at("logprobs").is_null());
  const json::value& usage = value.at("usage");
  const auto prompt = tokenizer_->encode("where is the ball of Lily", true)->size();
  EXPECT_EQ(usage.at("prompt_tokens").to_number<std::size_t>(), prompt);
  EXPECT_EQ(usage.at("completion_tokens").to_number<std::size_t>(), ids(" a red ball").size());
  EXPECT_EQ(usage.at("total_tokens").to_number<std::size_t>(), prompt + ids(" a red ball").size());
  const json::value& ferry = usage.at("kvferry");
  EXPECT_EQ(ferry.at("codec"), "raw");
  EXPECT_EQ(ferry.at("raw_bytes"), 2048);
  EXPECT_EQ(ferry.at("sent_bytes"), 512);
  EXPECT_EQ(ferry.at("prefill"), "remote");
  EXPECT_EQ(ferry.at("attempts"), 1);
  EXPECT_TRUE(ferry.at("seed").is_null());  // greedy

  const proto::Plan& plan = decode_[0]->decodes[0].plan();
  EXPECT_EQ(plan.max_tokens(), 5u);
  EXPECT_EQ(plan.stop_ids(0), 0);
  EXPECT_FLOAT_EQ(plan.sampling().temperature(), 0);  // generation_config.json: do_sample false
  ASSERT_EQ(prefill_[0]->prefills.size(), 1u);
  EXPECT_EQ(prefill_[0]->prefills[0].decode_data_address(), "data of d0");
}

TEST_F(GatewayTest, ChatUsesThePlainTemplate) {
  one_of_each("yes");
  const Answer answer =
      ask("/v1/chat/completions", R"({"messages":[{"role":"system","content":"be brief"},)"
                                  R"({"role":"user","content":[{"type":"text","text":"is it "},)"
                                  R"({"type":"text","text":"red"}]}],)"
                                  R"("max_completion_tokens":3,"temperature":0.5})");
  EXPECT_EQ(answer.status, 200) << answer.body;
  const json::value value = answer.json();
  EXPECT_EQ(value.at("object"), "chat.completion");
  EXPECT_TRUE(value.at("id").as_string().starts_with("chatcmpl-"));
  EXPECT_EQ(value.at("choices").at(0).at("message").at("role"), "assistant");
  EXPECT_EQ(value.at("choices").at(0).at("message").at("content"), "yes");
  const proto::Plan& plan = decode_[0]->decodes[0].plan();
  EXPECT_EQ(std::vector<std::int32_t>(plan.ids().begin(), plan.ids().end()),
            *tokenizer_->encode("be brief\nis it red\n", true));
  // Sampled without a seed: one was made up, and is told.
  EXPECT_EQ(value.at("usage").at("kvferry").at("seed").to_number<std::uint64_t>(),
            plan.sampling().seed());
  EXPECT_NE(plan.sampling().seed(), 0u);
}

TEST_F(GatewayTest, StreamBytes) {
  one_of_each("A");
  ASSERT_EQ(ids("A").size(), 1u);
  const Answer answer = ask("/v1/completions", R"({"prompt":"a b c d e f","stream":true,)"
                                               R"("stream_options":{"include_usage":true}})");
  EXPECT_EQ(answer.status, 200);
  EXPECT_NE(answer.head.find("Content-Type: text/event-stream"), std::string::npos);
  const std::string head =
      R"(data: {"id":"cmpl-ID","object":"text_completion","created":0,"model":"mini","choices":)";
  const auto prompt = tokenizer_->encode("a b c d e f", true)->size();
  EXPECT_EQ(
      fixed(answer.body),
      head + R"([{"index":0,"logprobs":null,"finish_reason":null,"text":"A"}],"usage":null})" +
          "\n\n" + head +
          R"([{"index":0,"logprobs":null,"finish_reason":"stop","text":""}],"usage":null})" +
          "\n\n" + head + R"([],"usage":{"prompt_tokens":)" + std::to_string(prompt) +
          R"(,"completion_tokens":1,"total_tokens":)" + std::to_string(prompt + 1) +
          R"(,"prompt_tokens_details":{"cached_tokens":0},"kvferry":{"codec":"raw",)"
          R"("raw_bytes":2048,"sent_bytes":512,"values":1024,"bits_per_value":4E0,)"
          R"("closed_bits_per_value":0E0,"cached_tokens":0,"queue_ms":0,"prefill_ms":0E0,)"
          R"("encode_ms":0E0,"transfer_ms":0E0,"first_decode_ms":0E0,"ttft_ms":0,"attempts":1,)"
          R"("prefill":"remote","seed":null}}})"
          "\n\ndata: [DONE]\n\n");
}

TEST_F(GatewayTest, ChatStreamBytes) {
  one_of_each("A");
  const Answer answer = ask("/v1/chat/completions",
                            R"({"messages":[{"role":"user","content":"a b c d"}],"stream":true})");
  const std::string head =
      R"(data: {"id":"chatcmpl-ID","object":"chat.completion.chunk","created":0,"model":"mini",)"
      R"("choices":[{"index":0,"logprobs":null,"finish_reason":)";
  EXPECT_EQ(fixed(answer.body), head + R"(null,"delta":{"role":"assistant","content":""}}]})" +
                                    "\n\n" + head + R"(null,"delta":{"content":"A"}}]})" + "\n\n" +
                                    head + R"("stop","delta":{}}]})" + "\n\ndata: [DONE]\n\n");
}

TEST_F(GatewayTest, TokenIdsWhenAskedFor) {
  one_of_each("A");
  const std::string id = std::to_string(ids("A")[0]);
  const Answer whole = ask("/v1/completions", R"({"prompt":"a b c d e","return_token_ids":true})");
  EXPECT_EQ(json::serialize(whole.json().at("choices").at(0).at("token_ids")), "[" + id + "]");
  const Answer stream =
      ask("/v1/completions", R"({"prompt":"a b c d e","return_token_ids":true,"stream":true})");
  EXPECT_NE(stream.body.find("\"token_ids\":[" + id + "]"), std::string::npos) << stream.body;
  const Answer not_asked = ask("/v1/completions", R"({"prompt":"a b c d e"})");
  EXPECT_EQ(not_asked.body.find("token_ids"), std::string::npos);
}

TEST_F(GatewayTest, StopStringAcrossTokensCancelsTheWorkers) {
  one_of_each(" a red ball");
  const Answer answer =
      ask("/v1/completions", R"({"prompt":"a b c d e","max_tokens":50,"stop":["ed b"]})");
  EXPECT_EQ(answer.json().at("choices").at(0).at("text"), " a r");
  EXPECT_EQ(answer.json().at("choices").at(0).at("finish_reason"), "stop");
  ASSERT_TRUE(run_until([&] { return !decode_[0]->cancels.empty(); }));
  EXPECT_EQ(decode_[0]->cancels[0], decode_[0]->decodes[0].plan().transfer_id());
}

TEST_F(GatewayTest, AClientThatLeavesFreesBothWorkers) {
  add(proto::ROLE_DECODE);
  add(proto::ROLE_PREFILL);
  start();
  for (const bool streaming : {false, true}) {
    decode_[0]->decodes.clear();
    decode_[0]->cancels.clear();
    prefill_[0]->cancels.clear();
    auto client = post("/v1/completions", streaming ? R"({"prompt":"a b c d e","stream":true})"
                                                    : R"({"prompt":"a b c d e"})");
    ASSERT_TRUE(run_until([&] { return decode_[0]->decodes.size() == 1; }));
    const proto::Plan plan = decode_[0]->decodes[0].plan();
    if (streaming) {
      decode_[0]->say(plan, 0, 66);
      ASSERT_TRUE(run_until([&] { return client->got.find("data: ") != std::string::npos; }));
    }
    client->socket.close();
    ASSERT_TRUE(run_until(
        [&] { return decode_[0]->cancels.size() == 1 && prefill_[0]->cancels.size() == 1; }));
    EXPECT_EQ(decode_[0]->cancels[0], plan.transfer_id());
    EXPECT_EQ(prefill_[0]->cancels[0], plan.transfer_id());
    EXPECT_EQ(gateway_->active(), 0u);
  }
}

TEST_F(GatewayTest, AClientThatDoesNotReadIsLetGo) {
  add(proto::ROLE_DECODE);
  config_.http.output_bytes = 4096;
  config_.default_max_tokens = 2000;
  start();
  tcp::socket silent(io_);
  silent.open(tcp::v4());
  silent.set_option(tcp::socket::receive_buffer_size(2048));
  silent.connect({boost::asio::ip::address_v4::loopback(), gateway_->port()});
  const std::string body = R"({"prompt":"a b c d e","stream":true,"kv_codec":"raw"})";
  boost::asio::write(silent,
                     boost::asio::buffer("POST /v1/completions HTTP/1.1\r\nContent-Length: " +
                                         std::to_string(body.size()) + "\r\n\r\n" + body));
  ASSERT_TRUE(run_until([&] { return decode_[0]->decodes.size() == 1; }));
  const proto::Plan plan = decode_[0]->decodes[0].plan();
  // Each event is over 150 bytes, but the kernel's buffers are the kernel's business.
  std::uint32_t said = 0;
  EXPECT_TRUE(run_until([&] {
    for (int i = 0; i < 50 && said < 1900; ++i) decode_[0]->say(plan, said++, 34);
    return !decode_[0]->cancels.empty();
  })) << said;
  EXPECT_EQ(registry_value("kvferry_gateway_http_refused_total{cause=\"slow_reader\"}"), "1");
  EXPECT_EQ(gateway_->active(), 0u);
}

TEST_F(GatewayTest, ADecodeWorkerDiesInMidStream) {
  const std::string text = " a red ball and a blue one";
  for (int i = 0; i < 2; ++i) add(proto::ROLE_DECODE).answer = ids(text);
  add(proto::ROLE_PREFILL);
  start();
  for (auto& worker : decode_) worker->stop_after = 2;
  auto client = post("/v1/completions", R"({"prompt":"a b c d e","max_tokens":90,"stream":true})");
  ASSERT_TRUE(run_until([&] {
    return client->got.find("data: ") != std::string::npos &&
           metrics_.serialize().find("kvferry_gateway_tokens_total{kind=\"completion\"} 2") !=
               std::string::npos;
  }));
  const std::size_t dead = decode_[0]->decodes.empty() ? 1 : 0;
  decode_[1 - dead]->stop_after = 1000;
  decode_[dead].reset();
  const Answer answer = answer_of(client);
  std::string streamed;
  for (std::size_t at = 0; (at = answer.body.find("\"text\":\"", at)) != std::string::npos;) {
    at += 8;
    streamed += answer.body.substr(at, answer.body.find('"', at) - at);
  }
  EXPECT_EQ(streamed, text);
  EXPECT_TRUE(answer.body.ends_with("data: [DONE]\n\n"));
  EXPECT_EQ(decode_[1 - dead]->decodes[0].plan().attempt(), 2u);
  EXPECT_EQ(registry_value("kvferry_gateway_attempts_failed_total{cause=\"decode_worker_down\","
                           "resumed=\"true\"}"),
            "1");
}

TEST_F(GatewayTest, AnErrorAfterTheFirstTokenIsAnEventOfTheStream) {
  add(proto::ROLE_DECODE);
  config_.timeout_ns = kSecond;
  start();
  auto client = post("/v1/completions", R"({"prompt":"a b c d e","stream":true})");
  ASSERT_TRUE(run_until([&] { return decode_[0]->decodes.size() == 1; }));
  decode_[0]->say(decode_[0]->decodes[0].plan(), 0, 66);
  const Answer answer = answer_of(client);
  EXPECT_EQ(answer.status, 200);
  EXPECT_NE(answer.body.find("data: {\"error\":{\"message\":\"the request's time ran out"),
            std::string::npos);
  EXPECT_EQ(answer.body.find("[DONE]"), std::string::npos);
}

TEST_F(GatewayTest, ADeadlineBeforeTheFirstTokenIs504) {
  add(proto::ROLE_DECODE);
  config_.timeout_ns = 100 * kMillisecond;
  start();
  const Answer answer = ask("/v1/completions", R"({"prompt":"a b c d e","stream":true})");
  EXPECT_EQ(answer.status, 504);
  EXPECT_EQ(answer.json().at("error").at("type"), "timeout_error");
}

TEST_F(GatewayTest, TooManyRequestsAre429) {
  add(proto::ROLE_DECODE);
  config_.requests.admission = {.running = 1, .queued = 1};
  start();
  auto running = post("/v1/completions", kAsk);
  ASSERT_TRUE(run_until([&] { return decode_[0]->decodes.size() == 1; }));
  auto queued = post("/v1/completions", kAsk);
  ASSERT_TRUE(run_until([&] { return registry_value("kvferry_gateway_queued") == "1"; }));
  const Answer refused = ask("/v1/completions", kAsk);
  EXPECT_EQ(refused.status, 429);
  EXPECT_NE(refused.head.find("Retry-After: 1\r\n"), std::string::npos);
  EXPECT_EQ(refused.json().at("error").at("code"), "rate_limit_exceeded");
  decode_[0]->finish(decode_[0]->decodes[0].plan());
  EXPECT_EQ(answer_of(running).status, 200);
  ASSERT_TRUE(run_until([&] { return decode_[0]->decodes.size() == 2; }));
  decode_[0]->finish(decode_[0]->decodes[1].plan());
  EXPECT_EQ(answer_of(queued).status, 200);
}

TEST_F(GatewayTest, ProbesModelsAndMetrics) {
  config_.workers.push_back({"127.0.0.1", 1});  // nobody there
  auto gateway = Gateway::start(io_, *timers_, metrics_, config_);
  ASSERT_TRUE(gateway.ok());
  gateway_ = std::move(*gateway);
  EXPECT_EQ(get("/healthz").status, 200);
  const Answer not_ready = get("/readyz");
  EXPECT_EQ(not_ready.status, 503);
  EXPECT_EQ(not_ready.json().at("reasons").at(0), "0 of 1 decode workers are up");
  gateway_.reset();
  config_.workers.clear();

  one_of_each("x");
  EXPECT_EQ(get("/readyz").status, 200);
  EXPECT_EQ(get("/v1/models").json().at("data").at(0).at("id"), "mini");
  EXPECT_EQ(get("/v1/models/mini").json().at("id"), "mini");
  const Answer none = get("/v1/models/none");
  EXPECT_EQ(none.status, 404);
  EXPECT_EQ(none.json().at("error").at("code"), "model_not_found");
  EXPECT_EQ(none.json().at("error").at("message"),
            "The model 'none' does not exist; this gateway serves 'mini'");
  EXPECT_EQ(get("/v1/models/").json().at("error").at("code"), "not_found");
  EXPECT_NE(get("/metrics").body.find("kvferry_gateway_running 0"), std::string::npos);
  EXPECT_EQ(get("/v1/completions").status, 405);
  EXPECT_EQ(get("/v2").status, 404);
}

TEST_F(GatewayTest, AWorkerOfAnotherModelIsNotUsed) {
  FakeWorker& worker = add(proto::ROLE_DECODE);
  worker.model = "other";
  auto gateway = Gateway::start(io_, *timers_, metrics_, config_);
  ASSERT_TRUE(gateway.ok());
  gateway_ = std::move(*gateway);
  ASSERT_TRUE(run_until([&] {
    return get("/readyz").body.find("it serves the model 'other', not 'mini'") != std::string::npos;
  }));
}

TEST_F(GatewayTest, DrainFinishesWhatRunsAndRefusesWhatComes) {
  add(proto::ROLE_DECODE);
  start();
  auto keep = connect();  // an open connection on which the client says nothing yet
  auto running = post("/v1/completions", kAsk);
  ASSERT_TRUE(run_until([&] { return decode_[0]->decodes.size() == 1; }));
  bool drained = false;
  gateway_->drain([&] { drained = true; });
  ASSERT_TRUE(run_until([&] { return keep->closed; }));
  EXPECT_FALSE(drained);
  decode_[0]->finish(decode_[0]->decodes[0].plan());
  EXPECT_EQ(answer_of(running).status, 200);
  EXPECT_TRUE(run_until([&] { return drained; }));
}

TEST_F(GatewayTest, StopCancelsAtTheWorkers) {
  add(proto::ROLE_DECODE);
  start();
  auto running = post("/v1/completions", kAsk);
  ASSERT_TRUE(run_until([&] { return decode_[0]->decodes.size() == 1; }));
  gateway_.reset();
  EXPECT_TRUE(run_until([&] { return running->closed; }));
}

TEST_F(GatewayTest, PortInUseAndMissingModelSayWhatToDo) {
  add(proto::ROLE_DECODE);
  start();
  GatewayConfig second = config_;
  second.port = gateway_->port();
  Metrics other;
  const auto in_use = Gateway::start(io_, *timers_, other, second);
  EXPECT_EQ(in_use.status().code(), Code::kUnavailable);
  second.model = "/nowhere/at/all";
  const auto missing = Gateway::start(io_, *timers_, other, second);
  EXPECT_EQ(missing.status().code(), Code::kNotFound);
  EXPECT_NE(missing.status().message().find("Hugging Face directory"), std::string::npos);
}

}  // namespace
}  // namespace kvferry::gateway
