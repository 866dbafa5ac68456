// The gateway's side of the control plane.
#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <utility>

#include "base/hash.h"
#include "base/log.h"
#include "cluster/control.h"
#include "cluster/framed_connection.h"

namespace kvferry::cluster {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

constexpr std::uint64_t kFirstRetryNs = 100 * kMillisecond;
constexpr std::uint64_t kLastRetryNs = kSecond;

// Distinct for every start of the process.
std::uint64_t process_epoch() {
  static const std::uint64_t epoch = fresh_id();
  return epoch;
}

// Shared by the handle that the gateway owns and the operations under way. Each try to connect has
// a number; what belongs to an older one is ignored.
class ClientState : public std::enable_shared_from_this<ClientState> {
 public:
  ClientState(asio::io_context& io, Timers& timers, std::string host, std::uint16_t port,
              const LivenessConfig& liveness, ControlClientHandlers handlers)
      : io_(io),
        timers_(timers),
        host_(std::move(host)),
        port_(port),
        liveness_(liveness),
        handlers_(std::move(handlers)),
        resolver_(io),
        socket_(io) {}

  bool up() const { return up_; }

  void send(const proto::Envelope& message) {
    if (up_) connection_->send(message);
  }

  void stop() {
    ++attempt_;
    stopped_ = true;
    up_ = false;
    timers_.cancel(retry_);
    timers_.cancel(deadline_);
    resolver_.cancel();
    boost::system::error_code ignored;
    socket_.close(ignored);
    if (connection_) connection_->silence();
  }

  void connect() {
    const std::uint64_t attempt = ++attempt_;
    // Connecting, and then the answer to hello, must not take longer than a death.
    deadline_ = timers_.after(liveness_.beat_ns * (liveness_.missed_beats_dead + 1),
                              [weak = weak_from_this(), attempt] {
                                const auto self = weak.lock();
                                if (self) self->failed(attempt, deadline_exceeded("no answer"));
                              });
    boost::system::error_code error;
    const auto address = asio::ip::make_address(host_, error);
    if (!error) {
      socket_ = tcp::socket(io_);
      socket_.async_connect(tcp::endpoint(address, port_),
                            [self = shared_from_this(), attempt](const auto& problem) {
                              self->connected(attempt, problem);
                            });
      return;
    }
    resolver_.async_resolve(
        host_, std::to_string(port_),
        [self = shared_from_this(), attempt](const auto& problem, const auto& endpoints) {
          if (attempt != self->attempt_) return;
          if (problem) return self->failed(attempt, unavailable(problem.message()));
          self->socket_ = tcp::socket(self->io_);
          asio::async_connect(self->socket_, endpoints,
                              [self, attempt](const auto& why, const tcp::endpoint&) {
                                self->connected(attempt, why);
                              });
        });
  }

 private:
  void connected(std::uint64_t attempt, const boost::system::error_code& error) {
    if (attempt != attempt_) return;
    if (error) return failed(attempt, unavailable(error.message()));
    connection_ = std::make_shared<FramedConnection>(std::move(socket_), timers_, liveness_);
    const auto weak = weak_from_this();
    connection_->start({[weak, attempt](const proto::Envelope& message) {
                          const auto self = weak.lock();
                          return self ? self->receive(attempt, message) : ok_status();
                        },
                        [weak, attempt](const Status& cause) {
                          if (const auto self = weak.lock()) self->failed(attempt, cause);
                        }});
    proto::Envelope hello;
    hello.mutable_hello()->set_gateway_epoch(process_epoch());
    hello.mutable_hello()->set_gateway_name("gateway");
    connection_->send(hello);
  }

  Status receive(std::uint64_t attempt, const proto::Envelope& message) {
    if (attempt != attempt_) return {};
    if (message.has_beat()) {
      proto::Envelope reply;
      reply.mutable_beat_reply()->set_sequence(message.beat().sequence());
      connection_->send(reply);
      return {};
    }
    if (message.has_hello_reply() == up_) {
      return data_loss(up_ ? "a second answer to hello" : "a message before the answer to hello");
    }
    if (message.has_hello_reply()) {
      timers_.cancel(deadline_);
      up_ = true;
      retry_ns_ = kFirstRetryNs;
      last_cause_.clear();
      if (handlers_.up) handlers_.up(message.hello_reply());
    } else if (message.has_beat_reply()) {
      if (handlers_.beat) handlers_.beat(message.beat_reply());
    } else if (handlers_.message) {
      handlers_.message(message);
    }
    return {};
  }

  // Ends the attempt, whatever it has come to, and plans the next.
  void failed(std::uint64_t attempt, const Status& cause) {
    if (attempt != attempt_ || stopped_) return;
    ++attempt_;
    timers_.cancel(deadline_);
    resolver_.cancel();
    boost::system::error_code ignored;
    socket_.close(ignored);
    if (connection_) connection_->silence();
    connection_.reset();
    // One line for each new cause, not one for each try.
    if (last_cause_ != cause.message()) {
      last_cause_ = cause.message();
      log_warn("control", "worker at " + host_ + ":" + std::to_string(port_) + ": " +
                              cause.to_string() + "; trying again");
    }
    retry_ = timers_.after(retry_ns_, [weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->connect();
    });
    retry_ns_ = std::min(retry_ns_ * 2, kLastRetryNs);
    const bool was_up = std::exchange(up_, false);
    if (was_up && handlers_.down) handlers_.down(cause);
  }

  asio::io_context& io_;
  Timers& timers_;
  std::string host_;
  std::uint16_t port_;
  LivenessConfig liveness_;
  ControlClientHandlers handlers_;
  tcp::resolver resolver_;
  tcp::socket socket_;
  std::shared_ptr<FramedConnection> connection_;
  std::uint64_t attempt_ = 0;
  std::uint64_t retry_ns_ = kFirstRetryNs;
  Timers::Id retry_ = 0;
  Timers::Id deadline_ = 0;
  std::string last_cause_;
  bool up_ = false;
  bool stopped_ = false;
};

class Client : public ControlClient {
 public:
  explicit Client(std::shared_ptr<ClientState> state) : state_(std::move(state)) {}
  ~Client() override { state_->stop(); }
  bool up() const override { return state_->up(); }
  void send(const proto::Envelope& message) override { state_->send(message); }

 private:
  std::shared_ptr<ClientState> state_;
};

}  // namespace

std::unique_ptr<ControlClient> connect_control(asio::io_context& io, Timers& timers,
                                               const std::string& host, std::uint16_t port,
                                               const LivenessConfig& liveness,
                                               ControlClientHandlers handlers) {
  auto state = std::make_shared<ClientState>(io, timers, host, port, liveness, std::move(handlers));
  state->connect();
  return std::make_unique<Client>(std::move(state));
}

}  // namespace kvferry::cluster
