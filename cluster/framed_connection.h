// One TCP connection of the control plane, either side: frames in and out, beats and death.
// Internal to cluster/: the only header here that includes Asio.
//
// Thread contract: the reactor's thread. `timers` is touched only while the connection is open, so
// it may go before the io_context does, once the owner has closed or silenced the connection.
#pragma once

#include <array>
#include <boost/asio/ip/tcp.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/clock.h"
#include "base/status.h"
#include "cluster/control.h"
#include "cluster/frame_decoder.h"

namespace kvferry::cluster {

class FramedConnection : public ControlConnection,
                         public std::enable_shared_from_this<FramedConnection> {
 public:
  struct Handlers {
    // Every message. A bad Status closes the connection.
    std::function<Status(const proto::Envelope&)> message;
    // Once, never inside a call of this object. Not after silence().
    std::function<void(const Status&)> closed;
  };

  FramedConnection(boost::asio::ip::tcp::socket socket, Timers& timers,
                   const LivenessConfig& liveness);

  void start(Handlers handlers);
  void send(const proto::Envelope& message) override;
  void close() override { close(cancelled("closed on this side")); }
  bool open() const override { return open_; }
  std::string peer() const override { return peer_; }

  void close(const Status& cause);
  // Closes without telling anybody.
  void silence();

 private:
  void read();
  void write();
  void tick();
  void arm_tick();

  boost::asio::ip::tcp::socket socket_;
  Timers& timers_;
  LivenessConfig liveness_;
  Handlers handlers_;
  std::string peer_;
  bool open_ = true;
  std::array<char, 64 * 1024> input_{};
  FrameDecoder decoder_;
  std::string queued_;   // not yet given to the socket
  std::string writing_;  // being written
  Timers::Id tick_ = 0;
  std::uint32_t silent_beats_ = 0;  // beats since anything was heard
  std::uint64_t beat_sequence_ = 0;
};

// "127.0.0.1:9000" of the peer, or "?" when it is gone already.
std::string peer_name(const boost::asio::ip::tcp::socket& socket);

}  // namespace kvferry::cluster
