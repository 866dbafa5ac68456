// Every metric of the gateway, with its help text, in one place.
// Thread contract: made and used on the reactor's thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/metrics.h"

namespace kvferry::gateway {

struct GenerationUsage;

class GatewayMetrics {
 public:
  explicit GatewayMetrics(Metrics& metrics);

  // outcome: ok, invalid, refused, client_gone, deadline, failed.
  void request_done(std::string_view outcome);
  // An attempt that did not end its request. resumed: the client had tokens already.
  void attempt_failed(std::string_view cause, bool resumed);
  // cause: stale (of an older attempt), duplicate (a position that was there already).
  void token_dropped(std::string_view cause);
  void http_refused(std::string_view cause);
  // An answer of the API; status: of HTTP, or gone.
  void answered(const std::string& endpoint, const std::string& status);
  // A request that was refused before it ran: the error's code, "other" for one without.
  void refused(const std::string& code);
  // cause: missing, unknown, concurrency.
  void key_refused(std::string_view cause);
  void key_running(const std::string& key, std::uint32_t requests);
  void workers_up(std::string_view role, std::size_t count);
  void kv_bytes(const std::string& codec, double raw, double sent);
  // Where the time of a finished request went; a stage that it did not have is not observed.
  void stages(const GenerationUsage& usage);

  Histogram& ttft_seconds;
  Histogram& inter_token_seconds;
  Histogram& request_seconds;
  Gauge& queued;
  Gauge& running;
  Gauge& waiting_for_worker;
  Counter& attempts;
  Counter& prompt_tokens;
  Counter& completion_tokens;
  Counter& prefills_remote;
  Counter& prefills_local;

 private:
  Metrics& metrics_;
  Histogram& queue_seconds_;
  Histogram& prefill_seconds_;
  Histogram& encode_seconds_;
  Histogram& transfer_seconds_;
  Histogram& first_decode_seconds_;
};

}  // namespace kvferry::gateway
