#include "gateway/request_manager.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/hash.h"
#include "base/log.h"
#include "cluster/messages.h"
#include "text/detokenizer.h"
#include "text/stop_buffer.h"

namespace kvferry::gateway {

using scheduler::Route;
using scheduler::WorkerId;

namespace {

constexpr std::uint64_t kFirstPauseNs = 50 * kMillisecond;
constexpr std::uint64_t kLastPauseNs = 2 * kSecond;

// The first retry is immediate: most often a worker has died and another one is there.
std::uint64_t pause_ns(std::uint32_t attempts) {
  if (attempts <= 1) return 0;
  return std::min(kLastPauseNs, kFirstPauseNs << std::min(attempts - 2, 10u));
}

// Failures that say nothing about the request: trying again elsewhere or later may help, for as
// long as the deadline allows.
bool is_circumstance(Code code) {
  return code == Code::kUnavailable || code == Code::kResourceExhausted ||
         code == Code::kDeadlineExceeded || code == Code::kCancelled;
}
// Failures that will be the same everywhere.
bool is_final(Code code) {
  return code == Code::kInvalidArgument || code == Code::kUnsupported || code == Code::kNotFound;
}

double ms_between(std::uint64_t from_ns, std::uint64_t to_ns) {
  return to_ns < from_ns ? 0 : static_cast<double>(to_ns - from_ns) * 1e-6;
}

// What an attempt says comes behind what those before it said: amounts add up, and bits per value
// are all bits over all values; everything else is the later attempt's.
void add_usage(const proto::KvUsage& later, proto::KvUsage& all) {
  proto::KvUsage sum = later;
  sum.set_values(all.values() + later.values());
  sum.set_raw_bytes(all.raw_bytes() + later.raw_bytes());
  sum.set_sent_bytes(all.sent_bytes() + later.sent_bytes());
  if (sum.values() > 0) {
    const double bits = all.bits_per_value() * static_cast<double>(all.values()) +
                        later.bits_per_value() * static_cast<double>(later.values());
    sum.set_bits_per_value(bits / static_cast<double>(sum.values()));
  }
  all = std::move(sum);
}

}  // namespace

struct RequestManager::Attempt {
  std::uint64_t transfer_id = 0;
  Route route;
  std::uint32_t ids = 0;             // prompt and tokens it started with
  bool prefilled = false;            // its first token is here
  std::optional<proto::KvUsage> kv;  // what its decode worker said last
};

struct RequestManager::Request {
  Request(Generation wanted, GenerationSink into, text::StopBuffer stop_buffer,
          std::shared_ptr<const text::Tokenizer> tokenizer)
      : generation(std::move(wanted)),
        sink(std::move(into)),
        stops(std::move(stop_buffer)),
        detokenizer(std::move(tokenizer)) {}

  RequestId id = 0;
  Generation generation;
  GenerationSink sink;
  text::StopBuffer stops;
  text::Detokenizer detokenizer;
  std::vector<std::int32_t> tokens;  // generated so far, by whichever attempts

  std::uint64_t arrived_ns = 0, deadline_ns = 0;
  std::uint64_t admitted_ns = 0;       // 0: queued
  std::uint64_t first_attempt_ns = 0;  // 0: none yet
  std::uint64_t first_token_ns = 0, last_token_ns = 0;
  Timers::Id deadline = 0, retry = 0;

  std::optional<Attempt> attempt;
  std::uint32_t attempts = 0;
  std::uint32_t failures = 0;
  std::set<WorkerId> failed;
  std::optional<scheduler::ComputeClass> bound_to;
  proto::KvUsage kv;  // of the attempts that have ended
  bool over = false;

  std::uint32_t sequence_length() const {
    return static_cast<std::uint32_t>(generation.prompt.size() + tokens.size());
  }
};

RequestManager::RequestManager(RequestManagerParts parts, const RequestLimits& limits)
    : parts_(std::move(parts)), limits_(limits), admission_(limits.admission) {}

RequestManager::~RequestManager() {
  for (const auto& [id, request] : requests_) {
    parts_.timers->cancel(request->deadline);
    parts_.timers->cancel(request->retry);
  }
}

// ---- beginning ----

Result<RequestManager::RequestId> RequestManager::submit(Generation generation,
                                                         GenerationSink sink) {
  KVF_ASSIGN_OR_RETURN(auto stops, text::StopBuffer::make(generation.stop));
  const RequestId id = last_id_ + 1;
  KVF_ASSIGN_OR_RETURN(const bool now, admission_.enter(id));
  last_id_ = id;
  auto request = std::make_shared<Request>(std::move(generation), std::move(sink), std::move(stops),
                                           parts_.tokenizer);
  request->id = id;
  request->arrived_ns = parts_.timers->now_ns();
  request->deadline_ns = request->arrived_ns + request->generation.timeout_ns;
  const std::weak_ptr<Request> weak = request;
  request->deadline = parts_.timers->at(request->deadline_ns, [this, weak] {
    if (const auto late = weak.lock()) deadline_passed(late);
  });
  requests_[id] = request;
  parts_.metrics->prompt_tokens.add(static_cast<double>(request->generation.prompt.size()));
  if (now) begin(request);
  update_gauges();
  return id;
}

void RequestManager::begin(const RequestPtr& request) {
  request->admitted_ns = parts_.timers->now_ns();
  start_attempt(request);
}

void RequestManager::start_attempt(const RequestPtr& request) {
  if (request->over) return;
  request->retry = 0;
  if (request->tokens.size() >= request->generation.max_tokens) {
    // All tokens came, and then the worker went before it could say so.
    return end_text(request, "length");
  }
  scheduler::RouteRequest wanted;
  wanted.prompt_tokens = request->sequence_length();
  wanted.failed = request->failed;
  wanted.bound_to = request->bound_to;
  const auto route = parts_.router->route(wanted);
  if (!route) {
    waiting_.insert(request->id);
    return update_gauges();
  }
  waiting_.erase(request->id);
  Attempt attempt;
  attempt.transfer_id = fresh_id();
  attempt.route = *route;
  attempt.ids = wanted.prompt_tokens;
  request->attempt = attempt;
  ++request->attempts;
  if (request->first_attempt_ns == 0) request->first_attempt_ns = parts_.timers->now_ns();
  parts_.metrics->attempts.add();
  (route->prefill ? parts_.metrics->prefills_remote : parts_.metrics->prefills_local).add();
  send_orders(*request);
  update_gauges();
}

void RequestManager::send_orders(const Request& request) {
  const Generation& generation = request.generation;
  const Attempt& attempt = *request.attempt;
  proto::Envelope decode;
  proto::Plan& plan = *decode.mutable_start_decode()->mutable_plan();
  plan.set_request_id(request.id);
  plan.set_transfer_id(attempt.transfer_id);
  plan.set_attempt(request.attempts);
  plan.mutable_ids()->Add(generation.prompt.begin(), generation.prompt.end());
  plan.mutable_ids()->Add(request.tokens.begin(), request.tokens.end());
  plan.set_max_tokens(generation.max_tokens - static_cast<std::uint32_t>(request.tokens.size()));
  plan.mutable_stop_ids()->Add(generation.stop_ids.begin(), generation.stop_ids.end());
  plan.set_codec(generation.codec);
  plan.mutable_sampling()->set_temperature(generation.temperature);
  plan.mutable_sampling()->set_top_k(generation.top_k);
  plan.mutable_sampling()->set_top_p(generation.top_p);
  plan.mutable_sampling()->set_seed(generation.seed);
  const std::uint64_t now_ns = parts_.timers->now_ns();
  const std::uint64_t left_ns = request.deadline_ns > now_ns ? request.deadline_ns - now_ns : 0;
  plan.set_deadline_ms(std::max<std::uint64_t>(1, left_ns / kMillisecond));
  plan.mutable_sampling()->set_repetition_penalty(1);
  plan.set_choices(1);
  plan.set_prompt_tokens(static_cast<std::uint32_t>(generation.prompt.size()));
  decode.mutable_start_decode()->set_remote_prefill(attempt.route.prefill.has_value());
  parts_.send(attempt.route.decode, decode);
  if (!attempt.route.prefill) return;
  proto::Envelope prefill;
  *prefill.mutable_start_prefill()->mutable_plan() = plan;
  prefill.mutable_start_prefill()->set_decode_data_address(data_addresses_[attempt.route.decode]);
  parts_.send(*attempt.route.prefill, prefill);
}

// ---- workers come, go and fail ----

void RequestManager::worker_up(WorkerId id, const WorkerFacts& facts) {
  parts_.router->worker_up(id, facts.info);
  data_addresses_[id] = facts.data_address;
  for (const auto& [key, request] : requests_) request->failed.erase(id);  // a new life
  for (const RequestId waiting : std::set<RequestId>(waiting_)) {
    const auto found = requests_.find(waiting);
    if (found != requests_.end()) start_attempt(RequestPtr(found->second));
  }
}

void RequestManager::worker_down(WorkerId id) {
  parts_.router->worker_down(id);
  std::vector<RequestPtr> hit;
  for (const auto& [key, request] : requests_) {
    if (!request->attempt) continue;
    const Attempt& attempt = *request->attempt;
    // A prefill worker is not needed any more once the first token is here.
    if (attempt.route.decode == id || (attempt.route.prefill == id && !attempt.prefilled)) {
      hit.push_back(request);
    }
  }
  for (const RequestPtr& request : hit) {
    const bool decode = request->attempt->route.decode == id;
    attempt_failed(
        request, decode ? "decode_worker_down" : "prefill_worker_down",
        unavailable(decode ? "the decode worker went away" : "the prefill worker went away"), {id});
  }
}

void RequestManager::attempt_failed(const RequestPtr& request, std::string_view cause,
                                    const Status& status, const std::set<WorkerId>& blame) {
  const bool resumed = !request->tokens.empty();
  parts_.metrics->attempt_failed(cause, resumed);
  log_warn("gateway", request->generation.name + ", request " + std::to_string(request->id) +
                          ", attempt " + std::to_string(request->attempts) + " (" +
                          std::string(cause) + "): " + status.to_string() + "; " +
                          std::to_string(request->tokens.size()) + " tokens so far");
  cancel_attempt(*request, "superseded: " + std::string(cause));
  release_attempt(*request);
  request->failed.insert(blame.begin(), blame.end());
  if (!is_circumstance(status.code())) ++request->failures;
  if (is_final(status.code()) || request->failures >= limits_.max_failures ||
      request->attempts >= limits_.max_attempts) {
    return finish(request, status, "");
  }
  const std::uint64_t pause = pause_ns(request->attempts);
  if (pause == 0) return start_attempt(request);
  const std::weak_ptr<Request> weak = request;
  request->retry = parts_.timers->after(pause, [this, weak] {
    if (const auto again = weak.lock()) start_attempt(again);
  });
}

void RequestManager::cancel_attempt(const Request& request, const std::string& why) {
  if (!request.attempt) return;
  proto::Envelope envelope;
  envelope.mutable_cancel()->set_transfer_id(request.attempt->transfer_id);
  envelope.mutable_cancel()->set_reason(why);
  parts_.send(request.attempt->route.decode, envelope);
  if (request.attempt->route.prefill) parts_.send(*request.attempt->route.prefill, envelope);
}

void RequestManager::release_attempt(Request& request) {
  if (!request.attempt) return;
  const Attempt& attempt = *request.attempt;
  parts_.router->release(attempt.route, attempt.ids, attempt.prefilled);
  if (attempt.kv) add_usage(*attempt.kv, request.kv);
  request.attempt.reset();
}

void RequestManager::deadline_passed(const RequestPtr& request) {
  std::string where = "while it was answered";
  if (request->admitted_ns == 0) {
    where = "while it waited for others to finish";
  } else if (waiting_.contains(request->id)) {
    where = "while no decode worker was up";
  }
  cancel_attempt(*request, "deadline");
  finish(request, deadline_exceeded("the request's time ran out " + where), "");
}

// ---- what workers say ----

void RequestManager::worker_message(WorkerId worker, const proto::Envelope& message) {
  if (message.has_token()) {
    on_token(worker, message.token());
  } else if (message.has_finished()) {
    on_finished(worker, message.finished());
  } else if (message.has_failed()) {
    on_failed(worker, message.failed());
  } else {
    log_debug("gateway", "a message of no use from worker " + std::to_string(worker));
  }
}

RequestManager::RequestPtr RequestManager::find(std::uint64_t request_id, std::uint64_t transfer_id,
                                                std::uint32_t attempt) const {
  const auto found = requests_.find(request_id);
  if (found == requests_.end() || !found->second->attempt) return nullptr;
  const Request& request = *found->second;
  const bool current = request.attempt->transfer_id == transfer_id && request.attempts == attempt;
  return current ? found->second : nullptr;
}

void RequestManager::on_token(WorkerId worker, const proto::Token& token) {
  const RequestPtr request = find(token.request_id(), token.transfer_id(), token.attempt());
  if (!request || request->attempt->route.decode != worker) {
    return parts_.metrics->token_dropped("stale");
  }
  const std::uint32_t next = request->sequence_length();
  if (token.position() < next) return parts_.metrics->token_dropped("duplicate");
  if (token.position() > next || token.id() < 0 ||
      request->tokens.size() >= request->generation.max_tokens) {
    return attempt_failed(
        request, "protocol",
        internal_error("token " + std::to_string(token.id()) + " at position " +
                       std::to_string(token.position()) + ", expected " + std::to_string(next)),
        {worker});
  }
  if (token.has_usage()) request->attempt->kv = token.usage();
  if (!request->attempt->prefilled) {
    request->attempt->prefilled = true;
    parts_.router->prefilled(request->attempt->route, request->attempt->ids);
    request->bound_to = request->attempt->route.compute;
  }
  request->tokens.push_back(token.id());
  count_token(*request);
  give_text(request, request->detokenizer.feed(token.id()));
}

void RequestManager::count_token(Request& request) {
  const std::uint64_t now_ns = parts_.timers->now_ns();
  if (request.first_token_ns == 0) {
    first_token(request);
  } else {
    parts_.metrics->inter_token_seconds.observe(ms_between(request.last_token_ns, now_ns) * 1e-3);
  }
  request.last_token_ns = now_ns;
  parts_.metrics->completion_tokens.add();
}

void RequestManager::first_token(Request& request) {
  request.first_token_ns = parts_.timers->now_ns();
  parts_.metrics->ttft_seconds.observe(ms_between(request.arrived_ns, request.first_token_ns) *
                                       1e-3);
}

void RequestManager::give_text(const RequestPtr& request, std::string piece) {
  const std::string text = request->stops.feed(piece);
  if (!text.empty()) request->sink.text(text);
  if (request->over || request->stops.hit() < 0) return;
  cancel_attempt(*request, "stop string");
  finish(request, {}, "stop");
}

void RequestManager::on_finished(WorkerId worker, const proto::Finished& finished) {
  const RequestPtr request =
      find(finished.request_id(), finished.transfer_id(), finished.attempt());
  if (!request || request->attempt->route.decode != worker) return;
  if (finished.reason() != "stop" && finished.reason() != "length") {
    return attempt_failed(request, "protocol",
                          internal_error("an unknown reason to finish: " + finished.reason()),
                          {worker});
  }
  if (finished.has_usage()) request->attempt->kv = finished.usage();
  end_text(request, finished.reason());
}

// Gives what detokenizer and stop buffer held back; a stop string may still be completed by it.
void RequestManager::end_text(const RequestPtr& request, const std::string& reason) {
  std::string text = request->stops.feed(request->detokenizer.finish());
  const bool stopped = request->stops.hit() >= 0;
  if (!stopped) text += request->stops.finish();
  if (!text.empty()) request->sink.text(text);
  if (!request->over) finish(request, {}, stopped ? "stop" : reason);
}

void RequestManager::on_failed(WorkerId worker, const proto::Failed& failed) {
  const RequestPtr request = find(failed.request_id(), failed.transfer_id(), failed.attempt());
  if (!request) return;
  const Attempt& attempt = *request->attempt;
  const bool from_decode = attempt.route.decode == worker;
  if (!from_decode && (attempt.route.prefill != worker || attempt.prefilled)) return;
  const Status status = cluster::failed_status(failed);
  std::set<WorkerId> blame{worker};
  // A decode worker that misses or refuses KV cannot know whose fault that is.
  const bool about_kv = status.code() == Code::kDataLoss || status.code() == Code::kUnavailable ||
                        status.code() == Code::kDeadlineExceeded;
  if (from_decode && about_kv && attempt.route.prefill && !attempt.prefilled) {
    blame.insert(*attempt.route.prefill);
  }
  const std::string cause =
      (from_decode ? "decode_" : "prefill_") + std::string(code_name(status.code()));
  attempt_failed(request, cause, status, blame);
}

// ---- ending ----

void RequestManager::cancel(RequestId id, const std::string& why) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return;
  const RequestPtr request = found->second;
  cancel_attempt(*request, why);
  parts_.metrics->request_done("client_gone");
  forget(request);
}

void RequestManager::cancel_all(const std::string& why) {
  // From the last to the first, so that nobody's end starts one that waits.
  while (!requests_.empty()) cancel(requests_.rbegin()->first, why);
}

void RequestManager::finish(const RequestPtr& request, const Status& status,
                            const std::string& reason) {
  GenerationOutcome outcome;
  outcome.status = status;
  outcome.finish_reason = reason;
  release_attempt(*request);  // the usage is of attempts that have ended
  // The first token of an empty answer is a stop id, which comes as the end.
  if (status.ok() && request->first_token_ns == 0) first_token(*request);
  outcome.usage = usage_of(*request);
  outcome.ids = request->tokens;
  if (status.ok()) {
    parts_.metrics->request_done("ok");
    parts_.metrics->request_seconds.observe(
        ms_between(request->arrived_ns, parts_.timers->now_ns()) * 1e-3);
    parts_.metrics->kv_bytes(request->generation.codec,
                             static_cast<double>(outcome.usage.raw_bytes),
                             static_cast<double>(outcome.usage.sent_bytes));
    parts_.metrics->stages(outcome.usage);
  } else {
    log_warn("gateway", request->generation.name + ", request " + std::to_string(request->id) +
                            " ends with " + status.to_string());
    parts_.metrics->request_done(status.code() == Code::kDeadlineExceeded ? "deadline" : "failed");
  }
  const auto done = std::move(request->sink.done);
  forget(request);
  done(outcome);
}

void RequestManager::forget(const RequestPtr& request) {
  request->over = true;
  release_attempt(*request);
  parts_.timers->cancel(request->deadline);
  parts_.timers->cancel(request->retry);
  waiting_.erase(request->id);
  requests_.erase(request->id);
  const double ran_s = ms_between(request->admitted_ns, parts_.timers->now_ns()) * 1e-3;
  const auto next = admission_.leave(request->id, ran_s);
  update_gauges();
  if (!next) return;
  const auto found = requests_.find(*next);
  if (found != requests_.end()) begin(RequestPtr(found->second));
}

void RequestManager::update_gauges() {
  parts_.metrics->queued.set(static_cast<double>(admission_.queued()));
  parts_.metrics->running.set(static_cast<double>(admission_.running()));
  parts_.metrics->waiting_for_worker.set(static_cast<double>(waiting_.size()));
}

GenerationUsage RequestManager::usage_of(const Request& request) const {
  const proto::KvUsage& kv = request.kv;
  GenerationUsage usage;
  usage.prompt_tokens = static_cast<std::uint32_t>(request.generation.prompt.size());
  usage.completion_tokens = static_cast<std::uint32_t>(request.tokens.size());
  usage.cached_tokens = kv.cached_tokens();
  usage.attempts = request.attempts;
  usage.values = kv.values();
  usage.raw_bytes = kv.raw_bytes();
  usage.sent_bytes = kv.sent_bytes();
  usage.bits_per_value = kv.bits_per_value();
  usage.closed_bits_per_value = kv.closed_bits_per_value();
  usage.queue_ms = ms_between(request.arrived_ns, request.first_attempt_ns) + kv.queue_ms();
  usage.prefill_ms = kv.prefill_ms();
  usage.encode_ms = kv.encode_ms();
  usage.transfer_ms = kv.transfer_ms();
  usage.first_decode_ms = kv.first_decode_ms();
  usage.ttft_ms = ms_between(request.arrived_ns, request.first_token_ns);
  usage.remote_prefill = kv.remote_prefill();
  return usage;
}

}  // namespace kvferry::gateway
