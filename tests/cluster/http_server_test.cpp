#include "cluster/http_server.h"

#include <gtest/gtest.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <random>

#include "cluster/admin_http.h"

namespace kvferry::cluster {
namespace {

using boost::asio::ip::tcp;
using namespace std::chrono_literals;

class HttpTest : public testing::Test {
 protected:
  void serve(const HttpLimits& limits) {
    HttpHandlers handlers;
    handlers.request = [this](std::shared_ptr<HttpExchange> exchange) {
      exchange->on_gone([this](const Status& cause) { gone_.push_back(cause); });
      if (exchange->request().path == "/echo") {
        exchange->respond(200, "text/plain", exchange->request().body,
                          {{"X-Got", std::string(exchange->request().header("x-some"))}});
      } else if (exchange->request().path != "/drop") {
        held_.push_back(std::move(exchange));
      }
    };
    handlers.admit = admit_;
    handlers.refused = [this](std::string_view cause) { refused_.emplace_back(cause); };
    handlers.own_answer = [](const HttpRequest& head, int status) {
      return HttpHeaders{{"X-Own", std::to_string(status) + std::string(head.header("x-some"))}};
    };
    auto server = listen_http(io_, timers_, "127.0.0.1", 0, limits, handlers);
    ASSERT_TRUE(server.ok()) << server.status().to_string();
    server_ = std::move(*server);
  }

  bool run_until(const std::function<bool()>& done) {
    const auto deadline = std::chrono::steady_clock::now() + 10s;
    while (!done() && std::chrono::steady_clock::now() < deadline) {
      io_.restart();
      io_.run_one_for(50ms);
    }
    return done();
  }

  struct Peer {
    explicit Peer(boost::asio::io_context& io) : socket(io) {}
    tcp::socket socket;
    std::string got;
    bool closed = false;
    std::array<char, 4096> bytes{};
  };
  std::shared_ptr<Peer> connect(bool reading = true) {
    auto peer = std::make_shared<Peer>(io_);
    peer->socket.open(tcp::v4());
    if (!reading) peer->socket.set_option(tcp::socket::receive_buffer_size(4096));
    peer->socket.connect({boost::asio::ip::address_v4::loopback(), server_->port()});
    if (reading) read(peer);
    return peer;
  }
  void read(const std::shared_ptr<Peer>& peer) {
    peer->socket.async_read_some(boost::asio::buffer(peer->bytes),
                                 [this, peer](const auto& error, std::size_t count) {
                                   peer->got.append(peer->bytes.data(), count);
                                   if (error) {
                                     peer->closed = true;
                                   } else {
                                     read(peer);
                                   }
                                 });
  }
  static void send(tcp::socket& socket, std::string_view text) {
    boost::asio::write(socket, boost::asio::buffer(text));
  }
  static void send(Peer& peer, std::string_view text) { send(peer.socket, text); }
  // What comes back for `text`, which the server answers and then closes.
  std::string answer_and_close(std::string_view text) {
    auto peer = connect();
    send(*peer, text);
    EXPECT_TRUE(run_until([&] { return peer->closed; }));
    return peer->got;
  }

  boost::asio::io_context io_;
  ManualTimers timers_;
  std::function<std::optional<HttpRefusal>(const HttpRequest&)> admit_;
  std::unique_ptr<HttpServer> server_;
  std::vector<std::shared_ptr<HttpExchange>> held_;
  std::vector<Status> gone_;
  std::vector<std::string> refused_;
};

TEST_F(HttpTest, AnswersPipelinedRequestsInOrderOnOneConnection) {
  serve({});
  auto peer = connect();
  send(*peer,
       "POST /echo?x=1 HTTP/1.1\r\nX-Some: thing\r\nContent-Length: 3\r\n\r\nabc"
       "POST /echo HTTP/1.1\r\nContent-Length: 2\r\nConnection: close\r\n\r\nde");
  ASSERT_TRUE(run_until([&] { return peer->closed; }));
  EXPECT_EQ(peer->got,
            "HTTP/1.1 200 OK\r\nServer: kvferry\r\nContent-Type: text/plain\r\nX-Got: thing\r\n"
            "Connection: keep-alive\r\nContent-Length: 3\r\n\r\nabc"
            "HTTP/1.1 200 OK\r\nServer: kvferry\r\nContent-Type: text/plain\r\nX-Got: \r\n"
            "Connection: close\r\nContent-Length: 2\r\n\r\nde");
  EXPECT_TRUE(gone_.empty());
  EXPECT_EQ(server_->connections(), 0u);
}

TEST_F(HttpTest, StreamsChunksAndGoesOnWithTheNextRequest) {
  serve({});
  auto peer = connect();
  send(*peer, "GET /stream HTTP/1.1\r\n\r\n");
  ASSERT_TRUE(run_until([&] { return held_.size() == 1; }));
  held_[0]->begin_stream(200, "text/event-stream");
  held_[0]->write("data: one\n\n");
  held_[0]->write("");  // an empty chunk would end the stream
  held_[0]->write("data: two\n\n");
  held_[0]->end_stream();
  ASSERT_TRUE(run_until([&] { return peer->got.ends_with("0\r\n\r\n"); }));
  EXPECT_TRUE(peer->got.ends_with("\r\n\r\nb\r\ndata: one\n\n\r\nb\r\ndata: two\n\n\r\n0\r\n\r\n"));
  send(*peer, "GET /echo HTTP/1.1\r\n\r\n");
  EXPECT_TRUE(run_until([&] { return peer->got.ends_with("Content-Length: 0\r\n\r\n"); }));
}

TEST_F(HttpTest, AnHttp10StreamEndsWithTheConnection) {
  serve({});
  auto peer = connect();
  send(*peer, "GET /stream HTTP/1.0\r\n\r\n");
  ASSERT_TRUE(run_until([&] { return held_.size() == 1; }));
  held_[0]->begin_stream(200, "text/event-stream");
  held_[0]->write("data: one\n\n");
  held_[0]->end_stream();
  ASSERT_TRUE(run_until([&] { return peer->closed; }));
  EXPECT_TRUE(peer->got.ends_with("\r\n\r\ndata: one\n\n"));
}

TEST_F(HttpTest, AClientThatGoesAwayIsNoticedInEveryState) {
  serve({});
  for (const bool streaming : {false, true}) {
    auto peer = connect();
    send(*peer, "GET /hold HTTP/1.1\r\n\r\n");
    ASSERT_TRUE(run_until([&] { return held_.size() == 1; }));
    if (streaming) held_[0]->begin_stream(200, "text/event-stream");
    peer->socket.close();
    ASSERT_TRUE(run_until([&] { return gone_.size() == 1; }));
    EXPECT_EQ(gone_[0].code(), Code::kCancelled);
    EXPECT_FALSE(held_[0]->open());
    held_[0]->write("data: nobody\n\n");
    held_.clear();
    gone_.clear();
  }
  EXPECT_EQ(server_->connections(), 0u);
}

TEST_F(HttpTest, HeaderLimitAtItsEdge) {
  HttpLimits limits;
  limits.header_bytes = 2000;
  serve(limits);
  const auto of_bytes = [](std::size_t bytes) {
    const std::string first = "Connection: close\r\nX: ";
    return "GET /echo HTTP/1.1\r\n" + first + std::string(bytes - first.size() - 4, 'a') +
           "\r\n\r\n";
  };
  EXPECT_TRUE(answer_and_close(of_bytes(2000)).starts_with("HTTP/1.1 200 "));
  EXPECT_TRUE(refused_.empty());
  EXPECT_TRUE(answer_and_close(of_bytes(2001)).starts_with("HTTP/1.1 431 "));
  EXPECT_TRUE(answer_and_close("GET /" + std::string(2000, 'a') + " HTTP/1.1\r\n\r\n")
                  .starts_with("HTTP/1.1 431 "));
  EXPECT_EQ(refused_, (std::vector<std::string>{"header_bytes", "header_bytes"}));
}

TEST_F(HttpTest, BodyLimitAtItsEdge) {
  HttpLimits limits;
  limits.body_bytes = 100;
  serve(limits);
  const auto plain = [](std::size_t bytes) {
    return "POST /echo HTTP/1.1\r\nConnection: close\r\nContent-Length: " + std::to_string(bytes) +
           "\r\n\r\n" + std::string(bytes, 'b');
  };
  const auto chunked = [](const std::string& second) {
    return "POST /echo HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n" +
           std::string(64, 'c') + "\r\n" + second;
  };
  EXPECT_TRUE(answer_and_close(plain(100)).starts_with("HTTP/1.1 200 "));
  EXPECT_TRUE(answer_and_close(chunked("24\r\n" + std::string(36, 'c') + "\r\n0\r\n\r\n"))
                  .starts_with("HTTP/1.1 200 "));
  EXPECT_TRUE(refused_.empty());
  EXPECT_TRUE(answer_and_close(plain(101)).starts_with("HTTP/1.1 413 "));
  // While it is read: what is announced, before it is there.
  EXPECT_TRUE(answer_and_close(chunked("25\r\n")).starts_with("HTTP/1.1 413 "));
  EXPECT_EQ(refused_, (std::vector<std::string>{"body_bytes", "body_bytes"}));
}

TEST_F(HttpTest, AHundredMegabytesAreRefusedBeforeTheyAreSent) {
  serve({});
  const std::string got =
      answer_and_close("POST /echo HTTP/1.1\r\nContent-Length: 104857600\r\n\r\n");
  EXPECT_TRUE(got.starts_with("HTTP/1.1 413 ")) << got;
  EXPECT_NE(got.find("\"message\":\"the body is larger than 8388608 bytes\""), std::string::npos);
}

TEST_F(HttpTest, ChunkHeadersAndTrailersAreBoundedToo) {
  serve({});
  const std::string start = "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (const char* open : {"1;x=", "0\r\nX: "}) {
    EXPECT_TRUE(
        answer_and_close(start + open + std::string(256 << 10, 'a')).starts_with("HTTP/1.1 431 "));
  }
  EXPECT_EQ(refused_, (std::vector<std::string>{"header_bytes", "header_bytes"}));
}

TEST_F(HttpTest, TrailersAreNotHeaders) {
  serve({});
  EXPECT_NE(answer_and_close("POST /echo HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: "
                             "chunked\r\n\r\n0\r\nX-Some: late\r\n\r\n")
                .find("X-Got: \r\n"),
            std::string::npos);
}

TEST_F(HttpTest, ARequestMayBeRefusedByItsHeader) {
  admit_ = [](const HttpRequest& head) -> std::optional<HttpRefusal> {
    if (head.header("x-some") == "good") return std::nullopt;
    return HttpRefusal{401, "{}", {{"X-Why", "bad"}}};
  };
  serve({});
  // Its body never comes.
  const std::string got = answer_and_close("POST /echo HTTP/1.1\r\nContent-Length: 5\r\n\r\n");
  EXPECT_TRUE(got.starts_with("HTTP/1.1 401 "));
  EXPECT_NE(got.find("X-Why: bad\r\n"), std::string::npos);
  EXPECT_TRUE(answer_and_close("POST /echo HTTP/1.1\r\nConnection: close\r\nX-Some: good\r\n"
                               "Content-Length: 5\r\n\r\nhello")
                  .ends_with("\r\n\r\nhello"));
}

TEST_F(HttpTest, NotHttp) {
  serve({});
  EXPECT_TRUE(answer_and_close("nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
  EXPECT_EQ(refused_, std::vector<std::string>{"malformed"});
}

TEST_F(HttpTest, RandomBytesAndCutRequestsNeverCrash) {
  serve({});
  std::mt19937 random(3);
  const std::string good = "POST /echo?a=b HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd";
  for (int round = 0; round < 400; ++round) {
    std::string bytes = good;
    if (round % 4 == 0) {
      for (char& byte : bytes) byte = static_cast<char>(random());
    } else {
      for (int i = 0; i < round % 4; ++i) {
        bytes[random() % bytes.size()] = static_cast<char>(random());
      }
    }
    tcp::socket socket(io_);
    socket.connect({boost::asio::ip::address_v4::loopback(), server_->port()});
    send(socket, bytes.substr(0, random() % (bytes.size() + 1)));
    io_.restart();
    io_.poll();
    socket.close();
  }
  EXPECT_TRUE(run_until([&] { return server_->connections() == 0; }));
  EXPECT_TRUE(answer_and_close("GET /echo HTTP/1.1\r\nConnection: close\r\n\r\n")
                  .starts_with("HTTP/1.1 200 "));
}

TEST_F(HttpTest, ConnectionLimit) {
  HttpLimits limits;
  limits.connections = 2;
  serve(limits);
  auto first = connect();
  auto second = connect();
  ASSERT_TRUE(run_until([&] { return server_->connections() == 2; }));
  EXPECT_TRUE(answer_and_close("").starts_with("HTTP/1.1 503 "));
  first->socket.close();
  ASSERT_TRUE(run_until([&] { return server_->connections() == 1; }));
  auto third = connect();
  send(*third, "GET /echo HTTP/1.1\r\n\r\n");
  EXPECT_TRUE(run_until([&] { return third->got.starts_with("HTTP/1.1 200 "); }));
}

// Those that the server gives by itself, with what was read of the request.
TEST_F(HttpTest, ItsOwnAnswersHaveTheirHeadersAndNoCode) {
  HttpLimits limits;
  limits.connections = 1;
  limits.header_bytes = 2000;
  limits.body_bytes = 10;
  serve(limits);
  const std::string start = "POST /echo HTTP/1.1\r\nX-Some: /mine\r\n";
  const std::pair<std::string, std::string> cases[] = {
      {start + "Content-Length: 11\r\n\r\n", "413/mine"},
      {start + "Transfer-Encoding: chunked\r\n\r\nff\r\n", "413/mine"},
      {start + "X: " + std::string(2000, 'a'), "431/mine"},
      {start + "Content-Length: many\r\n\r\n", "400/mine"},
      {start + "no field\r\n\r\n", "400/mine"},
      {"nonsense\r\n\r\n", "400"},
      {"GET /drop HTTP/1.1\r\nX-Some: /mine\r\n\r\n", "500/mine"}};
  const auto expect_own = [](const std::string& got, const std::string& own) {
    EXPECT_NE(got.find("\r\nX-Own: " + own + "\r\n"), std::string::npos) << got;
    EXPECT_NE(got.find("\r\nServer: kvferry\r\n"), std::string::npos) << got;
    EXPECT_TRUE(got.ends_with(",\"param\":null,\"code\":null}}\n")) << got;
  };
  for (const auto& [text, own] : cases) {
    expect_own(answer_and_close(text), own);
    ASSERT_TRUE(run_until([&] { return server_->connections() == 0; }));
  }
  auto first = connect();
  ASSERT_TRUE(run_until([&] { return server_->connections() == 1; }));
  const std::string full = answer_and_close("");
  expect_own(full, "503");
  EXPECT_NE(full.find("\r\nRetry-After: 1\r\n"), std::string::npos);
  send(*first, start + "Content-Length: 3\r\n\r\na");
  io_.restart();
  io_.run_for(20ms);  // lets the half request in
  timers_.advance(31 * kSecond);
  ASSERT_TRUE(run_until([&] { return first->got.ends_with("}\n") || first->closed; }));
  expect_own(first->got, "408/mine");
}

TEST_F(HttpTest, IdleAndReadDeadlines) {
  serve({});
  auto idle = connect();
  auto slow = connect();
  send(*slow, "POST /echo HTTP/1.1\r\nContent-Length: 10\r\n\r\n12345");
  ASSERT_TRUE(run_until([&] { return server_->connections() == 2; }));
  io_.restart();
  io_.run_for(20ms);  // lets the half request in
  timers_.advance(31 * kSecond);
  ASSERT_TRUE(run_until([&] { return slow->closed || slow->got.starts_with("HTTP/1.1 408 "); }));
  EXPECT_TRUE(slow->got.starts_with("HTTP/1.1 408 "));
  EXPECT_FALSE(idle->closed);
  timers_.advance(45 * kSecond);
  EXPECT_TRUE(run_until([&] { return idle->closed; }));
}

TEST_F(HttpTest, ASlowReaderCostsItsOwnBufferAndIsCutOff) {
  HttpLimits limits;
  limits.output_bytes = 64 << 10;
  serve(limits);
  auto slow = connect(false);
  send(*slow, "GET /stream HTTP/1.1\r\n\r\n");
  ASSERT_TRUE(run_until([&] { return held_.size() == 1; }));
  held_[0]->begin_stream(200, "text/event-stream");
  const std::string chunk(8 << 10, 'x');
  for (int i = 0; i < 4000 && held_[0]->open(); ++i) {  // 32 MB: beyond any kernel's buffers
    held_[0]->write(chunk);
    io_.restart();
    io_.poll();
  }
  EXPECT_FALSE(held_[0]->open());
  ASSERT_TRUE(run_until([&] { return gone_.size() == 1; }));
  EXPECT_EQ(gone_[0].code(), Code::kResourceExhausted);
  EXPECT_EQ(refused_, std::vector<std::string>{"slow_reader"});
}

TEST_F(HttpTest, AStalledWriteIsCutOff) {
  serve({});
  auto slow = connect(false);
  send(*slow, "GET /big HTTP/1.1\r\n\r\n");
  ASSERT_TRUE(run_until([&] { return held_.size() == 1; }));
  held_[0]->respond(200, "text/plain", std::string(32 << 20, 'x'));
  io_.restart();
  io_.poll();
  timers_.advance(31 * kSecond);
  EXPECT_TRUE(run_until([&] { return server_->connections() == 0; }));
  EXPECT_EQ(refused_, std::vector<std::string>{"write_deadline"});
}

TEST_F(HttpTest, ADroppedRequestIsAnswered) {
  serve({});
  EXPECT_TRUE(answer_and_close("GET /drop HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 500 "));
}

TEST_F(HttpTest, ExpectContinue) {
  serve({});
  auto peer = connect();
  send(*peer, "POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  ASSERT_TRUE(run_until([&] { return peer->got == "HTTP/1.1 100 Continue\r\n\r\n"; }));
  send(*peer, "ok");
  EXPECT_TRUE(run_until([&] { return peer->got.ends_with("\r\n\r\nok"); }));
}

TEST_F(HttpTest, DrainClosesIdleConnectionsAndLetsAnswersEnd) {
  serve({});
  auto idle = connect();
  auto busy = connect();
  send(*busy, "GET /hold HTTP/1.1\r\n\r\n");
  ASSERT_TRUE(run_until([&] { return held_.size() == 1 && server_->connections() == 2; }));
  server_->drain();
  ASSERT_TRUE(run_until([&] { return idle->closed; }));
  held_[0]->respond(200, "text/plain", "done");
  ASSERT_TRUE(run_until([&] { return busy->closed; }));
  EXPECT_NE(busy->got.find("Connection: close"), std::string::npos);
  EXPECT_TRUE(busy->got.ends_with("done"));
  tcp::socket late(io_);
  boost::system::error_code error;
  late.connect({boost::asio::ip::address_v4::loopback(), server_->port()}, error);
  EXPECT_TRUE(error);
}

TEST_F(HttpTest, AdminAnswersProbesAndMetrics) {
  bool ready = false;
  AdminHandlers handlers;
  handlers.healthz = [] { return AdminAnswer{true, "{\"healthy\":true}\n"}; };
  handlers.readyz = [&] { return AdminAnswer{ready, ready ? "{}" : "{\"reasons\":[\"x\"]}"}; };
  handlers.metrics = [] { return "up 1\n"; };
  auto admin = serve_admin(io_, "127.0.0.1", 0, handlers);
  ASSERT_TRUE(admin.ok());
  auto ask = [&](const std::string& path, const std::string& method = "GET") {
    auto peer = std::make_shared<Peer>(io_);
    peer->socket.connect({boost::asio::ip::address_v4::loopback(), (*admin)->port()});
    read(peer);
    send(*peer, method + " " + path + " HTTP/1.1\r\nConnection: close\r\n\r\n");
    EXPECT_TRUE(run_until([&] { return peer->closed; }));
    return peer->got;
  };
  EXPECT_TRUE(ask("/healthz").starts_with("HTTP/1.1 200 "));
  EXPECT_TRUE(ask("/health").ends_with("{\"healthy\":true}\n"));
  EXPECT_TRUE(ask("/readyz").starts_with("HTTP/1.1 503 "));
  EXPECT_TRUE(ask("/readyz").ends_with("{\"reasons\":[\"x\"]}"));
  ready = true;
  EXPECT_TRUE(ask("/readyz").starts_with("HTTP/1.1 200 "));
  EXPECT_TRUE(ask("/metrics").ends_with("up 1\n"));
  EXPECT_TRUE(ask("/metrics", "POST").starts_with("HTTP/1.1 405 "));
  EXPECT_TRUE(ask("/other").starts_with("HTTP/1.1 404 "));
}

}  // namespace
}  // namespace kvferry::cluster
