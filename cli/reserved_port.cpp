#include "cli/reserved_port.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace kvferry::cli {

Result<ReservedPort> ReservedPort::take(const std::string& host, std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  if (inet_pton(AF_INET, host.c_str(), &address.sin_addr) != 1) {
    return invalid_argument("\"" + host + "\" is not an IPv4 address");
  }
  ReservedPort reserved(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), port);
  const int on = 1;
  socklen_t size = sizeof(address);
  auto* const where = reinterpret_cast<sockaddr*>(&address);
  if (reserved.socket_ < 0 ||
      setsockopt(reserved.socket_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
      bind(reserved.socket_, where, size) != 0 ||
      getsockname(reserved.socket_, where, &size) != 0) {
    return unavailable("cannot listen on " + host + ":" + std::to_string(port) + " (" +
                       std::strerror(errno) +
                       "); choose another port with --port, or --port 0 for any free one");
  }
  reserved.port_ = ntohs(address.sin_port);
  return reserved;
}

ReservedPort::~ReservedPort() {
  if (socket_ >= 0) close(socket_);
}

}  // namespace kvferry::cli
