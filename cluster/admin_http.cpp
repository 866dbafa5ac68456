#include "cluster/admin_http.h"

#include <utility>

#include "cluster/http_server.h"

namespace kvferry::cluster {
namespace {

constexpr std::string_view kJson = "application/json";
constexpr std::string_view kPrometheusText = "text/plain; version=0.0.4; charset=utf-8";
// Probes and scrapers: a few small requests.
constexpr std::size_t kAdminConnections = 64;
constexpr std::size_t kAdminBodyBytes = 64 << 10;

class Server : public AdminServer {
 public:
  std::uint16_t port() const override { return server->port(); }

  std::unique_ptr<Timers> timers;
  std::unique_ptr<HttpServer> server;
};

}  // namespace

bool is_admin_path(std::string_view path) {
  return path == "/healthz" || path == "/health" || path == "/readyz" || path == "/metrics";
}

bool answer_admin(HttpExchange& exchange, const AdminHandlers& handlers) {
  const HttpRequest& request = exchange.request();
  const bool health = request.path == "/healthz" || request.path == "/health";
  const bool ready = request.path == "/readyz";
  if (!is_admin_path(request.path)) return false;
  if (request.method != "GET") {
    exchange.respond(405, kJson, "{\"error\":\"only GET\"}\n", {{"Allow", "GET"}});
  } else if (health || ready) {
    const AdminAnswer answer = health ? handlers.healthz() : handlers.readyz();
    exchange.respond(answer.ok ? 200 : 503, kJson, answer.body);
  } else {
    exchange.respond(200, kPrometheusText, handlers.metrics());
  }
  return true;
}

Result<std::unique_ptr<AdminServer>> serve_admin(boost::asio::io_context& io,
                                                 const std::string& host, std::uint16_t port,
                                                 AdminHandlers handlers) {
  auto admin = std::make_unique<Server>();
  admin->timers = make_asio_timers(io);
  HttpLimits limits;
  limits.connections = kAdminConnections;
  limits.body_bytes = kAdminBodyBytes;
  HttpHandlers http;
  http.request = [handlers = std::move(handlers)](const std::shared_ptr<HttpExchange>& exchange) {
    if (answer_admin(*exchange, handlers)) return;
    exchange->respond(404, kJson,
                      "{\"error\":\"not found; there are /healthz, /readyz and /metrics\"}\n");
  };
  KVF_ASSIGN_OR_RETURN(admin->server,
                       listen_http(io, *admin->timers, host, port, limits, std::move(http)));
  return std::unique_ptr<AdminServer>(std::move(admin));
}

}  // namespace kvferry::cluster
