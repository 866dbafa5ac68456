#include "cluster/control.h"

#include <gtest/gtest.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>

#include "cluster/frame_decoder.h"
#include "control.pb.h"

namespace kvferry::cluster {
namespace {

using boost::asio::ip::tcp;
using namespace std::chrono_literals;

// A worker's server and what it has seen, on virtual beats and a real loopback.
class ControlTest : public testing::Test {
 protected:
  void SetUp() override { listen(0); }

  void listen(std::uint16_t port) {
    ControlServerHandlers handlers;
    handlers.hello = [this] {
      proto::HelloReply reply;
      reply.set_role(proto::ROLE_DECODE);
      reply.set_name("d0");
      reply.set_epoch(++epoch_);
      return reply;
    };
    handlers.beat = [] {
      proto::BeatReply reply;
      reply.set_running(7);
      return reply;
    };
    handlers.message = [this](const auto& connection, const proto::Envelope& message) {
      received_.push_back(message);
      last_connection_ = connection;
    };
    handlers.closed = [this](const auto&, const Status& cause) { closed_.push_back(cause); };
    auto server = listen_control(io_, server_timers_, "127.0.0.1", port, {}, handlers);
    ASSERT_TRUE(server.ok()) << server.status().to_string();
    server_ = std::move(*server);
  }

  std::unique_ptr<ControlClient> connect(std::uint16_t port) {
    ControlClientHandlers handlers;
    handlers.up = [this](const proto::HelloReply& reply) { ups_.push_back(reply); };
    handlers.beat = [this](const proto::BeatReply& reply) { beats_.push_back(reply); };
    handlers.message = [this](const proto::Envelope& message) { answers_.push_back(message); };
    handlers.down = [this](const Status& cause) { downs_.push_back(cause); };
    return connect_control(io_, client_timers_, "127.0.0.1", port, {}, handlers);
  }

  // Runs the reactor until `done`; the deadline is only there so that a failure ends.
  bool run_until(const std::function<bool()>& done) {
    const auto deadline = std::chrono::steady_clock::now() + 10s;
    while (!done() && std::chrono::steady_clock::now() < deadline) {
      io_.restart();
      io_.run_one_for(50ms);
    }
    return done();
  }

  // A peer that speaks bytes.
  tcp::socket raw_peer() {
    tcp::socket socket(io_);
    socket.connect({boost::asio::ip::address_v4::loopback(), server_->port()});
    return socket;
  }
  bool raw_peer_is_closed(tcp::socket& socket) {
    return run_until([&] {
      socket.non_blocking(true);
      std::array<char, 4096> bytes;
      boost::system::error_code error;
      while (!error) socket.read_some(boost::asio::buffer(bytes), error);
      return error != boost::asio::error::would_block;
    });
  }

  boost::asio::io_context io_;
  ManualTimers server_timers_;
  ManualTimers client_timers_;
  std::unique_ptr<ControlServer> server_;
  std::uint64_t epoch_ = 0;
  std::vector<proto::Envelope> received_, answers_;
  std::vector<proto::HelloReply> ups_;
  std::vector<proto::BeatReply> beats_;
  std::vector<Status> closed_, downs_;
  std::shared_ptr<ControlConnection> last_connection_;
};

proto::Envelope cancel_message(std::uint64_t transfer_id) {
  proto::Envelope envelope;
  envelope.mutable_cancel()->set_transfer_id(transfer_id);
  return envelope;
}

std::string framed(const proto::Envelope& message) {
  auto frame = encode_frame(message);
  EXPECT_TRUE(frame.ok());
  return *frame;
}

TEST_F(ControlTest, HelloThenMessagesBothWaysInOrder) {
  auto client = connect(server_->port());
  EXPECT_FALSE(client->up());
  client->send(cancel_message(99));  // dropped: not up
  ASSERT_TRUE(run_until([&] { return client->up(); }));
  ASSERT_EQ(ups_.size(), 1u);
  EXPECT_EQ(ups_[0].name(), "d0");
  for (std::uint64_t i = 1; i <= 500; ++i) client->send(cancel_message(i));
  ASSERT_TRUE(run_until([&] { return received_.size() == 500; }));
  for (std::uint64_t i = 1; i <= 500; ++i) EXPECT_EQ(received_[i - 1].cancel().transfer_id(), i);
  proto::Envelope token;
  token.mutable_token()->set_id(5);
  last_connection_->send(token);
  ASSERT_TRUE(run_until([&] { return answers_.size() == 1; }));
  EXPECT_EQ(answers_[0].token().id(), 5);
}

TEST_F(ControlTest, BeatsCarryTheLoadAndKeepTheConnection) {
  auto client = connect(server_->port());
  ASSERT_TRUE(run_until([&] { return client->up(); }));
  for (std::size_t i = 1; i <= 8; ++i) {  // beyond what counts as dead
    client_timers_.advance(kSecond);
    ASSERT_TRUE(run_until([&] { return beats_.size() == i; }));
    EXPECT_EQ(beats_.back().running(), 7u);
    EXPECT_EQ(beats_.back().sequence(), i);
  }
  EXPECT_TRUE(client->up());
  EXPECT_TRUE(downs_.empty());
}

TEST_F(ControlTest, ASilentGatewayIsDeadAfterThreeMissedBeats) {
  auto client = connect(server_->port());
  ASSERT_TRUE(run_until([&] { return client->up(); }));
  // The server's clock runs and its peer's reactor does not: half open.
  server_timers_.advance(3 * kSecond);
  EXPECT_TRUE(closed_.empty());
  server_timers_.advance(kSecond);
  ASSERT_TRUE(run_until([&] { return closed_.size() == 1; }));
  EXPECT_EQ(closed_[0].code(), Code::kUnavailable);
}

TEST_F(ControlTest, ASilentWorkerIsDeadAndConnectedToAgain) {
  auto client = connect(server_->port());
  ASSERT_TRUE(run_until([&] { return client->up(); }));
  client_timers_.advance(4 * kSecond);
  ASSERT_TRUE(run_until([&] { return downs_.size() == 1; }));
  EXPECT_FALSE(client->up());
  ASSERT_TRUE(run_until([&] {
    client_timers_.advance(50 * kMillisecond);
    return client->up();
  }));
  EXPECT_EQ(ups_.size(), 2u);
}

TEST_F(ControlTest, ARestartedWorkerIsFoundAgain) {
  const std::uint16_t port = server_->port();
  auto client = connect(port);
  ASSERT_TRUE(run_until([&] { return client->up(); }));
  server_.reset();
  ASSERT_TRUE(run_until([&] { return downs_.size() == 1; }));
  // Refused a few times meanwhile; down is said once.
  for (int i = 0; i < 5; ++i) {
    client_timers_.advance(kSecond);
    io_.restart();
    io_.run_for(5ms);
  }
  EXPECT_EQ(downs_.size(), 1u);
  listen(port);
  ASSERT_TRUE(run_until([&] {
    client_timers_.advance(100 * kMillisecond);
    return client->up();
  }));
  EXPECT_GT(ups_[1].epoch(), ups_[0].epoch());
}

TEST_F(ControlTest, GarbageClosesTheConnectionAndTheServerGoesOn) {
  proto::Envelope hello;
  hello.mutable_hello();
  std::string wrong = framed(hello);
  wrong[5] = 9;  // the version field's value
  const std::string bad[] = {
      std::string("GET / HTTP/1.1\r\n\r\n"),           // a length of half a gigabyte
      std::string(4, '\0'),                            // a length of zero
      std::string("\x01\x00\x00\x01", 4),              // one byte beyond the limit
      std::string("\x03\x00\x00\x00\xff\xff\xff", 7),  // no Envelope
      wrong,
      framed(cancel_message(1)),  // before hello
      framed(hello) + framed(hello),
  };
  for (const std::string& bytes : bad) {
    tcp::socket socket = raw_peer();
    boost::asio::write(socket, boost::asio::buffer(bytes));
    EXPECT_TRUE(raw_peer_is_closed(socket)) << testing::PrintToString(bytes);
  }
  EXPECT_TRUE(received_.empty());
  auto client = connect(server_->port());
  EXPECT_TRUE(run_until([&] { return client->up(); }));
}

TEST_F(ControlTest, WhoNeverSaysHelloIsClosed) {
  tcp::socket socket = raw_peer();
  ASSERT_TRUE(run_until([&] {  // beats alone do not help
    proto::Envelope beat;
    beat.mutable_beat();
    boost::system::error_code ignored;
    boost::asio::write(socket, boost::asio::buffer(framed(beat)), ignored);
    server_timers_.advance(kSecond);
    socket.non_blocking(true);
    std::array<char, 4096> bytes;
    boost::system::error_code error;
    socket.read_some(boost::asio::buffer(bytes), error);
    return error && error != boost::asio::error::would_block;
  }));
  EXPECT_TRUE(closed_.empty());  // never a gateway
}

TEST_F(ControlTest, APeerThatDoesNotReadIsClosedAtTheLimit) {
  tcp::socket socket = raw_peer();
  proto::Envelope hello;
  hello.mutable_hello();
  boost::asio::write(socket, boost::asio::buffer(framed(hello) + framed(cancel_message(1))));
  ASSERT_TRUE(run_until([&] { return last_connection_ != nullptr; }));
  proto::Envelope big;
  big.mutable_failed()->set_message(std::string(8 << 20, 'x'));
  for (int i = 0; i < 12 && last_connection_->open(); ++i) last_connection_->send(big);
  EXPECT_FALSE(last_connection_->open());
  ASSERT_TRUE(run_until([&] { return closed_.size() == 1; }));
  EXPECT_EQ(closed_[0].code(), Code::kResourceExhausted);
}

TEST_F(ControlTest, PortInUseSaysWhatToDo) {
  auto second = listen_control(io_, server_timers_, "127.0.0.1", server_->port(), {}, {});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), Code::kUnavailable);
  EXPECT_NE(second.status().message().find("choose another port"), std::string::npos);
}

TEST(Membership, StaticListIsToldAtOnce) {
  auto membership = static_membership({{"a", 1}, {"b", 2}});
  std::vector<Member> seen;
  membership->watch([&](const std::vector<Member>& members) { seen = members; });
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_EQ(seen[1].host, "b");
}

}  // namespace
}  // namespace kvferry::cluster
