#include "cluster/framed_connection.h"

#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <utility>

#include "base/log.h"

namespace kvferry::cluster {

namespace asio = boost::asio;
using asio::ip::tcp;

std::string peer_name(const tcp::socket& socket) {
  boost::system::error_code error;
  const auto endpoint = socket.remote_endpoint(error);
  if (error) return "?";
  return endpoint.address().to_string() + ":" + std::to_string(endpoint.port());
}

FramedConnection::FramedConnection(tcp::socket socket, Timers& timers,
                                   const LivenessConfig& liveness)
    : socket_(std::move(socket)), timers_(timers), liveness_(liveness), peer_(peer_name(socket_)) {
  boost::system::error_code ignored;
  // Messages are small and each one is waited for.
  socket_.set_option(tcp::no_delay(true), ignored);
}

void FramedConnection::start(Handlers handlers) {
  handlers_ = std::move(handlers);
  arm_tick();
  read();
}

void FramedConnection::arm_tick() {
  tick_ = timers_.after(liveness_.beat_ns, [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->tick();
  });
}

// Beats are counted, not timed: a process that was stopped and goes on finds one beat missed, not
// all that time without a word from its peer.
void FramedConnection::tick() {
  if (!open_) return;
  if (++silent_beats_ > liveness_.missed_beats_dead) {
    close(unavailable("nothing heard for " + std::to_string(liveness_.missed_beats_dead) +
                      " beats; taken for dead"));
    return;
  }
  proto::Envelope envelope;
  envelope.mutable_beat()->set_sequence(++beat_sequence_);
  send(envelope);
  if (open_) arm_tick();
}

void FramedConnection::send(const proto::Envelope& message) {
  if (!open_) return;
  auto frame = encode_frame(message);
  if (!frame.ok()) return close(frame.status());
  if (queued_.size() + writing_.size() + frame->size() > kMaxQueuedBytes) {
    return close(resource_exhausted("the peer does not read: more than " +
                                    std::to_string(kMaxQueuedBytes) + " bytes are waiting for it"));
  }
  queued_ += *frame;
  if (writing_.empty()) write();
}

void FramedConnection::write() {
  writing_.swap(queued_);
  asio::async_write(socket_, asio::buffer(writing_),
                    [self = shared_from_this()](const auto& error, std::size_t) {
                      if (!self->open_) return;
                      self->writing_.clear();
                      if (error) return self->close(unavailable("write: " + error.message()));
                      if (!self->queued_.empty()) self->write();
                    });
}

void FramedConnection::read() {
  socket_.async_read_some(
      asio::buffer(input_), [self = shared_from_this()](const auto& error, std::size_t bytes) {
        if (!self->open_) return;
        if (error) return self->close(unavailable(error.message()));
        self->silent_beats_ = 0;
        Status verdict;
        const Status cut =
            self->decoder_.feed({self->input_.data(), bytes}, [&](const proto::Envelope& message) {
              verdict = self->handlers_.message(message);
              return verdict.ok() && self->open_;
            });
        if (!cut.ok()) return self->close(cut);
        if (!verdict.ok()) return self->close(verdict);
        if (self->open_) self->read();
      });
}

void FramedConnection::close(const Status& cause) {
  if (!open_) return;
  silence();
  log_info("control", "connection to " + peer_ + " closed: " + cause.to_string());
  asio::post(socket_.get_executor(), [self = shared_from_this(), cause] {
    // Taken out, so that what the handlers hold can go.
    const Handlers handlers = std::exchange(self->handlers_, {});
    if (handlers.closed) handlers.closed(cause);
  });
}

void FramedConnection::silence() {
  open_ = false;
  timers_.cancel(tick_);
  boost::system::error_code ignored;
  socket_.shutdown(tcp::socket::shutdown_both, ignored);
  socket_.close(ignored);
}

}  // namespace kvferry::cluster
