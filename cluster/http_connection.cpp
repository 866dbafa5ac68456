// One HTTP connection: requests one after the other, each answered whole or as a chunked stream.
//
// While a request is answered, the socket is read on, which is how a client that goes away is
// noticed at once; what a pipelining client sends early is kept, up to kEarlyBytes.
#include "cluster/http_connection.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/status.hpp>
#include <boost/beast/http/string_body.hpp>
#include <charconv>
#include <optional>

namespace kvferry::cluster {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;

constexpr std::size_t kEarlyBytes = std::size_t{64} << 10;
constexpr std::size_t kReadBytes = 4096;
// After an answer to a request that was not read to its end: closing at once would reset the
// connection and take the answer away from the client.
constexpr std::uint64_t kLingerNs = 2 * kSecond;

class Exchange;

class Connection : public HttpConnectionBase, public std::enable_shared_from_this<Connection> {
 public:
  Connection(std::shared_ptr<HttpShared> shared, tcp::socket socket)
      : shared_(std::move(shared)),
        socket_(std::move(socket)),
        input_(std::max(shared_->limits.header_bytes, kEarlyBytes) + kReadBytes) {
    boost::system::error_code ignored;
    socket_.set_option(tcp::no_delay(true), ignored);  // a stream's chunks are small
  }

  void next_request();

  void close_if_idle() override {
    if (state_ == State::kIdle) close();
  }
  void abort() override {
    gone_ = nullptr;
    close();
  }

  // ---- what an exchange calls ----
  bool answering() const { return state_ == State::kAnswering && !answered_; }
  void respond(int status, std::string_view content_type, std::string_view body,
               const HttpHeaders& headers);
  void begin_stream(int status, std::string_view content_type, const HttpHeaders& headers);
  void write_chunk(std::string_view bytes);
  void end_stream();
  void on_gone(std::function<void(const Status&)> gone) { gone_ = std::move(gone); }
  void abandoned(const HttpRequest& request);

 private:
  // kLingering: the answer is out, what still comes in is thrown away.
  enum class State { kIdle, kReading, kAnswering, kLingering, kClosed };
  using Parser = http::request_parser<http::string_body>;

  void read_header();
  void header_read();
  void take_head();
  void body_read();
  void read_failed(const boost::system::error_code& error);
  void refuse(int status, std::string_view cause, std::string_view message);
  void refuse(const HttpRefusal& refusal);
  void answer();

  void watch();
  void watched(const boost::system::error_code& error, std::size_t bytes);

  void head(int status, std::string_view content_type, const HttpHeaders& headers);
  void flush();
  void flushed(const boost::system::error_code& error);
  void answer_complete();
  void linger();
  void discard();

  void deadline(std::uint64_t after_ns, void (Connection::*expired)());
  void idle_expired() { close(); }
  void read_expired() { refuse(408, "read_deadline", "the request did not arrive in time"); }
  void write_expired() {
    shared_->refuse("write_deadline");
    lose(deadline_exceeded("the client took nothing for too long"));
  }
  void linger_expired() { close(); }

  void lose(const Status& cause);  // closes, and tells who answers
  void close();

  std::shared_ptr<HttpShared> shared_;
  tcp::socket socket_;
  // Bounded, since Beast's own limits know nothing of a chunk's header and of trailers.
  beast::flat_buffer input_;
  std::optional<Parser> parser_;
  HttpRequest request_;  // being read
  State state_ = State::kIdle;
  bool keep_alive_ = false;
  bool chunked_ = false;
  bool head_sent_ = false;
  bool answered_ = false;  // the whole answer is in output_
  bool input_whole_ = false;
  bool watching_ = false;
  std::string output_;   // not yet given to the socket
  std::string writing_;  // being written
  std::function<void(const Status&)> gone_;
  Timers::Id deadline_ = 0;
};

class Exchange : public HttpExchange {
 public:
  Exchange(std::shared_ptr<Connection> connection, HttpRequest request)
      : connection_(std::move(connection)), request_(std::move(request)) {}
  ~Exchange() override {
    if (!done_) connection_->abandoned(request_);
  }
  const HttpRequest& request() const override { return request_; }
  void respond(int status, std::string_view content_type, std::string_view body,
               const HttpHeaders& headers) override {
    if (std::exchange(done_, true)) return;
    connection_->respond(status, content_type, body, headers);
  }
  void begin_stream(int status, std::string_view content_type,
                    const HttpHeaders& headers) override {
    if (!done_) connection_->begin_stream(status, content_type, headers);
  }
  void write(std::string_view bytes) override {
    if (!done_) connection_->write_chunk(bytes);
  }
  void end_stream() override {
    if (!std::exchange(done_, true)) connection_->end_stream();
  }
  bool open() const override { return !done_ && connection_->answering(); }
  void on_gone(std::function<void(const Status&)> gone) override {
    if (!done_) connection_->on_gone(std::move(gone));
  }

 private:
  std::shared_ptr<Connection> connection_;
  HttpRequest request_;
  bool done_ = false;
};

// ---- reading ----

void Connection::next_request() {
  if (state_ == State::kClosed) return;
  if (shared_->draining) return close();
  parser_.emplace();
  parser_->header_limit(static_cast<std::uint32_t>(shared_->limits.header_bytes));
  parser_->body_limit(shared_->limits.body_bytes);
  head_sent_ = answered_ = input_whole_ = false;
  chunked_ = true;  // until the request says that it is HTTP/1.0
  if (input_.size() > 0) return read_header();
  state_ = State::kIdle;
  deadline(shared_->limits.idle_ns, &Connection::idle_expired);
  socket_.async_read_some(input_.prepare(kReadBytes),
                          [self = shared_from_this()](const auto& error, std::size_t bytes) {
                            if (self->state_ == State::kClosed) return;
                            if (error) return self->close();
                            self->input_.commit(bytes);
                            self->read_header();
                          });
}

void Connection::read_header() {
  state_ = State::kReading;
  deadline(shared_->limits.read_ns, &Connection::read_expired);
  http::async_read_header(socket_, input_, *parser_,
                          [self = shared_from_this()](const auto& error, std::size_t) {
                            if (self->state_ != State::kReading) return;
                            if (error) return self->read_failed(error);
                            self->header_read();
                          });
}

void Connection::header_read() {
  take_head();
  keep_alive_ = parser_->get().keep_alive();
  chunked_ = parser_->get().version() >= 11;
  if (shared_->handlers.admit) {
    if (const auto refusal = shared_->handlers.admit(request_)) return refuse(*refusal);
  }
  if (beast::iequals(parser_->get()[http::field::expect], "100-continue")) {
    output_ += "HTTP/1.1 100 Continue\r\n\r\n";
    flush();
  }
  http::async_read(socket_, input_, *parser_,
                   [self = shared_from_this()](const auto& error, std::size_t) {
                     if (self->state_ != State::kReading) return;
                     if (error) return self->read_failed(error);
                     self->body_read();
                   });
}

// What is there of it, whole or not.
void Connection::take_head() {
  const http::request<http::string_body>& message = parser_->get();
  request_ = {};
  request_.method = std::string(message.method_string());
  request_.path = std::string(message.target().substr(0, message.target().find('?')));
  for (const auto& field : message) {
    std::string name(field.name_string());
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) {
      return static_cast<char>(c | (c >= 'A' && c <= 'Z') << 5);
    });
    request_.headers.emplace_back(std::move(name), std::string(field.value()));
  }
}

void Connection::read_failed(const boost::system::error_code& error) {
  if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    return refuse(
        431, "header_bytes",
        "the header is larger than " + std::to_string(shared_->limits.header_bytes) + " bytes");
  }
  if (error == http::error::body_limit) {
    return refuse(
        413, "body_bytes",
        "the body is larger than " + std::to_string(shared_->limits.body_bytes) + " bytes");
  }
  const bool bad = error.category() == http::make_error_code(http::error::bad_method).category();
  if (!bad || error == http::error::end_of_stream || error == http::error::partial_message) {
    return close();
  }
  refuse(400, "malformed", "this is not HTTP/1.1: " + error.message());
}

void Connection::body_read() {
  input_whole_ = true;
  request_.body = std::move(parser_->get().body());
  parser_.reset();
  answer();
}

void Connection::answer() {
  state_ = State::kAnswering;
  deadline(0, nullptr);
  watch();
  auto exchange = std::make_shared<Exchange>(shared_from_this(), std::move(request_));
  if (shared_->handlers.request) shared_->handlers.request(std::move(exchange));
}

void Connection::refuse(int status, std::string_view cause, std::string_view message) {
  shared_->refuse(cause);
  take_head();
  refuse({status, own_error_json(message, "invalid_request_error"),
          shared_->headers_of_own(request_, status)});
}

void Connection::refuse(const HttpRefusal& refusal) {
  state_ = State::kAnswering;
  keep_alive_ = false;
  respond(refusal.status, "application/json", refusal.json, refusal.headers);
}

void Connection::watch() {
  if (input_.size() >= kEarlyBytes) return;
  watching_ = true;
  socket_.async_read_some(input_.prepare(kReadBytes),
                          [self = shared_from_this()](const auto& error, std::size_t bytes) {
                            self->watching_ = false;
                            if (self->state_ == State::kAnswering) self->watched(error, bytes);
                          });
}

void Connection::watched(const boost::system::error_code& error, std::size_t bytes) {
  if (!error) input_.commit(bytes);
  const bool complete = answered_ && output_.empty() && writing_.empty();
  if (error && !(complete && error == asio::error::operation_aborted)) {
    return lose(cancelled("the client went away"));
  }
  if (complete) return next_request();
  watch();
}

// ---- writing ----

void Connection::head(int status, std::string_view content_type, const HttpHeaders& headers) {
  if (shared_->draining) keep_alive_ = false;
  output_ += http_head(chunked_, status, content_type, headers);
  output_ += keep_alive_ ? "\r\nConnection: keep-alive" : "\r\nConnection: close";
  head_sent_ = true;
}

void Connection::respond(int status, std::string_view content_type, std::string_view body,
                         const HttpHeaders& headers) {
  if (state_ != State::kAnswering || head_sent_) return;
  head(status, content_type, headers);
  output_ += "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n";
  output_ += body;
  answered_ = true;
  flush();
}

void Connection::begin_stream(int status, std::string_view content_type,
                              const HttpHeaders& headers) {
  if (state_ != State::kAnswering || head_sent_) return;
  if (!chunked_) keep_alive_ = false;  // to HTTP/1.0, the end of a stream is the connection's
  head(status, content_type, headers);
  output_ += chunked_ ? "\r\nTransfer-Encoding: chunked\r\n\r\n" : "\r\n\r\n";
  flush();
}

void Connection::write_chunk(std::string_view bytes) {
  if (state_ != State::kAnswering || !head_sent_ || answered_ || bytes.empty()) return;
  if (output_.size() + writing_.size() + bytes.size() > shared_->limits.output_bytes) {
    shared_->refuse("slow_reader");
    return lose(resource_exhausted("the client reads too slowly"));
  }
  if (chunked_) {
    std::array<char, 24> size{};
    const auto end = std::to_chars(size.data(), size.data() + size.size(), bytes.size(), 16).ptr;
    output_.append(size.data(), end).append("\r\n").append(bytes).append("\r\n");
  } else {
    output_ += bytes;
  }
  flush();
}

void Connection::end_stream() {
  if (state_ != State::kAnswering || !head_sent_ || answered_) return;
  if (chunked_) output_ += "0\r\n\r\n";
  answered_ = true;
  flush();
}

void Connection::abandoned(const HttpRequest& request) {
  if (state_ != State::kAnswering) return;
  gone_ = nullptr;
  if (head_sent_) return close();
  keep_alive_ = false;
  respond(500, "application/json", own_error_json("the request was dropped", "server_error"),
          shared_->headers_of_own(request, 500));
}

void Connection::flush() {
  if (!writing_.empty()) return;
  if (output_.empty()) {
    if (answered_) answer_complete();
    return;
  }
  writing_.swap(output_);
  if (state_ == State::kAnswering) {
    deadline(shared_->limits.write_ns, &Connection::write_expired);
  }
  asio::async_write(
      socket_, asio::buffer(writing_),
      [self = shared_from_this()](const auto& error, std::size_t) { self->flushed(error); });
}

void Connection::flushed(const boost::system::error_code& error) {
  writing_.clear();
  if (state_ == State::kClosed) return;
  if (state_ == State::kAnswering) deadline(0, nullptr);
  if (error) return lose(cancelled("the client went away: " + error.message()));
  flush();
}

void Connection::answer_complete() {
  if (state_ != State::kAnswering) return;
  gone_ = nullptr;
  if (!keep_alive_) return input_whole_ && input_.size() == 0 ? close() : linger();
  if (!watching_) return next_request();
  boost::system::error_code ignored;
  socket_.cancel(ignored);  // watched() goes on from here
}

void Connection::linger() {
  state_ = State::kLingering;
  boost::system::error_code ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
  deadline(kLingerNs, &Connection::linger_expired);
  socket_.cancel(ignored);
  input_.clear();
  discard();
}

void Connection::discard() {
  const auto handler = [self = shared_from_this()](const auto& error, std::size_t) {
    if (self->state_ != State::kLingering) return;
    if (error) return self->close();
    self->discard();
  };
  socket_.async_read_some(input_.prepare(kReadBytes), handler);
}

// ---- ending ----

void Connection::deadline(std::uint64_t after_ns, void (Connection::*expired)()) {
  shared_->timers.cancel(deadline_);
  deadline_ = 0;
  if (expired == nullptr) return;
  deadline_ = shared_->timers.after(after_ns, [weak = weak_from_this(), expired] {
    if (const auto self = weak.lock()) ((*self).*expired)();
  });
}

void Connection::lose(const Status& cause) {
  if (state_ == State::kClosed) return;
  auto gone = std::exchange(gone_, nullptr);
  close();
  if (gone) {
    asio::post(socket_.get_executor(), [shared = shared_, gone = std::move(gone), cause] {
      if (shared->handlers.request) gone(cause);  // not after stop()
    });
  }
}

void Connection::close() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  gone_ = nullptr;
  deadline(0, nullptr);
  boost::system::error_code ignored;
  socket_.shutdown(tcp::socket::shutdown_both, ignored);
  socket_.close(ignored);
  shared_->connections.erase(shared_from_this());
}

}  // namespace

std::string_view HttpRequest::header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return {};
}

std::string own_error_json(std::string_view message, std::string_view type) {
  return "{\"error\":{\"message\":\"" + std::string(message) + "\",\"type\":\"" +
         std::string(type) + "\",\"param\":null,\"code\":null}}\n";
}

std::string http_head(bool is_http_11, int status, std::string_view content_type,
                      const HttpHeaders& headers) {
  std::string head = is_http_11 ? "HTTP/1.1 " : "HTTP/1.0 ";
  head += std::to_string(status) + ' ';
  head += std::string_view(http::obsolete_reason(static_cast<http::status>(status)));
  head += "\r\nServer: kvferry\r\nContent-Type: ";
  head += content_type;
  for (const auto& [name, value] : headers) head += "\r\n" + name + ": " + value;
  return head;
}

void start_http_connection(const std::shared_ptr<HttpShared>& shared, tcp::socket socket) {
  auto connection = std::make_shared<Connection>(shared, std::move(socket));
  shared->connections.insert(connection);
  connection->next_request();
}

}  // namespace kvferry::cluster
