// A TCP port kept for a process that listens on it, from before its start and between its lives.
//
// The port is bound but never listened on. The kernel gives bound ports to no outgoing connection,
// and one that retries to a port in the range for outgoing connections, where nobody listens yet,
// may otherwise get that very port for itself. Whoever sets SO_REUSEADDR, as cluster::listen_on()
// does, can listen on the port beside it.
//
// Thread contract: a value, for one thread at a time.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "base/status.h"

namespace kvferry::cli {

class ReservedPort {
 public:
  // Port `port` of an IPv4 address, or one that nobody has for 0. kUnavailable, with what to do,
  // when somebody listens on it or it cannot be had.
  static Result<ReservedPort> take(const std::string& host, std::uint16_t port);
  ReservedPort(ReservedPort&& other) noexcept
      : socket_(std::exchange(other.socket_, -1)), port_(other.port_) {}
  ReservedPort& operator=(ReservedPort&&) = delete;
  ~ReservedPort();

  std::uint16_t port() const { return port_; }

 private:
  ReservedPort(int socket, std::uint16_t port) : socket_(socket), port_(port) {}

  int socket_;  // closed in processes that are executed
  std::uint16_t port_;
};

}  // namespace kvferry::cli
