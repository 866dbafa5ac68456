// The worker's side of the control plane.
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <map>
#include <utility>

#include "base/log.h"
#include "cluster/control.h"
#include "cluster/framed_connection.h"
#include "cluster/listen.h"

namespace kvferry::cluster {
namespace {

using boost::asio::ip::tcp;

// Gateways, not clients, connect here: a handful.
constexpr std::size_t kMaxConnections = 256;
constexpr std::uint64_t kAcceptRetryNs = 100 * kMillisecond;

// Shared by the handle that the worker owns and the operations under way.
class ServerState : public std::enable_shared_from_this<ServerState> {
 public:
  ServerState(boost::asio::io_context& io, Timers& timers, const LivenessConfig& liveness,
              ControlServerHandlers handlers)
      : acceptor(io), timers_(timers), liveness_(liveness), handlers_(std::move(handlers)) {}

  tcp::acceptor acceptor;

  void accept() {
    acceptor.async_accept([self = shared_from_this()](const auto& error, tcp::socket socket) {
      if (self->stopped_) return;
      if (error) {  // out of descriptors, most likely: some may be free again later
        log_warn("control", "accept: " + error.message());
        self->timers_.after(kAcceptRetryNs, [weak = self->weak_from_this()] {
          const auto alive = weak.lock();
          if (alive && !alive->stopped_) alive->accept();
        });
        return;
      }
      self->welcome(std::move(socket));
      self->accept();
    });
  }

  void stop() {
    stopped_ = true;
    boost::system::error_code ignored;
    acceptor.close(ignored);
    for (auto& [key, peer] : peers_) peer.connection->silence();
    peers_.clear();
  }

 private:
  struct Peer {
    std::shared_ptr<FramedConnection> connection;
    bool greeted = false;
    Timers::Id greeting_deadline = 0;
  };

  void welcome(tcp::socket socket) {
    if (peers_.size() >= kMaxConnections) {
      log_warn("control", "refused " + peer_name(socket) + ": " + std::to_string(kMaxConnections) +
                              " connections are open");
      return;  // the socket closes
    }
    const std::uint64_t key = ++last_key_;
    Peer& peer = peers_[key];
    peer.connection = std::make_shared<FramedConnection>(std::move(socket), timers_, liveness_);
    const auto weak = weak_from_this();
    // Beats alone would keep a stranger's connection open.
    peer.greeting_deadline =
        timers_.after(liveness_.beat_ns * (liveness_.missed_beats_dead + 1), [weak, key] {
          const auto self = weak.lock();
          const auto found = self ? self->peers_.find(key) : decltype(peers_)::iterator{};
          if (self && found != self->peers_.end() && !found->second.greeted) {
            found->second.connection->close(deadline_exceeded("no hello"));
          }
        });
    peer.connection->start({[weak, key](const proto::Envelope& message) {
                              const auto self = weak.lock();
                              return self ? self->receive(key, message) : ok_status();
                            },
                            [weak, key](const Status& cause) {
                              if (const auto self = weak.lock()) self->gone(key, cause);
                            }});
  }

  Status receive(std::uint64_t key, const proto::Envelope& message) {
    const auto found = peers_.find(key);
    if (found == peers_.end()) return {};
    Peer& peer = found->second;
    if (message.has_hello() == peer.greeted && !message.has_beat()) {
      return data_loss(peer.greeted ? "a second hello" : "a message before hello");
    }
    proto::Envelope reply;
    if (message.has_hello()) {
      peer.greeted = true;
      timers_.cancel(peer.greeting_deadline);
      *reply.mutable_hello_reply() = handlers_.hello();
      peer.connection->send(reply);
      log_info("control", "gateway " + message.hello().gateway_name() + " at " +
                              peer.connection->peer() + " is connected");
    } else if (message.has_beat()) {
      if (!peer.greeted) return {};
      if (handlers_.beat) *reply.mutable_beat_reply() = handlers_.beat();
      reply.mutable_beat_reply()->set_sequence(message.beat().sequence());
      peer.connection->send(reply);
    } else if (!message.has_beat_reply() && handlers_.message) {
      const std::shared_ptr<ControlConnection> connection = peer.connection;
      handlers_.message(connection, message);
    }
    return {};
  }

  void gone(std::uint64_t key, const Status& cause) {
    const auto entry = peers_.extract(key);
    if (entry.empty()) return;
    timers_.cancel(entry.mapped().greeting_deadline);
    if (entry.mapped().greeted && handlers_.closed) {
      handlers_.closed(entry.mapped().connection, cause);
    }
  }

  Timers& timers_;
  LivenessConfig liveness_;
  ControlServerHandlers handlers_;
  std::map<std::uint64_t, Peer> peers_;
  std::uint64_t last_key_ = 0;
  bool stopped_ = false;
};

class Server : public ControlServer {
 public:
  Server(std::shared_ptr<ServerState> state, std::uint16_t port)
      : state_(std::move(state)), port_(port) {}
  ~Server() override { state_->stop(); }
  std::uint16_t port() const override { return port_; }
  void stop() override { state_->stop(); }

 private:
  std::shared_ptr<ServerState> state_;
  std::uint16_t port_;
};

}  // namespace

Result<std::unique_ptr<ControlServer>> listen_control(boost::asio::io_context& io, Timers& timers,
                                                      const std::string& host, std::uint16_t port,
                                                      const LivenessConfig& liveness,
                                                      ControlServerHandlers handlers) {
  auto state = std::make_shared<ServerState>(io, timers, liveness, std::move(handlers));
  KVF_ASSIGN_OR_RETURN(const std::uint16_t bound, listen_on(state->acceptor, host, port));
  state->accept();
  return std::unique_ptr<ControlServer>(std::make_unique<Server>(std::move(state), bound));
}

}  // namespace kvferry::cluster
