// A small blocking HTTP client for the commands that talk to a gateway.
// Thread contract: pure functions; each call opens and closes its own connection.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/status.h"

namespace kvferry::cli {

struct HttpUrl {
  std::string host;
  std::uint16_t port = 80;
  std::string api_key = {};                             // sent with every request unless empty
  static Result<HttpUrl> parse(std::string_view text);  // "http://127.0.0.1:8080"
};

struct HttpResponse {
  int status = 0;
  std::string body;
  bool stopped = false;  // by the caller of http_post_stream
};

Result<HttpResponse> http_get(const HttpUrl& url, const std::string& path,
                              std::uint64_t timeout_ns);
Result<HttpResponse> http_post_json(const HttpUrl& url, const std::string& path,
                                    const std::string& body, std::uint64_t timeout_ns);
// The same, but an answer of status 200 goes to `bytes` as it comes; of any other one the body
// comes back whole. quiet_ns: without a byte. stop: asked several times a second; true ends it.
Result<HttpResponse> http_post_stream(const HttpUrl& url, const std::string& path,
                                      const std::string& body, std::uint64_t quiet_ns,
                                      const std::function<void(std::string_view)>& bytes,
                                      const std::function<bool()>& stop);

}  // namespace kvferry::cli
