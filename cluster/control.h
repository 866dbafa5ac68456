// Control plane: length-prefixed protobuf Envelopes over TCP. A frame is a 4-byte little-endian
// length (1..kMaxMessageBytes) and that many bytes of kvferry.proto.Envelope, version 1.
// Workers listen, gateways connect; hello first, then beats every second both ways; three missed
// and the connection counts as dead.
//
// Thread contract: the reactor's thread only; callbacks too. Sending never blocks: a connection
// whose send queue exceeds kMaxQueuedBytes is closed.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"

namespace boost::asio {
class io_context;
}
namespace kvferry::proto {
class Envelope;
class HelloReply;
class BeatReply;
}  // namespace kvferry::proto

namespace kvferry::cluster {

inline constexpr std::uint32_t kMaxMessageBytes = 16u << 20;
inline constexpr std::size_t kMaxQueuedBytes = std::size_t{64} << 20;

struct LivenessConfig {
  std::uint64_t beat_ns = kSecond;
  std::uint32_t missed_beats_dead = 3;
};

class ControlConnection {
 public:
  virtual ~ControlConnection() = default;
  virtual void send(const proto::Envelope& message) = 0;  // sets the version
  virtual void close() = 0;
  virtual bool open() const = 0;
  virtual std::string peer() const = 0;
};

// ---- worker's side ----
struct ControlServerHandlers {
  std::function<proto::HelloReply()> hello;  // who I am
  std::function<proto::BeatReply()> beat;    // how loaded I am (sequence is filled in)
  std::function<void(const std::shared_ptr<ControlConnection>&, const proto::Envelope&)> message;
  // The gateway is gone: its requests have nobody to answer to.
  std::function<void(const std::shared_ptr<ControlConnection>&, const Status&)> closed;
};
class ControlServer {
 public:
  virtual ~ControlServer() = default;
  virtual std::uint16_t port() const = 0;
  virtual void stop() = 0;
};
// port 0: any free one. kUnavailable with the address and what to do when the port is in use.
Result<std::unique_ptr<ControlServer>> listen_control(boost::asio::io_context& io, Timers& timers,
                                                      const std::string& host, std::uint16_t port,
                                                      const LivenessConfig& liveness,
                                                      ControlServerHandlers handlers);

// ---- gateway's side ----
struct ControlClientHandlers {
  std::function<void(const proto::HelloReply&)> up;  // connected and hello answered
  std::function<void(const proto::BeatReply&)> beat;
  std::function<void(const proto::Envelope&)> message;
  std::function<void(const Status&)> down;  // after up; reconnecting goes on by itself
};
// Keeps a connection to host:port, reconnecting (100 ms to 1 s back-off) until destroyed.
class ControlClient {
 public:
  virtual ~ControlClient() = default;
  virtual bool up() const = 0;
  virtual void send(const proto::Envelope& message) = 0;  // dropped when not up
};
std::unique_ptr<ControlClient> connect_control(boost::asio::io_context& io, Timers& timers,
                                               const std::string& host, std::uint16_t port,
                                               const LivenessConfig& liveness,
                                               ControlClientHandlers handlers);

// Who the workers are. A static list today; etcd can implement it.
struct Member {
  std::string host;
  std::uint16_t control_port = 0;
};
class Membership {
 public:
  virtual ~Membership() = default;
  // Calls back with the whole list now and whenever it changes.
  virtual void watch(std::function<void(const std::vector<Member>&)> changed) = 0;
};
std::unique_ptr<Membership> static_membership(std::vector<Member> members);

}  // namespace kvferry::cluster
