#include "gateway/gateway.h"

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <ctime>
#include <optional>
#include <utility>

#include "base/hash.h"
#include "base/log.h"
#include "base/process_metrics.h"
#include "cluster/admin_http.h"
#include "codec/codec_set.h"
#include "gateway/api_answer.h"
#include "gateway/api_exchange.h"
#include "gateway/api_fields.h"
#include "gateway/api_keys.h"
#include "gateway/api_request.h"
#include "gateway/served_model.h"
#include "gateway/text_thread.h"
#include "gateway/tokenize_api.h"
#include "gateway/worker_links.h"

namespace kvferry::gateway {
namespace {

namespace json = boost::json;
using cluster::HttpExchange;

constexpr std::string_view kJson = "application/json";
// Some milliseconds of parsing and tokenizing.
constexpr std::size_t kInlineBodyBytes = std::size_t{64} << 10;
constexpr std::string_view kModel = "/v1/models/";  // and a name
constexpr std::uint64_t kTickNs = kSecond;
// A reactor that has not come round for so long answers nothing in time.
constexpr std::uint64_t kStuckNs = 10 * kSecond;
constexpr std::uint64_t kDrainCheckNs = 20 * kMillisecond;
// For slow clients to take the end of their answers.
constexpr std::uint64_t kLastAnswersNs = 5 * kSecond;

std::int64_t wall_seconds() { return static_cast<std::int64_t>(std::time(nullptr)); }

using ExchangePtr = std::shared_ptr<ApiExchange>;

class GatewayProcess : public Gateway {
 public:
  GatewayProcess(boost::asio::io_context& io, Timers& timers, Metrics& metrics,
                 const GatewayConfig& config, ServedModel model, codec::CodecSet codecs,
                 ApiKeys keys, std::unique_ptr<scheduler::RoutePolicy> policy);
  ~GatewayProcess() override { stop(); }

  Status listen();
  std::uint16_t port() const override { return http_->port(); }
  std::size_t active() const override { return requests_->active(); }
  void drain(std::function<void()> drained) override;
  void stop() override;

 private:
  void make_links();
  // One path of the API: GET /v1/models/NAME counts as /v1/models.
  struct Route {
    std::string_view path, method, name;  // name: in the log and in metrics
    void (GatewayProcess::*answer)(const ExchangePtr& exchange);
  };
  static const Route* find_route(std::string_view path);
  std::uint64_t next_number() { return counter_random(id_key_, ++last_number_); }

  std::optional<cluster::HttpRefusal> admit(const cluster::HttpRequest& head);
  cluster::HttpHeaders name_own_answer(const cluster::HttpRequest& head, int status);
  void serve(const std::shared_ptr<HttpExchange>& exchange);
  template <class Read, class Then>
  void with_body(ExchangePtr exchange, Read read, Then then);
  void give(ApiExchange& exchange, const ApiResult<std::string>& answer);
  void models(const ExchangePtr& exchange);
  void tokenize(const ExchangePtr& exchange);
  void detokenize(const ExchangePtr& exchange);
  void completions(const ExchangePtr& exchange) { generate(Endpoint::kCompletions, exchange); }
  void chat(const ExchangePtr& exchange) { generate(Endpoint::kChat, exchange); }
  void generate(Endpoint endpoint, const ExchangePtr& exchange);
  bool enter_key(ApiExchange& exchange);
  void submit(Endpoint endpoint, ApiRequest request, const ExchangePtr& exchange);
  void refuse_submitted(ApiExchange& exchange, const Status& status);
  void refuse(ApiExchange& exchange, const ApiError& error);
  cluster::AdminAnswer healthz() const;
  cluster::AdminAnswer readyz() const;
  void tick();
  void check_drained();
  void update_workers();

  boost::asio::io_context& io_;
  Timers& timers_;
  Metrics& registry_;
  GatewayConfig config_;
  ServedModel model_;
  codec::CodecSet codecs_;
  ApiKeys keys_;
  GatewayMetrics metrics_;
  scheduler::Router router_;
  std::unique_ptr<RequestManager> requests_;
  std::unique_ptr<TextThread> text_thread_ = std::make_unique<TextThread>(io_);
  std::unique_ptr<WorkerLinks> links_;
  std::unique_ptr<cluster::Membership> members_;
  std::unique_ptr<cluster::HttpServer> http_;
  cluster::AdminHandlers admin_;
  Gauge& connections_;
  std::int64_t started_s_ = wall_seconds();
  std::uint64_t id_key_ = fresh_id();  // ids of answers are distinct across gateways
  std::uint64_t last_number_ = 0;
  std::uint64_t last_tick_ns_ = 0;
  Timers::Id tick_ = 0;
  bool draining_ = false;
  Timers::Id drain_check_ = 0;
  std::uint64_t answered_ns_ = 0;  // draining: since when no request is left; 0: some are
  std::function<void()> drained_;
};

GatewayProcess::GatewayProcess(boost::asio::io_context& io, Timers& timers, Metrics& metrics,
                               const GatewayConfig& config, ServedModel model,
                               codec::CodecSet codecs, ApiKeys keys,
                               std::unique_ptr<scheduler::RoutePolicy> policy)
    : io_(io),
      timers_(timers),
      registry_(metrics),
      config_(config),
      model_(std::move(model)),
      codecs_(std::move(codecs)),
      keys_(std::move(keys)),
      metrics_(metrics),
      router_(std::move(policy), config.local_prefill_tokens),
      connections_(metrics.gauge("kvferry_gateway_http_connections", "Open HTTP connections.")) {
  RequestManagerParts parts;
  parts.timers = &timers_;
  parts.metrics = &metrics_;
  parts.router = &router_;
  parts.tokenizer = model_.tokenizer;
  parts.send = [this](scheduler::WorkerId id, const proto::Envelope& message) {
    if (links_) links_->send(id, message);
  };
  requests_ = std::make_unique<RequestManager>(std::move(parts), config_.requests);
  admin_.healthz = [this] { return healthz(); };
  admin_.readyz = [this] { return readyz(); };
  admin_.metrics = [this] {
    connections_.set(static_cast<double>(http_->connections()));
    for (const ApiKey& key : keys_.keys()) metrics_.key_running(key.name, keys_.running(key));
    update_process_metrics(registry_);
    return registry_.serialize();
  };
}

Status GatewayProcess::listen() {
  cluster::HttpHandlers handlers;
  if (!keys_.empty()) {
    handlers.admit = [this](const cluster::HttpRequest& head) { return admit(head); };
  }
  handlers.request = [this](const std::shared_ptr<HttpExchange>& exchange) { serve(exchange); };
  handlers.own_answer = [this](const cluster::HttpRequest& head, int status) {
    return name_own_answer(head, status);
  };
  handlers.refused = [this](std::string_view cause) { metrics_.http_refused(cause); };
  KVF_ASSIGN_OR_RETURN(http_, cluster::listen_http(io_, timers_, config_.host, config_.port,
                                                   config_.http, std::move(handlers)));
  make_links();
  tick();
  log_info("gateway", "serving " + model_.name + " on http://" + config_.host + ":" +
                          std::to_string(http_->port()));
  return {};
}

void GatewayProcess::make_links() {
  WorkerLinksHandlers handlers;
  handlers.up = [this](scheduler::WorkerId id, const WorkerFacts& facts) {
    requests_->worker_up(id, facts);
    update_workers();
  };
  handlers.down = [this](scheduler::WorkerId id) {
    requests_->worker_down(id);
    update_workers();
  };
  handlers.load = [this](scheduler::WorkerId id, const scheduler::WorkerLoad& load) {
    router_.worker_load(id, load);
  };
  handlers.message = [this](scheduler::WorkerId id, const proto::Envelope& message) {
    requests_->worker_message(id, message);
  };
  links_ = std::make_unique<WorkerLinks>(
      io_, timers_, config_.liveness,
      WorkerTerms{model_.checkpoint, model_.context, codecs_.specs()}, std::move(handlers));
  update_workers();
  members_ = cluster::static_membership(config_.workers);
  members_->watch([this](const auto& members) { links_->set_members(members); });
}

void GatewayProcess::update_workers() {
  metrics_.workers_up("prefill", router_.up(scheduler::Role::kPrefill));
  metrics_.workers_up("decode", router_.up(scheduler::Role::kDecode));
}

// ---- HTTP ----

const GatewayProcess::Route* GatewayProcess::find_route(std::string_view path) {
  static constexpr Route kRoutes[] = {
      {"/v1/completions", "POST", "completions", &GatewayProcess::completions},
      {"/v1/chat/completions", "POST", "chat", &GatewayProcess::chat},
      {"/v1/models", "GET", "models", &GatewayProcess::models},
      {"/tokenize", "POST", "tokenize", &GatewayProcess::tokenize},
      {"/detokenize", "POST", "detokenize", &GatewayProcess::detokenize},
  };
  if (path.size() > kModel.size() && path.starts_with(kModel)) path = "/v1/models";
  const auto found = std::find_if(std::begin(kRoutes), std::end(kRoutes),
                                  [&](const Route& route) { return route.path == path; });
  return found == std::end(kRoutes) ? nullptr : found;
}

// Everything but probes and metrics needs a key, where there are any: before the body is read.
std::optional<cluster::HttpRefusal> GatewayProcess::admit(const cluster::HttpRequest& head) {
  const std::string_view authorization = head.header("authorization");
  if (cluster::is_admin_path(head.path) || keys_.find(authorization) != nullptr) {
    return std::nullopt;
  }
  const bool missing = authorization.empty();
  metrics_.key_refused(missing ? "missing" : "unknown");
  const std::string name = request_name(head.header("x-request-id"), next_number());
  log_info("gateway", name + " refused: " + (missing ? "no API key" : "an unknown API key"));
  const ApiError error{401,
                       missing ? "You didn't provide an API key. Send one in the header "
                                 "'Authorization: Bearer YOUR_KEY'"
                               : "Incorrect API key provided. Keys are given out by whoever "
                                 "operates this gateway",
                       "invalid_request_error",
                       "",
                       missing ? "" : "invalid_api_key",
                       0};
  return cluster::HttpRefusal{
      error.status, error.json(), {{"WWW-Authenticate", "Bearer"}, {"X-Request-Id", name}}};
}

// Of an answer that the HTTP server gives before, or without, an ApiExchange.
cluster::HttpHeaders GatewayProcess::name_own_answer(const cluster::HttpRequest& head, int status) {
  const std::string name = request_name(head.header("x-request-id"), next_number());
  log_info("gateway", name + " refused: " + std::to_string(status));
  return {{"X-Request-Id", name}};
}

void GatewayProcess::serve(const std::shared_ptr<HttpExchange>& inner) {
  if (cluster::answer_admin(*inner, admin_)) return;
  const cluster::HttpRequest& request = inner->request();
  const Route* route = find_route(request.path);
  const auto exchange = std::make_shared<ApiExchange>(
      inner, next_number(), route == nullptr ? "other" : std::string(route->name), timers_,
      metrics_);
  if (route == nullptr) {
    return refuse(*exchange, {404, "There is no " + request.path, "invalid_request_error", "",
                              "not_found", 0});
  }
  if (request.method != route->method) {
    const ApiError error{405,
                         request.path + " takes " + std::string(route->method) + " only",
                         "invalid_request_error",
                         "",
                         "method_not_allowed",
                         0};
    return respond_error(*exchange, error, {{"Allow", std::string(route->method)}});
  }
  (this->*route->answer)(exchange);
}

void GatewayProcess::refuse(ApiExchange& exchange, const ApiError& error) {
  metrics_.refused(error.code);
  respond_error(exchange, error);
}

void GatewayProcess::models(const ExchangePtr& exchange) {
  const std::string_view path = exchange->request().path;
  const bool one = path.size() > kModel.size();
  if (one && path.substr(kModel.size()) != model_.name) {
    return refuse(*exchange, unknown_model(path.substr(kModel.size()), model_.name));
  }
  exchange->respond(200, kJson,
                    (one ? model_json : models_json)(model_.name, model_.context, started_s_));
}

// Calls `then` with what `read` makes of the exchange's request. Reading a long body takes so long
// that others' streams would stutter: that is done beside the reactor, and `then` is left out if
// the client has gone meanwhile.
template <class Read, class Then>
void GatewayProcess::with_body(ExchangePtr exchange, Read read, Then then) {
  const cluster::HttpRequest& request = exchange->request();
  if (request.body.size() <= kInlineBodyBytes) return then(exchange, read(request));
  text_thread_->run([exchange = std::move(exchange), read, then]() mutable -> TextThread::Rest {
    auto result = read(exchange->request());
    return [exchange = std::move(exchange), then, result = std::move(result)]() mutable {
      if (exchange->open()) then(exchange, std::move(result));
    };
  });
}

void GatewayProcess::tokenize(const ExchangePtr& exchange) {
  with_body(
      exchange, [this](const auto& request) { return answer_tokenize(request.body, model_); },
      [this](const ExchangePtr& to, const ApiResult<std::string>& answer) { give(*to, answer); });
}

void GatewayProcess::detokenize(const ExchangePtr& exchange) {
  with_body(
      exchange, [this](const auto& request) { return answer_detokenize(request.body, model_); },
      [this](const ExchangePtr& to, const ApiResult<std::string>& answer) { give(*to, answer); });
}

void GatewayProcess::give(ApiExchange& exchange, const ApiResult<std::string>& answer) {
  if (const auto* error = std::get_if<ApiError>(&answer)) return refuse(exchange, *error);
  exchange.respond(200, kJson, std::get<std::string>(answer));
}

void GatewayProcess::generate(Endpoint endpoint, const ExchangePtr& exchange) {
  if (draining_) {
    metrics_.request_done("refused");
    return refuse(*exchange,
                  {503, "This gateway is shutting down", "server_error", "", "draining", 1});
  }
  if (!enter_key(*exchange)) return;
  const cluster::HttpRequest& request = exchange->request();
  const auto timeout_ns = read_timeout(request.header("timeout"), config_.timeout_ns);
  if (const auto* error = std::get_if<ApiError>(&timeout_ns)) {
    metrics_.request_done("invalid");
    return refuse(*exchange, *error);
  }
  const ApiContext context{&model_, &codecs_, config_.default_max_tokens,
                           std::get<std::uint64_t>(timeout_ns)};
  with_body(
      exchange,
      [endpoint, context](const cluster::HttpRequest& read) {
        return parse_api_request(endpoint, read.body, read.header("x-kv-codec"), context);
      },
      [this, endpoint](const ExchangePtr& to, ApiResult<ApiRequest> parsed) {
        if (const auto* error = std::get_if<ApiError>(&parsed)) {
          metrics_.request_done("invalid");
          return refuse(*to, *error);
        }
        submit(endpoint, std::move(std::get<ApiRequest>(parsed)), to);
      });
}

// Takes one of the requests that the client's key may have at once, or answers 429.
bool GatewayProcess::enter_key(ApiExchange& exchange) {
  if (keys_.empty()) return true;
  const ApiKey* key = keys_.find(exchange.request().header("authorization"));
  if (key == nullptr) return false;  // admit() has seen it: not reached; the exchange answers 500
  exchange.note("key=" + key->name);
  if (auto permit = keys_.enter(*key)) {
    exchange.hold(std::move(permit));
    return true;
  }
  metrics_.key_refused("concurrency");
  metrics_.request_done("refused");
  refuse(exchange, {429,
                    "Rate limit reached: this key may have " + std::to_string(key->concurrent) +
                        " requests at once",
                    "rate_limit_error", "", "rate_limit_exceeded", 1});
  return false;
}

void GatewayProcess::submit(Endpoint endpoint, ApiRequest request, const ExchangePtr& exchange) {
  exchange->note("codec=\"" + request.generations.front().codec + "\"");
  const auto ids = std::make_shared<std::vector<RequestManager::RequestId>>();
  const auto cancel_all = [this, ids](const std::string& why, std::string_view outcome) {
    for (const RequestManager::RequestId id : *ids) requests_->cancel(id, why, outcome);
  };
  const auto ended = [exchange, cancel_all](const GenerationUsage& usage) {
    exchange->note("prompt_tokens=" + std::to_string(usage.prompt_tokens) +
                   " completion_tokens=" + std::to_string(usage.completion_tokens) +
                   " sent_bytes=" + std::to_string(usage.sent_bytes) +
                   " attempts=" + std::to_string(usage.attempts));
    cancel_all("another prompt of the request failed", "failed");
  };
  const auto answer =
      std::make_shared<ApiAnswer>(exchange,
                                  ApiResponse(endpoint, request, model_.name, model_.tokenizer,
                                              exchange->number(), wall_seconds()),
                                  request, ended);
  for (std::uint32_t prompt = 0; prompt < request.generations.size(); ++prompt) {
    request.generations[prompt].name = exchange->name();
    const auto id = requests_->submit(std::move(request.generations[prompt]), answer->sink(prompt));
    if (!id.ok()) {
      cancel_all("another prompt of the request was refused", "refused");
      return refuse_submitted(*exchange, id.status());
    }
    ids->push_back(*id);
  }
  exchange->on_gone([cancel_all](const Status& why) { cancel_all(why.message(), "client_gone"); });
}

void GatewayProcess::refuse_submitted(ApiExchange& exchange, const Status& status) {
  metrics_.request_done("refused");
  ApiError error = error_of(status);
  if (status.code() == Code::kResourceExhausted) {
    error.status = 429;
    error.type = "rate_limit_error";
    error.code = "rate_limit_exceeded";
    error.retry_after_s = requests_->retry_after_s();
  }
  refuse(exchange, error);
}

cluster::AdminAnswer GatewayProcess::healthz() const {
  const std::uint64_t still_ns = timers_.now_ns() - last_tick_ns_;
  const bool healthy = still_ns < kStuckNs;
  return {healthy, json::serialize(json::value{{"healthy", healthy},
                                               {"reactor_still_ms", still_ns / kMillisecond}}) +
                       "\n"};
}

cluster::AdminAnswer GatewayProcess::readyz() const {
  json::array reasons;
  const std::size_t decode = router_.up(scheduler::Role::kDecode);
  const std::size_t prefill = router_.up(scheduler::Role::kPrefill);
  if (draining_) reasons.emplace_back("shutting down");
  if (decode < config_.ready_decode_workers) {
    reasons.emplace_back(std::to_string(decode) + " of " +
                         std::to_string(config_.ready_decode_workers) + " decode workers are up");
  }
  if (prefill < config_.ready_prefill_workers) {
    reasons.emplace_back(std::to_string(prefill) + " of " +
                         std::to_string(config_.ready_prefill_workers) + " prefill workers are up");
  } else if (config_.ready_prefill_workers > 0 && decode > 0 && !router_.has_pair()) {
    reasons.emplace_back(
        "no prefill worker computes as the decode workers do: fingerprint or numerics class of "
        "their models differ");
  }
  json::array workers;
  for (const WorkerLinks::Seen& seen : links_->seen()) {
    json::object worker{{"host", seen.member.host},
                        {"control_port", seen.member.control_port},
                        {"up", seen.usable}};
    if (!seen.role.empty()) worker["role"] = seen.role;
    if (!seen.name.empty()) worker["name"] = seen.name;
    if (!seen.problem.empty()) worker["problem"] = seen.problem;
    workers.push_back(std::move(worker));
  }
  const bool ready = reasons.empty();
  return {ready,
          json::serialize(json::object{
              {"ready", ready}, {"reasons", std::move(reasons)}, {"workers", std::move(workers)}}) +
              "\n"};
}

void GatewayProcess::tick() {
  last_tick_ns_ = timers_.now_ns();
  tick_ = timers_.after(kTickNs, [this] { tick(); });
}

// ---- ending ----

void GatewayProcess::drain(std::function<void()> drained) {
  draining_ = true;
  drained_ = std::move(drained);
  log_info("gateway",
           "draining: " + std::to_string(requests_->active()) + " requests are not finished");
  http_->drain();
  check_drained();
}

// The requests first, then what their connections have still to take.
void GatewayProcess::check_drained() {
  if (requests_->active() > 0) {
    answered_ns_ = 0;
  } else if (answered_ns_ == 0) {
    answered_ns_ = timers_.now_ns();
  }
  const bool answered = answered_ns_ != 0;
  if (answered && (http_->connections() == 0 || timers_.now_ns() - answered_ns_ > kLastAnswersNs)) {
    drain_check_ = timers_.after(0, std::exchange(drained_, nullptr));
    return;
  }
  drain_check_ = timers_.after(kDrainCheckNs, [this] { check_drained(); });
}

void GatewayProcess::stop() {
  if (!requests_) return;
  timers_.cancel(tick_);
  timers_.cancel(drain_check_);
  if (http_) http_->stop();
  text_thread_.reset();
  requests_->cancel_all("the gateway stops");
  requests_.reset();
  links_.reset();
}

}  // namespace

Result<std::unique_ptr<Gateway>> Gateway::start(boost::asio::io_context& io, Timers& timers,
                                                Metrics& metrics, const GatewayConfig& config) {
  KVF_ASSIGN_OR_RETURN(ServedModel model, ServedModel::load(config.model, config.served_model_name,
                                                            config.chat_template));
  KVF_ASSIGN_OR_RETURN(codec::CodecSet codecs, codec::CodecSet::parse(config.codecs));
  KVF_ASSIGN_OR_RETURN(auto policy, scheduler::make_policy(config.policy));
  ApiKeys keys;
  if (!config.api_keys.empty()) {
    KVF_ASSIGN_OR_RETURN(keys, ApiKeys::load(config.api_keys));
  }
  auto gateway =
      std::make_unique<GatewayProcess>(io, timers, metrics, config, std::move(model),
                                       std::move(codecs), std::move(keys), std::move(policy));
  KVF_RETURN_IF_ERROR(gateway->listen());
  return std::unique_ptr<Gateway>(std::move(gateway));
}

}  // namespace kvferry::gateway
