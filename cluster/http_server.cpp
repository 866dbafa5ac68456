// The acceptor and the set of open connections; http_connection.cpp has the HTTP.
#include "cluster/http_server.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>

#include "base/log.h"
#include "cluster/http_connection.h"
#include "cluster/listen.h"

namespace kvferry::cluster {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

constexpr std::uint64_t kAcceptRetryNs = 100 * kMillisecond;

// The answer to a client that is one too many, before anything of its request is read.
std::string full_answer(const HttpShared& shared) {
  HttpHeaders headers = shared.headers_of_own({}, 503);
  headers.emplace_back("Connection", "close");
  headers.emplace_back("Retry-After", "1");
  const std::string body = own_error_json("too many connections are open", "server_error");
  headers.emplace_back("Content-Length", std::to_string(body.size()));
  return http_head(true, 503, "application/json", headers) + "\r\n\r\n" + body;
}

class ServerState : public std::enable_shared_from_this<ServerState> {
 public:
  ServerState(asio::io_context& io, Timers& timers, const HttpLimits& limits, HttpHandlers handlers)
      : acceptor(io), shared_(std::make_shared<HttpShared>(timers, limits, std::move(handlers))) {}

  tcp::acceptor acceptor;

  std::size_t connections() const { return shared_->connections.size(); }

  void accept() {
    acceptor.async_accept([self = shared_from_this()](const auto& error, tcp::socket socket) {
      if (self->shared_->draining) return;
      if (error) {  // out of descriptors, most likely: some may be free again later
        log_warn("http", "accept: " + error.message());
        self->shared_->timers.after(kAcceptRetryNs, [weak = self->weak_from_this()] {
          const auto alive = weak.lock();
          if (alive && !alive->shared_->draining) alive->accept();
        });
        return;
      }
      if (self->connections() < self->shared_->limits.connections) {
        start_http_connection(self->shared_, std::move(socket));
      } else {
        self->refuse_full(std::move(socket));
      }
      self->accept();
    });
  }

  void drain() {
    shared_->draining = true;
    boost::system::error_code ignored;
    acceptor.close(ignored);
    const auto open = shared_->connections;  // closing takes them out
    for (const auto& connection : open) connection->close_if_idle();
  }

  void stop() {
    shared_->draining = true;
    boost::system::error_code ignored;
    acceptor.close(ignored);
    shared_->handlers = {};
    const auto open = std::exchange(shared_->connections, {});
    for (const auto& connection : open) connection->abort();
  }

 private:
  void refuse_full(tcp::socket socket) {
    shared_->refuse("connections");
    const auto full = std::make_shared<tcp::socket>(std::move(socket));
    const auto answer = std::make_shared<std::string>(full_answer(*shared_));
    asio::async_write(*full, asio::buffer(*answer), [full, answer](const auto&, std::size_t) {});
  }

  std::shared_ptr<HttpShared> shared_;
};

class Server : public HttpServer {
 public:
  Server(std::shared_ptr<ServerState> state, std::uint16_t port)
      : state_(std::move(state)), port_(port) {}
  ~Server() override { state_->stop(); }
  std::uint16_t port() const override { return port_; }
  std::size_t connections() const override { return state_->connections(); }
  void drain() override { state_->drain(); }
  void stop() override { state_->stop(); }

 private:
  std::shared_ptr<ServerState> state_;
  std::uint16_t port_;
};

}  // namespace

Result<std::unique_ptr<HttpServer>> listen_http(asio::io_context& io, Timers& timers,
                                                const std::string& host, std::uint16_t port,
                                                const HttpLimits& limits, HttpHandlers handlers) {
  auto state = std::make_shared<ServerState>(io, timers, limits, std::move(handlers));
  KVF_ASSIGN_OR_RETURN(const std::uint16_t bound, listen_on(state->acceptor, host, port));
  state->accept();
  return std::unique_ptr<HttpServer>(std::make_unique<Server>(std::move(state), bound));
}

}  // namespace kvferry::cluster
