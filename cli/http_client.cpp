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

// Beast honours a time-out only on asynchronous calls, so one exchange is a short chain of them.
class Exchange {
 public:
  Exchange(const HttpUrl& url, http::request<http::string_body> request, std::uint64_t timeout_ns)
      : request_(std::move(request)), resolver_(io_), stream_(io_) {
    parser_.body_limit(kMaxAnswerBytes);
    stream_.expires_after(std::chrono::nanoseconds(timeout_ns));
    request_.set(http::field::host, url.host);
    request_.prepare_payload();
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
  http::request<http::string_body> request_;
  asio::ip::tcp::resolver resolver_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  http::response_parser<http::string_body> parser_;
  beast::error_code error_;
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
  http::request<http::string_body> request(http::verb::get, path, 11);
  return Exchange(url, std::move(request), timeout_ns).run("GET " + path);
}

Result<HttpResponse> http_post_json(const HttpUrl& url, const std::string& path,
                                    const std::string& body, std::uint64_t timeout_ns) {
  http::request<http::string_body> request(http::verb::post, path, 11);
  request.set(http::field::content_type, "application/json");
  request.body() = body;
  return Exchange(url, std::move(request), timeout_ns).run("POST " + path);
}

}  // namespace kvferry::cli
