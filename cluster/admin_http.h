// /healthz (also by vLLM's name, /health, for which load generators ask), /readyz and /metrics.
// Thread contract: the reactor's thread, callbacks too.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

namespace boost::asio {
class io_context;
}

namespace kvferry::cluster {

struct AdminAnswer {
  bool ok = false;   // 200 or 503
  std::string body;  // JSON
};

struct AdminHandlers {
  std::function<AdminAnswer()> healthz;  // does this process make progress?
  std::function<AdminAnswer()> readyz;   // can it do its work now, and if not, why
  std::function<std::string()> metrics;  // Metrics::serialize()
};

class AdminServer {
 public:
  virtual ~AdminServer() = default;
  virtual std::uint16_t port() const = 0;
};

// port 0: any free one. kUnavailable, with what to do, if the port is in use.
Result<std::unique_ptr<AdminServer>> serve_admin(boost::asio::io_context& io,
                                                 const std::string& host, std::uint16_t port,
                                                 AdminHandlers handlers);

// Whether answer_admin answers it: no API key is asked for there.
bool is_admin_path(std::string_view path);

class HttpExchange;
// Answers these paths, and says whether the request was for one of them.
bool answer_admin(HttpExchange& exchange, const AdminHandlers& handlers);

}  // namespace kvferry::cluster
