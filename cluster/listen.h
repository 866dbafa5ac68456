// Opening a listening socket. Internal to cluster/, for its .cpp files.
// Thread contract: pure function.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <cstdint>
#include <string>

#include "base/status.h"

namespace kvferry::cluster {

// Binds acceptor to host (an address or a name) and port, 0 for any free one, and listens. Gives
// the port. kInvalidArgument for a host that is none; kUnavailable, with what to do, if the port is
// in use.
Result<std::uint16_t> listen_on(boost::asio::ip::tcp::acceptor& acceptor, const std::string& host,
                                std::uint16_t port);

}  // namespace kvferry::cluster
