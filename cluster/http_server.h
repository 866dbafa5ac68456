// A small HTTP/1.1 server for a process's API, probes and metrics. Boost.Beast parses; it stays in
// the .cpp file.
//
// Limits, each of which ends in a definite answer or a closed connection, never in unbounded
// memory:
//   header_bytes  431, of the request line, and of all header fields together; what is counted by
//                 no other limit (a chunk's header, trailers) ends at 68 KiB or this, as 431 too
//   body_bytes    413, by Content-Length before anything of the body is read, else while it comes
//   connections   503 and closed
//   idle_ns       a kept-alive connection without a request is closed
//   read_ns       a request that has begun must be complete within it; 408
//   write_ns      what is written must be taken within it; closed
//   output_bytes  of a stream, made and not yet taken by the client; closed: one slow reader costs
//                 at most this much memory and holds up nobody else
// Memory of all connections together is therefore below connections x (header_bytes + body_bytes +
// output_bytes and what whole answers hold).
//
// Thread contract: the reactor's thread only, callbacks too.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/status.h"

namespace boost::asio {
class io_context;
}

namespace kvferry::cluster {

struct HttpLimits {
  std::size_t header_bytes = std::size_t{16} << 10;
  std::size_t body_bytes = std::size_t{8} << 20;
  std::size_t output_bytes = std::size_t{1} << 20;
  std::size_t connections = 1024;
  std::uint64_t idle_ns = 75 * kSecond;
  std::uint64_t read_ns = 30 * kSecond;
  std::uint64_t write_ns = 30 * kSecond;
};

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;
  std::string path;     // without the query
  HttpHeaders headers;  // names in lower case
  std::string body;     // trailers are read and dropped

  // The first value of a header, named in lower case; empty when there is none.
  std::string_view header(std::string_view name) const;
};

// A request and its answer, which is given once, whole or as a stream, at any time. What is written
// after the client went away goes nowhere. Letting go of an exchange that was not answered answers
// 500, or cuts the stream.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  virtual const HttpRequest& request() const = 0;

  // Header values must hold no control characters.
  virtual void respond(int status, std::string_view content_type, std::string_view body,
                       const HttpHeaders& headers = {}) = 0;

  virtual void begin_stream(int status, std::string_view content_type,
                            const HttpHeaders& headers = {}) = 0;
  virtual void write(std::string_view bytes) = 0;
  virtual void end_stream() = 0;

  virtual bool open() const = 0;  // not yet answered to the end, and the client is there
  // Called once if the client goes away, or is too slow, before the answer's end. Never inside a
  // call of this object.
  virtual void on_gone(std::function<void(const Status&)> gone) = 0;
};

struct HttpRefusal {
  int status = 500;
  std::string json;
  HttpHeaders headers;
};

struct HttpHandlers {
  // Asked when a request's header is there and nothing of its body, which is empty then. A refusal
  // is the answer: the body is not read, and the connection closes. May be empty.
  std::function<std::optional<HttpRefusal>(const HttpRequest& head)> admit;
  std::function<void(std::shared_ptr<HttpExchange>)> request;
  // Counts what a limit refused: "connections", "header_bytes", "body_bytes", "malformed",
  // "read_deadline", "write_deadline", "slow_reader". May be empty.
  std::function<void(std::string_view cause)> refused;
  // Headers for an answer that the server gives by itself, `status`: a limit, bad HTTP, a dropped
  // exchange. `head` has what was read of the request by then, often nothing. May be empty.
  std::function<HttpHeaders(const HttpRequest& head, int status)> own_answer;
};

class HttpServer {
 public:
  virtual ~HttpServer() = default;  // stops
  virtual std::uint16_t port() const = 0;
  virtual std::size_t connections() const = 0;
  // Accepts no more, closes idle connections, and every other one after its answer.
  virtual void drain() = 0;
  // Closes everything at once; nobody is told.
  virtual void stop() = 0;
};

// port 0: any free one. kUnavailable, with what to do, if the port is in use.
Result<std::unique_ptr<HttpServer>> listen_http(boost::asio::io_context& io, Timers& timers,
                                                const std::string& host, std::uint16_t port,
                                                const HttpLimits& limits, HttpHandlers handlers);

}  // namespace kvferry::cluster
