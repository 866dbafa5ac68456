// The life of requests: admission, a plan, StartDecode and StartPrefill, tokens, the end.
//
//   queued -> (waiting for a worker) -> attempt 1 -> [attempt 2 ...] -> done
//
// An attempt is named by a transfer id of its own. When a worker dies or an attempt fails in a way
// that may not repeat, the next attempt starts with the prompt and the tokens that the client has
// already, on other workers where there are any. A token counts only if it belongs to the current
// attempt, comes from its decode worker and has the next position; so a client sees each token once
// and in order, whatever a worker that was thought dead still sends. Every request has a deadline,
// and that bounds every state it can be in.
//
// Thread contract: the reactor's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/status.h"
#include "gateway/gateway_metrics.h"
#include "gateway/generation.h"
#include "scheduler/admission.h"
#include "scheduler/router.h"
#include "text/tokenizer.h"

namespace kvferry::proto {
class Envelope;
class Failed;
class Finished;
class KvUsage;
class Token;
}  // namespace kvferry::proto

namespace kvferry::gateway {

struct RequestLimits {
  scheduler::AdmissionLimits admission;
  // Attempts that may fail for other reasons than a lost worker or a full one.
  std::uint32_t max_failures = 5;
  // Attempts altogether; with the pauses between them, more than a minute of trying.
  std::uint32_t max_attempts = 64;
};

struct WorkerFacts {
  scheduler::WorkerInfo info;
  std::string data_address;  // where a prefill worker sends KV to
};

// What the manager stands on; all outlive it.
struct RequestManagerParts {
  Timers* timers = nullptr;
  GatewayMetrics* metrics = nullptr;
  scheduler::Router* router = nullptr;
  std::shared_ptr<const text::Tokenizer> tokenizer;
  std::function<void(scheduler::WorkerId, const proto::Envelope&)> send;
};

class RequestManager {
 public:
  using RequestId = std::uint64_t;
  RequestManager(RequestManagerParts parts, const RequestLimits& limits);
  ~RequestManager();

  // kResourceExhausted when too many wait (see retry_after_s), kInvalidArgument for bad stop
  // strings; the sink is then not used.
  Result<RequestId> submit(Generation generation, GenerationSink sink);
  // Nobody wants the answer any more: both workers let go of it. Unknown ids are ignored.
  void cancel(RequestId id, const std::string& why);
  void cancel_all(const std::string& why);

  void worker_up(scheduler::WorkerId id, const WorkerFacts& facts);
  void worker_down(scheduler::WorkerId id);
  void worker_message(scheduler::WorkerId id, const proto::Envelope& message);

  std::size_t active() const { return requests_.size(); }
  std::uint32_t retry_after_s() const { return admission_.retry_after_s(); }

 private:
  struct Attempt;
  struct Request;
  using RequestPtr = std::shared_ptr<Request>;

  void begin(const RequestPtr& request);
  void start_attempt(const RequestPtr& request);
  void send_orders(const Request& request);
  void cancel_attempt(const Request& request, const std::string& why);
  void release_attempt(Request& request);
  // Ends the attempt and starts another, or ends the request. blame: workers to avoid.
  void attempt_failed(const RequestPtr& request, std::string_view cause, const Status& status,
                      const std::set<scheduler::WorkerId>& blame);
  void deadline_passed(const RequestPtr& request);

  RequestPtr find(std::uint64_t request_id, std::uint64_t transfer_id, std::uint32_t attempt) const;
  void on_token(scheduler::WorkerId worker, const proto::Token& token);
  void on_finished(scheduler::WorkerId worker, const proto::Finished& finished);
  void on_failed(scheduler::WorkerId worker, const proto::Failed& failed);
  void count_token(Request& request);
  void first_token(Request& request);
  void give_text(const RequestPtr& request, std::string piece);
  void end_text(const RequestPtr& request, const std::string& reason);

  void finish(const RequestPtr& request, const Status& status, const std::string& reason);
  void forget(const RequestPtr& request);
  void update_gauges();
  GenerationUsage usage_of(const Request& request) const;

  RequestManagerParts parts_;
  RequestLimits limits_;
  scheduler::Admission admission_;
  std::map<RequestId, RequestPtr> requests_;
  std::set<RequestId> waiting_;  // for a decode worker
  std::map<scheduler::WorkerId, std::string> data_addresses_;
  RequestId last_id_ = 0;
};

}  // namespace kvferry::gateway
