// What the HTTP server's acceptor and its connections share. Internal to cluster/, for .cpp files.
// Thread contract: the reactor's thread.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <memory>
#include <set>
#include <string>
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

  HttpHeaders headers_of_own(const HttpRequest& head, int status) const {
    return handlers.own_answer ? handlers.own_answer(head, status) : HttpHeaders{};
  }

  Timers& timers;
  HttpLimits limits;
  HttpHandlers handlers;
  std::set<std::shared_ptr<HttpConnectionBase>> connections;
  bool draining = false;
};

// The body of an answer that the server gives by itself: an error as OpenAI's API has them, with no
// code. `message` needs no escaping.
std::string own_error_json(std::string_view message, std::string_view type);

// The status line and the headers that every answer begins with, without the line's end after the
// last of `headers`.
std::string http_head(bool is_http_11, int status, std::string_view content_type,
                      const HttpHeaders& headers);

void start_http_connection(const std::shared_ptr<HttpShared>& shared,
                           boost::asio::ip::tcp::socket socket);

}  // namespace kvferry::cluster
