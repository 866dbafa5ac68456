#include "gateway/request_manager.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/hash.h"
#include "base/log.h"
#include "gateway/request_state.h"
#include "gateway/request_usage.h"

namespace kvferry::gateway {

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

}  // namespace

RequestManager::RequestManager(RequestManagerParts parts, const RequestLimits& limits)
    : parts_(std::move(parts)), limits_(limits), admission_(limits.admission) {}

RequestManager::~RequestManager() {
  for (const auto& [id, request] : requests_) {
    parts_.timers->cancel(request->deadline);
    for (const BranchPtr& branch : request->branches) parts_.timers->cancel(branch->retry);
  }
}

// ---- beginning ----

Result<RequestManager::RequestId> RequestManager::submit(Generation generation,
                                                         GenerationSink sink) {
  KVF_ASSIGN_OR_RETURN(auto stops, text::StopBuffer::make(generation.stop));
  const RequestId id = last_id_ + 1;
  KVF_ASSIGN_OR_RETURN(const bool now, admission_.enter(id));
  last_id_ = id;
  auto request = std::make_shared<Request>(std::move(generation), std::move(sink));
  for (std::uint32_t i = 0; i < request->generation.choices; ++i) {
    request->choices.push_back({i, stops, text::Detokenizer(parts_.tokenizer), {}, {}, 0, false});
  }
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
  const auto all = std::make_shared<Branch>();
  all->count = request->generation.choices;
  request->branches.push_back(all);
  start_attempt(request, all);
}

void RequestManager::start_attempt(const RequestPtr& request, const BranchPtr& branch) {
  if (request->over) return;
  branch->retry = 0;
  const std::vector<std::int32_t>& tokens = request->tokens_of(*branch);
  if (!tokens.empty() && tokens.size() >= request->generation.max_tokens) {
    // All tokens came, and then the worker went before it could say so.
    return end_text(request, request->choices[branch->first], "length");
  }
  scheduler::RouteRequest wanted;
  wanted.prompt_tokens = request->length_of(request->choices[branch->first]);
  // Its first tokens are of little or no use elsewhere: D computes the prompt, and nothing is sent.
  wanted.local_prefill = request->wants_prompt() || request->generation.max_tokens == 0;
  wanted.failed = branch->failed;
  wanted.bound_to = request->bound_to;
  const auto route = parts_.router->route(wanted);
  if (!route) {
    waiting_.insert({request->id, branch->first});
    return update_gauges();
  }
  waiting_.erase({request->id, branch->first});
  if (request->wants_prompt()) request->prompt.clear();
  Attempt attempt;
  attempt.transfer_id = fresh_id();
  attempt.number = ++request->attempts;
  attempt.route = *route;
  attempt.ids = wanted.prompt_tokens;
  branch->attempt = attempt;
  ++branch->attempts;
  if (request->first_attempt_ns == 0) request->first_attempt_ns = parts_.timers->now_ns();
  parts_.metrics->attempts.add();
  (route->prefill ? parts_.metrics->prefills_remote : parts_.metrics->prefills_local).add();
  send_orders(*request, *branch);
  update_gauges();
}

void RequestManager::send_orders(const Request& request, const Branch& branch) {
  const Attempt& attempt = *branch.attempt;
  const bool remote_prefill = attempt.route.prefill.has_value();
  proto::Envelope decode;
  proto::Plan& plan = *decode.mutable_start_decode()->mutable_plan();
  plan = plan_of(request, branch);
  decode.mutable_start_decode()->set_remote_prefill(remote_prefill);
  parts_.send(attempt.route.decode, decode);
  if (!remote_prefill) return;
  proto::Envelope prefill;
  *prefill.mutable_start_prefill()->mutable_plan() = plan;
  prefill.mutable_start_prefill()->set_decode_data_address(data_addresses_[attempt.route.decode]);
  parts_.send(*attempt.route.prefill, prefill);
}

// ---- workers come, go and fail ----

void RequestManager::worker_up(WorkerId id, const WorkerFacts& facts) {
  parts_.router->worker_up(id, facts.info);
  data_addresses_[id] = facts.data_address;
  for (const auto& [key, request] : requests_) {  // a new life
    for (const BranchPtr& branch : request->branches) branch->failed.erase(id);
  }
  for (const auto& [request_id, first] : std::set(waiting_)) {
    const auto found = requests_.find(request_id);
    if (found == requests_.end()) continue;
    const RequestPtr request = found->second;
    for (const BranchPtr& branch : std::vector(request->branches)) {
      if (branch->first == first) start_attempt(request, branch);
    }
  }
}

void RequestManager::worker_down(WorkerId id) {
  parts_.router->worker_down(id);
  std::vector<Found> hit;
  for (const auto& [key, request] : requests_) {
    for (const BranchPtr& branch : request->branches) {
      if (!branch->attempt) continue;
      const Attempt& attempt = *branch->attempt;
      // A prefill worker is not needed any more once the first token is here.
      if (attempt.route.decode == id || (attempt.route.prefill == id && !attempt.prefilled)) {
        hit.push_back({request, branch});
      }
    }
  }
  for (const auto& [request, branch] : hit) {
    if (request->over || !branch->attempt) continue;
    const bool decode = branch->attempt->route.decode == id;
    attempt_failed(
        request, branch, decode ? "decode_worker_down" : "prefill_worker_down",
        unavailable(decode ? "the decode worker went away" : "the prefill worker went away"), {id});
  }
}

void RequestManager::attempt_failed(const RequestPtr& request, const BranchPtr& branch,
                                    std::string_view cause, const Status& status,
                                    const std::set<WorkerId>& blame) {
  const bool resumed = request->tokens() > 0;
  parts_.metrics->attempt_failed(cause, resumed);
  log_warn("gateway", request->generation.name + ", request " + std::to_string(request->id) +
                          ", attempt " + std::to_string(branch->attempt->number) + " (" +
                          std::string(cause) + "): " + status.to_string() + "; " +
                          std::to_string(request->tokens()) + " tokens so far");
  cancel_attempt(*branch, "superseded: " + std::string(cause));
  release_attempt(*request, *branch);
  branch->failed.insert(blame.begin(), blame.end());
  if (!is_circumstance(status.code())) ++branch->failures;
  if (is_final(status.code()) || branch->failures >= limits_.max_failures ||
      branch->attempts >= limits_.max_attempts) {
    return finish(request, status);
  }
  for (const BranchPtr& next : split(*request, branch)) retry(request, next);
}

void RequestManager::retry(const RequestPtr& request, const BranchPtr& branch) {
  const std::uint64_t pause = pause_ns(branch->attempts);
  if (pause == 0) return start_attempt(request, branch);
  const std::weak_ptr<Request> weak = request;
  branch->retry = parts_.timers->after(pause, [this, weak, branch] {
    if (const auto again = weak.lock()) start_attempt(again, branch);
  });
}

// The branches that go on where `branch` failed: itself, or one for each choice that has not ended
// once their sequences may differ.
std::vector<RequestManager::BranchPtr> RequestManager::split(Request& request,
                                                             const BranchPtr& branch) {
  const auto begun = [&](const Choice& choice) {
    return branch->has(choice.index) && (choice.ended || !choice.tokens.empty());
  };
  const auto& choices = request.choices;
  if (branch->count == 1 || std::none_of(choices.begin(), choices.end(), begun)) return {branch};
  std::erase(request.branches, branch);
  std::vector<BranchPtr> singles;
  for (std::uint32_t i = branch->first; i < branch->first + branch->count; ++i) {
    if (choices[i].ended) continue;
    const auto single = std::make_shared<Branch>(*branch);
    single->first = i;
    single->count = 1;
    singles.push_back(single);
  }
  request.branches.insert(request.branches.end(), singles.begin(), singles.end());
  return singles;
}

void RequestManager::cancel_attempt(const Branch& branch, const std::string& why) {
  if (!branch.attempt) return;
  proto::Envelope envelope;
  envelope.mutable_cancel()->set_transfer_id(branch.attempt->transfer_id);
  envelope.mutable_cancel()->set_reason(why);
  parts_.send(branch.attempt->route.decode, envelope);
  if (branch.attempt->route.prefill) parts_.send(*branch.attempt->route.prefill, envelope);
}

void RequestManager::release_attempt(Request& request, Branch& branch) {
  if (!branch.attempt) return;
  const Attempt& attempt = *branch.attempt;
  parts_.router->release(attempt.route, attempt.ids, attempt.prefilled);
  if (attempt.kv) add_usage(*attempt.kv, request.kv);
  branch.attempt.reset();
}

void RequestManager::end_branch(Request& request, const BranchPtr& branch) {
  release_attempt(request, *branch);
  parts_.timers->cancel(branch->retry);
  waiting_.erase({request.id, branch->first});
  std::erase(request.branches, branch);
}

void RequestManager::deadline_passed(const RequestPtr& request) {
  const auto waits = [&](const BranchPtr& branch) {
    return waiting_.contains({request->id, branch->first});
  };
  std::string where = "while it was answered";
  if (request->admitted_ns == 0) {
    where = "while it waited for others to finish";
  } else if (std::any_of(request->branches.begin(), request->branches.end(), waits)) {
    where = "while no decode worker was up";
  }
  finish(request, deadline_exceeded("the request's time ran out " + where));
}

// ---- ending ----

void RequestManager::cancel(RequestId id, const std::string& why, std::string_view outcome) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return;
  const RequestPtr request = found->second;
  for (const BranchPtr& branch : request->branches) cancel_attempt(*branch, why);
  parts_.metrics->request_done(outcome);
  forget(request);
}

void RequestManager::cancel_all(const std::string& why) {
  // From the last to the first, so that nobody's end starts one that waits.
  while (!requests_.empty()) cancel(requests_.rbegin()->first, why, "client_gone");
}

void RequestManager::finish(const RequestPtr& request, const Status& status) {
  GenerationOutcome outcome;
  outcome.status = status;
  if (!status.ok()) {
    for (const BranchPtr& branch : request->branches) cancel_attempt(*branch, status.message());
  }
  // The usage is of attempts that have ended.
  for (const BranchPtr& branch : std::vector(request->branches)) end_branch(*request, branch);
  // The first token of an empty answer is a stop id, which comes as the end.
  if (status.ok() && request->first_token_ns == 0) first_token(*request);
  outcome.usage = usage_of(*request);
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
  for (const BranchPtr& branch : std::vector(request->branches)) end_branch(*request, branch);
  parts_.timers->cancel(request->deadline);
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
  GenerationUsage usage = gateway::usage_of(request.kv);
  usage.prompt_tokens = static_cast<std::uint32_t>(request.generation.prompt.size());
  usage.completion_tokens = static_cast<std::uint32_t>(request.tokens());
  usage.attempts = request.attempts;
  usage.queue_ms += ms_between(request.arrived_ns, request.first_attempt_ns);
  usage.ttft_ms = ms_between(request.arrived_ns, request.first_token_ns);
  return usage;
}

}  // namespace kvferry::gateway
