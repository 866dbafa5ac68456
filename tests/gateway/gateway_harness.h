// A gateway in this process, workers that a test scripts, and clients that speak bytes; all on one
// reactor, over the loopback.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "cluster/control.h"
#include "cluster/messages.h"
#include "codec/codec_set.h"
#include "control.pb.h"
#include "gateway/gateway.h"
#include "text/tokenizer.h"

namespace kvferry::gateway {

inline std::string mini_directory() {
  const char* root = std::getenv("KVFERRY_SOURCE_DIR");
  return std::string(root == nullptr ? "." : root) + "/models/mini";
}

// A worker that records its orders. A decode worker given an answer says it, token by token, and
// finishes; without one it leaves the request open.
class FakeWorker {
 public:
  FakeWorker(boost::asio::io_context& io, Timers& timers, proto::Role role, std::string name,
             const std::vector<std::string>& codecs, std::uint16_t port = 0)
      : role_(role), name_(std::move(name)), codecs_(codecs) {
    cluster::ControlServerHandlers handlers;
    handlers.hello = [this] { return hello(); };
    handlers.message = [this](const auto& connection, const proto::Envelope& message) {
      connection_ = connection;
      on_message(message);
    };
    auto server = cluster::listen_control(io, timers, "127.0.0.1", port, {}, std::move(handlers));
    EXPECT_TRUE(server.ok()) << server.status().to_string();
    server_ = std::move(*server);
  }

  std::uint16_t port() const { return server_->port(); }

  std::string model = "mini";
  std::vector<std::int32_t> answer;  // decode: what to say; empty: nothing by itself
  std::string reason = "stop";
  std::size_t stop_after = 1000;  // tokens of an answer, then silence
  std::vector<proto::StartDecode> decodes;
  std::vector<proto::StartPrefill> prefills;
  std::vector<std::uint64_t> cancels;

  void say(const proto::Plan& plan, std::uint32_t index, std::int32_t id,
           std::uint32_t choice = 0) {
    proto::Envelope message;
    proto::Token& token = *message.mutable_token();
    token.set_request_id(plan.request_id());
    token.set_transfer_id(plan.transfer_id());
    token.set_attempt(plan.attempt());
    token.set_position(static_cast<std::uint32_t>(plan.ids_size()) + index);
    token.set_id(id);
    token.set_choice(choice);
    if (plan.has_logprobs()) {
      token.set_logprob(-0.5f);
      for (std::uint32_t i = 0; i < plan.logprobs(); ++i) {
        proto::TokenLogprob& top = *token.add_top();
        top.set_id(static_cast<std::int32_t>(34 + i));
        top.set_logprob(-0.5f - static_cast<float>(i));
      }
    }
    connection_->send(message);
  }
  void finish(const proto::Plan& plan, std::uint32_t choice = 0) {
    proto::Envelope message;
    proto::Finished& finished = *message.mutable_finished();
    finished.set_request_id(plan.request_id());
    finished.set_transfer_id(plan.transfer_id());
    finished.set_attempt(plan.attempt());
    finished.set_reason(reason);
    finished.set_choice(choice);
    finished.mutable_usage()->set_values(1024);
    finished.mutable_usage()->set_raw_bytes(2048);
    finished.mutable_usage()->set_sent_bytes(512);
    finished.mutable_usage()->set_bits_per_value(4);
    finished.mutable_usage()->set_remote_prefill(true);
    connection_->send(message);
  }
  void fail(const proto::Plan& plan, Code code) {
    connection_->send(cluster::failed_envelope(plan, {code, "because"}));
  }
  void say_prompt(const proto::Plan& plan) {
    proto::Envelope message;
    proto::PromptLogprobs& prompt = *message.mutable_prompt_logprobs();
    prompt.set_request_id(plan.request_id());
    prompt.set_transfer_id(plan.transfer_id());
    prompt.set_attempt(plan.attempt());
    prompt.set_position(1);
    for (int i = 1; i < plan.ids_size(); ++i) {
      prompt.add_entries()->set_logprob(-static_cast<float>(i));
    }
    connection_->send(message);
  }

 private:
  proto::HelloReply hello() const {
    proto::HelloReply reply;
    reply.set_role(role_);
    reply.set_name(name_);
    reply.set_model(model);
    reply.set_model_fingerprint(1);
    reply.set_numerics_class(1);
    reply.set_data_address("data of " + name_);
    reply.set_context(2048);
    reply.set_pool_bytes(1 << 20);
    for (const std::string& codec : codecs_) reply.add_codecs(codec);
    return reply;
  }
  void on_message(const proto::Envelope& message) {
    if (message.has_cancel()) cancels.push_back(message.cancel().transfer_id());
    if (message.has_start_prefill()) prefills.push_back(message.start_prefill());
    if (!message.has_start_decode()) return;
    decodes.push_back(message.start_decode());
    if (answer.empty()) return;
    const proto::Plan& plan = decodes.back().plan();
    // On resumption the tokens already sent are part of the ids: go on behind them.
    const auto done = static_cast<std::size_t>(plan.ids_size()) - plan.prompt_tokens();
    if (plan.prompt_logprobs()) say_prompt(plan);
    for (std::uint32_t i = 0; i < plan.choices(); ++i) {
      const std::uint32_t choice = plan.first_choice() + i;
      std::uint32_t index = 0;
      for (std::size_t at = done; at < answer.size() && index < plan.max_tokens(); ++at) {
        if (index == stop_after) return;
        say(plan, index++, answer[at], choice);
      }
      finish(plan, choice);
    }
  }

  proto::Role role_;
  std::string name_;
  std::vector<std::string> codecs_;
  std::unique_ptr<cluster::ControlServer> server_;
  std::shared_ptr<cluster::ControlConnection> connection_;
};

class GatewayHarness : public testing::Test {
 protected:
  struct Answer {
    int status = 0;
    std::string head;
    std::string body;  // without chunk sizes
    boost::json::value json() const {
      boost::json::error_code error;
      boost::json::value value = boost::json::parse(body, error);
      EXPECT_FALSE(error) << body;
      return value;
    }
  };
  struct Client {
    explicit Client(boost::asio::io_context& io) : socket(io) {}
    boost::asio::ip::tcp::socket socket;
    std::string got;
    bool closed = false;
    std::array<char, 65536> bytes{};
  };

  GatewayHarness() : tokenizer_(*text::Tokenizer::load(mini_directory())) {
    config_.port = 0;
    config_.model = mini_directory();
    config_.codecs = {"raw", "hadamard | hack(k=4,v=2)"};
    config_.local_prefill_tokens = 4;
  }
  // Workers, clients and gateway must go before the reactor and its timers.
  ~GatewayHarness() override {
    gateway_.reset();
    decode_.clear();
    prefill_.clear();
  }

  FakeWorker& add(proto::Role role) {
    auto& list = role == proto::ROLE_DECODE ? decode_ : prefill_;
    const std::string name = (role == proto::ROLE_DECODE ? "d" : "p") + std::to_string(list.size());
    const auto codecs = codec::CodecSet::parse(config_.codecs);
    EXPECT_TRUE(codecs.ok());
    list.push_back(std::make_unique<FakeWorker>(io_, *timers_, role, name, codecs->specs()));
    config_.workers.push_back({"127.0.0.1", list.back()->port()});
    return *list.back();
  }

  // Starts the gateway and waits until it is ready.
  void start() {
    auto gateway = Gateway::start(io_, *timers_, metrics_, config_);
    ASSERT_TRUE(gateway.ok()) << gateway.status().to_string();
    gateway_ = std::move(*gateway);
    ASSERT_TRUE(run_until([&] {
      return registry_value("kvferry_gateway_workers_up{role=\"decode\"}") ==
                 std::to_string(decode_.size()) &&
             registry_value("kvferry_gateway_workers_up{role=\"prefill\"}") ==
                 std::to_string(prefill_.size());
    }));
  }

  std::string registry_value(const std::string& series) const {
    const std::string text = metrics_.serialize();
    const std::size_t at = text.find("\n" + series + " ");
    if (at == std::string::npos) return "";
    const std::size_t begin = at + series.size() + 2;
    return text.substr(begin, text.find('\n', begin) - begin);
  }

  bool run_until(const std::function<bool()>& done) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!done() && std::chrono::steady_clock::now() < deadline) {
      io_.restart();
      io_.run_one_for(std::chrono::milliseconds(50));
    }
    return done();
  }

  std::shared_ptr<Client> connect() {
    auto client = std::make_shared<Client>(io_);
    client->socket.connect({boost::asio::ip::address_v4::loopback(), gateway_->port()});
    read(client);
    return client;
  }
  std::shared_ptr<Client> post(const std::string& path, const std::string& body,
                               const std::string& headers = "") {
    auto client = connect();
    boost::asio::write(
        client->socket,
        boost::asio::buffer("POST " + path + " HTTP/1.1\r\nConnection: close\r\n" + headers +
                            "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body));
    return client;
  }
  Answer answer_of(const std::shared_ptr<Client>& client) {
    EXPECT_TRUE(run_until([&] { return client->closed; })) << client->got;
    Answer answer;
    const std::size_t end = client->got.find("\r\n\r\n");
    if (end == std::string::npos) return answer;
    answer.head = client->got.substr(0, end + 2);
    answer.status = std::atoi(answer.head.c_str() + 9);
    answer.body = client->got.substr(end + 4);
    if (answer.head.find("chunked") != std::string::npos) answer.body = unchunk(answer.body);
    return answer;
  }
  Answer ask(const std::string& path, const std::string& body, const std::string& headers = "") {
    return answer_of(post(path, body, headers));
  }
  Answer get(const std::string& path) {
    auto client = connect();
    boost::asio::write(
        client->socket,
        boost::asio::buffer("GET " + path + " HTTP/1.1\r\nConnection: close\r\n\r\n"));
    return answer_of(client);
  }

  std::vector<std::int32_t> ids(const std::string& text) {
    return *tokenizer_->encode(text, false);
  }

  boost::asio::io_context io_;
  std::unique_ptr<Timers> timers_ = make_asio_timers(io_);
  Metrics metrics_;
  GatewayConfig config_;
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::vector<std::unique_ptr<FakeWorker>> decode_, prefill_;
  std::unique_ptr<Gateway> gateway_;

 private:
  void read(const std::shared_ptr<Client>& client) {
    client->socket.async_read_some(boost::asio::buffer(client->bytes),
                                   [this, client](const auto& error, std::size_t count) {
                                     client->got.append(client->bytes.data(), count);
                                     if (error) {
                                       client->closed = true;
                                     } else {
                                       read(client);
                                     }
                                   });
  }
  static std::string unchunk(const std::string& chunked) {
    std::string whole;
    std::size_t at = 0;
    while (true) {
      const std::size_t line = chunked.find("\r\n", at);
      if (line == std::string::npos) return whole + "<cut off>";
      const std::size_t size = std::stoul(chunked.substr(at, line - at), nullptr, 16);
      if (size == 0) return whole;
      whole += chunked.substr(line + 2, size);
      at = line + 2 + size + 2;
    }
  }
};

}  // namespace kvferry::gateway
