#include "gateway/gateway_metrics.h"

#include "gateway/generation.h"

namespace kvferry::gateway {
namespace {

Counter& tokens(Metrics& metrics, const char* kind) {
  return metrics.counter("kvferry_gateway_tokens_total",
                         "Tokens of requests: prompts accepted, completions given to clients.",
                         {{"kind", kind}});
}
Counter& prefills(Metrics& metrics, const char* where) {
  return metrics.counter("kvferry_gateway_prefills_total",
                         "Attempts by where their prompt is computed.", {{"where", where}});
}
Histogram& stage(Metrics& metrics, const char* name) {
  return metrics.histogram("kvferry_gateway_stage_seconds",
                           "Where the time of finished requests went, as their usage says: queue, "
                           "prefill, encode, transfer, first_decode.",
                           {{"stage", name}});
}

}  // namespace

GatewayMetrics::GatewayMetrics(Metrics& metrics)
    : ttft_seconds(metrics.histogram("kvferry_gateway_ttft_seconds",
                                     "From a request's arrival to its first token.")),
      inter_token_seconds(
          metrics.histogram("kvferry_gateway_inter_token_seconds",
                            "Between two tokens of a request, resumptions included.")),
      request_seconds(metrics.histogram("kvferry_gateway_request_seconds",
                                        "From a request's arrival to its end.")),
      queued(metrics.gauge("kvferry_gateway_queued",
                           "Requests that wait because as many are running as may.")),
      running(metrics.gauge("kvferry_gateway_running", "Requests that are running.")),
      waiting_for_worker(
          metrics.gauge("kvferry_gateway_waiting_for_worker",
                        "Running requests for which no decode worker is up at the moment.")),
      attempts(metrics.counter("kvferry_gateway_attempts_total",
                               "Attempts started; one for each request when nothing fails.")),
      prompt_tokens(tokens(metrics, "prompt")),
      completion_tokens(tokens(metrics, "completion")),
      prefills_remote(prefills(metrics, "remote")),
      prefills_local(prefills(metrics, "local")),
      metrics_(metrics),
      queue_seconds_(stage(metrics, "queue")),
      prefill_seconds_(stage(metrics, "prefill")),
      encode_seconds_(stage(metrics, "encode")),
      transfer_seconds_(stage(metrics, "transfer")),
      first_decode_seconds_(stage(metrics, "first_decode")) {}

void GatewayMetrics::request_done(std::string_view outcome) {
  metrics_
      .counter("kvferry_gateway_requests_total",
               "Requests by outcome: ok, invalid, refused, client_gone, deadline, failed.",
               {{"outcome", std::string(outcome)}})
      .add();
}

void GatewayMetrics::attempt_failed(std::string_view cause, bool resumed) {
  metrics_
      .counter("kvferry_gateway_attempts_failed_total",
               "Attempts that were followed by another one or by an error, by cause; resumed: the "
               "client had tokens already.",
               {{"cause", std::string(cause)}, {"resumed", resumed ? "true" : "false"}})
      .add();
}

void GatewayMetrics::token_dropped(std::string_view cause) {
  metrics_
      .counter("kvferry_gateway_tokens_dropped_total",
               "Tokens from workers that no client was given: of an older attempt (stale) or of a "
               "position that was there already (duplicate).",
               {{"cause", std::string(cause)}})
      .add();
}

void GatewayMetrics::http_refused(std::string_view cause) {
  metrics_
      .counter("kvferry_gateway_http_refused_total",
               "Connections and requests that a limit of the HTTP server refused, by limit.",
               {{"cause", std::string(cause)}})
      .add();
}

void GatewayMetrics::answered(const std::string& endpoint, const std::string& status) {
  metrics_
      .counter("kvferry_gateway_answers_total", "Answers of the API by endpoint and HTTP status.",
               {{"endpoint", endpoint}, {"status", status}})
      .add();
}

void GatewayMetrics::refused(const std::string& code) {
  metrics_
      .counter("kvferry_gateway_refused_total",
               "Requests refused before they ran, by the error's code.",
               {{"code", code.empty() ? "other" : code}})
      .add();
}

void GatewayMetrics::key_refused(std::string_view cause) {
  metrics_
      .counter("kvferry_gateway_keys_refused_total",
               "Requests refused by their API key: missing, unknown, concurrency.",
               {{"cause", std::string(cause)}})
      .add();
}

void GatewayMetrics::key_running(const std::string& key, std::uint32_t requests) {
  metrics_
      .gauge("kvferry_gateway_key_running", "Generations that are not finished, by API key.",
             {{"key", key}})
      .set(requests);
}

void GatewayMetrics::workers_up(std::string_view role, std::size_t count) {
  metrics_
      .gauge("kvferry_gateway_workers_up", "Workers that are connected and usable.",
             {{"role", std::string(role)}})
      .set(static_cast<double>(count));
}

void GatewayMetrics::kv_bytes(const std::string& codec, double raw, double sent) {
  static constexpr const char* kHelp =
      "KV of the prompts of finished requests: raw in bf16, sent with all headers.";
  metrics_.counter("kvferry_gateway_kv_bytes_total", kHelp, {{"codec", codec}, {"kind", "raw"}})
      .add(raw);
  metrics_.counter("kvferry_gateway_kv_bytes_total", kHelp, {{"codec", codec}, {"kind", "sent"}})
      .add(sent);
}

void GatewayMetrics::stages(const GenerationUsage& usage) {
  queue_seconds_.observe(usage.queue_ms * 1e-3);
  prefill_seconds_.observe(usage.prefill_ms * 1e-3);
  encode_seconds_.observe(usage.encode_ms * 1e-3);
  if (usage.remote_prefill) transfer_seconds_.observe(usage.transfer_ms * 1e-3);
  if (usage.first_decode_ms > 0) first_decode_seconds_.observe(usage.first_decode_ms * 1e-3);
}

}  // namespace kvferry::gateway
