#include "cli/http_client.h"

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <charconv>
#include <chrono>

namespace kvferry::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;

constexpr std::uint64_t kMaxAnswerBytes = 64u << 20;

constexpr std::chrono::milliseconds kStopInterval{50};

using Request = http::request<http::string_body>;

Request make_request(const HttpUrl& url, http::verb verb, const std::string& path,
                     const std::string& body) {
  Request request(verb, path, 11);
  request.set(http::field::host, url.host);
  if (!url.api_key.empty()) request.set(http::field::authorization, "Bearer " + url.api_key);
  if (verb == http::verb::post) request.set(http::field::content_type, "application/json");
  request.body() = body;
  request.prepare_payload();
  return request;
}

// Beast honours a time-out only on asynchronous calls, so one exchange is a short chain of them.
class Exchange {
 public:
  Exchange(const HttpUrl& url, Request request, std::uint64_t timeout_ns)
      : request_(std::move(request)), resolver_(io_), stream_(io_) {
    parser_.body_limit(kMaxAnswerBytes);
    stream_.expires_after(std::chrono::nanoseconds(timeout_ns));
    resolver_.async_resolve(url.host, std::to_string(url.port), [this](auto error, auto results) {
      if (error) return finish(error);
      stream_.async_connect(results, [this](auto failed, auto) { write(failed); });
    });
  }

  Result<HttpResponse> run(const std::string& where) {
    io_.run();
    if (error_) return unavailable(where + ": " + error_.message());
    return HttpResponse{static_cast<int>(parser_.get().result_int()),
                        std::move(parser_.get().body())};
  }

 private:
  void write(beast::error_code error) {
    if (error) return finish(error);
    http::async_write(stream_, request_, [this](auto failed, auto) {
      if (failed) return finish(failed);
      http::async_read(stream_, buffer_, parser_, [this](auto ended, auto) { finish(ended); });
    });
  }
  void finish(beast::error_code error) {
    error_ = error;
    stream_.close();
  }

  asio::io_context io_{1};
  Request request_;
  asio::ip::tcp::resolver resolver_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  http::response_parser<http::string_body> parser_;
  beast::error_code error_;
};

// An answer that is handed on as it comes.
class Stream {
 public:
  Stream(const HttpUrl& url, Request request, std::uint64_t quiet_ns,
         std::function<void(std::string_view)> bytes)
      : request_(std::move(request)),
        quiet_(quiet_ns),
        bytes_(std::move(bytes)),
        resolver_(io_),
        stream_(io_) {
    parser_.body_limit(boost::none);
    stream_.expires_after(quiet_);
    resolver_.async_resolve(url.host, std::to_string(url.port), [this](auto error, auto results) {
      if (error) return finish(error);
      stream_.async_connect(results, [this](auto failed, auto) {
        if (failed) return finish(failed);
        http::async_write(stream_, request_,
                          [this](auto cut, auto) { cut ? finish(cut) : read(); });
      });
    });
  }

  Result<HttpResponse> run(const std::string& where, const std::function<bool()>& stop) {
    HttpResponse response;
    while (!finished_ && !response.stopped) {
      io_.restart();
      io_.run_for(kStopInterval);
      response.stopped = !finished_ && stop();
    }
    if (response.stopped) return response;
    if (error_) return unavailable(where + ": " + error_.message());
    response.status = static_cast<int>(parser_.get().result_int());
    response.body = std::move(parser_.get().body());
    return response;
  }

 private:
  void read() {
    stream_.expires_after(quiet_);
    http::async_read_some(stream_, buffer_, parser_, [this](auto error, auto) {
      std::string& body = parser_.get().body();
      if (parser_.is_header_done() && parser_.get().result() == http::status::ok) {
        if (!body.empty()) bytes_(body);
        body.clear();
      } else if (body.size() > kMaxAnswerBytes) {
        return finish(http::error::body_limit);
      }
      if (error || parser_.is_done()) return finish(error);
      read();
    });
  }
  void finish(beast::error_code error) {
    error_ = error;
    finished_ = true;
    stream_.close();
  }

  asio::io_context io_{1};
  Request request_;
  std::chrono::nanoseconds quiet_;
  std::function<void(std::string_view)> bytes_;
  asio::ip::tcp::resolver resolver_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  http::response_parser<http::string_body> parser_;
  beast::error_code error_;
  bool finished_ = false;
};

}  // namespace

Result<HttpUrl> HttpUrl::parse(std::string_view text) {
  constexpr std::string_view kScheme = "http://";
  const Status wrong =
      invalid_argument("\"" + std::string(text) + "\" is not of the form http://HOST:PORT");
  if (!text.starts_with(kScheme)) return wrong;
  text.remove_prefix(kScheme.size());
  if (text.ends_with('/')) text.remove_suffix(1);
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return wrong;
  HttpUrl url;
  url.host = text.substr(0, colon);
  const std::string_view port = text.substr(colon + 1);
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), url.port);
  if (error != std::errc() || end != port.data() + port.size()) return wrong;
  return url;
}

Result<HttpResponse> http_get(const HttpUrl& url, const std::string& path,
                              std::uint64_t timeout_ns) {
  return Exchange(url, make_request(url, http::verb::get, path, ""), timeout_ns).run("GET " + path);
}

Result<HttpResponse> http_post_json(const HttpUrl& url, const std::string& path,
                                    const std::string& body, std::uint64_t timeout_ns) {
  return Exchange(url, make_request(url, http::verb::post, path, body), timeout_ns)
      .run("POST " + path);
}

Result<HttpResponse> http_post_stream(const HttpUrl& url, const std::string& path,
                                      const std::string& body, std::uint64_t quiet_ns,
                                      const std::function<void(std::string_view)>& bytes,
                                      const std::function<bool()>& stop) {
  return Stream(url, make_request(url, http::verb::post, path, body), quiet_ns, bytes)
      .run("POST " + path, stop);
}

}  // namespace kvferry::cli
