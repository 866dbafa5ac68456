// What the HTTP server's acceptor and its connections share. Internal to cluster/, for .cpp files.
// Thread contract: the reactor's thread.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <memory>
#include <set>
#include <string_view>
#include <utility>

#include "cluster/http_server.h"

namespace kvferry::cluster {

class HttpConnectionBase {
 public:
  virtual ~HttpConnectionBase() = default;
  virtual void close_if_idle() = 0;
  virtual void abort() = 0;  // closes and tells nobody
};

struct HttpShared {
  HttpShared(Timers& clock, const HttpLimits& bounds, HttpHandlers callbacks)
      : timers(clock), limits(bounds), handlers(std::move(callbacks)) {}

  void refuse(std::string_view cause) const {
    if (handlers.refused) handlers.refused(cause);
  }

  Timers& timers;
  HttpLimits limits;
  HttpHandlers handlers;
  std::set<std::shared_ptr<HttpConnectionBase>> connections;
  bool draining = false;
};

void start_http_connection(const std::shared_ptr<HttpShared>& shared,
                           boost::asio::ip::tcp::socket socket);

}  // namespace kvferry::cluster
