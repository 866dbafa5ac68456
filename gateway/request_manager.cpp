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
  std::uint32_t number = 0;  // among those of the request, from 1
  Route route;
  std::uint32_t ids = 0;             // prompt and tokens it started with
  bool prefilled = false;            // its first token is here
  std::optional<proto::KvUsage> kv;  // what its decode worker said last
};

// Choices [first, first + count) of a request, which one attempt at a time generates.
struct RequestManager::Branch {
  std::uint32_t first = 0, count = 1;
  std::optional<Attempt> attempt;
  std::uint32_t attempts = 0, failures = 0;
  std::set<WorkerId> failed;
  Timers::Id retry = 0;

  bool has(std::uint32_t choice) const { return choice >= first && choice - first < count; }
};

struct RequestManager::Choice {
  std::uint32_t index = 0;
  text::StopBuffer stops;
  text::Detokenizer detokenizer;
  std::vector<std::int32_t> tokens;    // generated so far, by whichever attempts
  std::vector<TokenLogprobs> pending;  // of tokens whose text has not been given
  std::uint64_t last_token_ns = 0;
  bool ended = false;
};

struct RequestManager::Request {
  Request(Generation wanted, GenerationSink into)
      : generation(std::move(wanted)), sink(std::move(into)) {}

  RequestId id = 0;
  Generation generation;
  GenerationSink sink;
  std::vector<Choice> choices;
  std::vector<BranchPtr> branches;    // that have not ended
  std::vector<TokenLogprobs> prompt;  // log-probabilities, as far as they have come
  bool prompt_given = false;

  std::uint64_t arrived_ns = 0, deadline_ns = 0;
  std::uint64_t admitted_ns = 0;       // 0: queued
  std::uint64_t first_attempt_ns = 0;  // 0: none yet
  std::uint64_t first_token_ns = 0;
  Timers::Id deadline = 0;

  std::uint32_t attempts = 0;  // of all branches
  std::optional<scheduler::ComputeClass> bound_to;
  proto::KvUsage kv;  // of the attempts that have ended
  bool over = false;

  // Several choices at once have no tokens yet.
  const std::vector<std::int32_t>& tokens_of(const Branch& branch) const {
    return choices[branch.first].tokens;
  }
  std::uint32_t length_of(const Choice& choice) const {
    return static_cast<std::uint32_t>(generation.prompt.size() + choice.tokens.size());
  }
  std::size_t tokens() const {
    std::size_t sum = 0;
    for (const Choice& choice : choices) sum += choice.tokens.size();
    return sum;
  }
  bool wants_prompt() const { return generation.prompt_logprobs && !prompt_given; }
};

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

namespace {

void set_sampling(const Generation& generation, proto::Sampling& sampling) {
  sampling.set_temperature(generation.temperature);
  sampling.set_top_k(generation.top_k);
  sampling.set_top_p(generation.top_p);
  sampling.set_min_p(generation.min_p);
  sampling.set_presence_penalty(generation.presence_penalty);
  sampling.set_frequency_penalty(generation.frequency_penalty);
  sampling.set_repetition_penalty(generation.repetition_penalty);
  sampling.set_min_tokens(generation.min_tokens);
  for (const auto& [id, bias] : generation.logit_bias) {
    proto::LogitBias& entry = *sampling.add_logit_bias();
    entry.set_id(id);
    entry.set_bias(bias);
  }
  sampling.set_seed(generation.seed);
}

}  // namespace

void RequestManager::send_orders(const Request& request, const Branch& branch) {
  const Generation& generation = request.generation;
  const Attempt& attempt = *branch.attempt;
  const std::vector<std::int32_t>& tokens = request.tokens_of(branch);
  proto::Envelope decode;
  proto::Plan& plan = *decode.mutable_start_decode()->mutable_plan();
  plan.set_request_id(request.id);
  plan.set_transfer_id(attempt.transfer_id);
  plan.set_attempt(attempt.number);
  plan.mutable_ids()->Add(generation.prompt.begin(), generation.prompt.end());
  plan.mutable_ids()->Add(tokens.begin(), tokens.end());
  plan.set_prompt_tokens(static_cast<std::uint32_t>(generation.prompt.size()));
  plan.set_max_tokens(generation.max_tokens - static_cast<std::uint32_t>(tokens.size()));
  plan.set_first_choice(branch.first);
  plan.set_choices(branch.count);
  plan.mutable_stop_ids()->Add(generation.stop_ids.begin(), generation.stop_ids.end());
  plan.set_codec(generation.codec);
  set_sampling(generation, *plan.mutable_sampling());
  if (generation.logprobs) plan.set_logprobs(*generation.logprobs);
  plan.set_prompt_logprobs(request.wants_prompt());
  const std::uint64_t now_ns = parts_.timers->now_ns();
  const std::uint64_t left_ns = request.deadline_ns > now_ns ? request.deadline_ns - now_ns : 0;
  plan.set_deadline_ms(std::max<std::uint64_t>(1, left_ns / kMillisecond));
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

// ---- what workers say ----

void RequestManager::worker_message(WorkerId worker, const proto::Envelope& message) {
  if (message.has_token()) {
    on_token(worker, message.token());
  } else if (message.has_prompt_logprobs()) {
    on_prompt_logprobs(worker, message.prompt_logprobs());
  } else if (message.has_finished()) {
    on_finished(worker, message.finished());
  } else if (message.has_failed()) {
    on_failed(worker, message.failed());
  } else {
    log_debug("gateway", "a message of no use from worker " + std::to_string(worker));
  }
}

RequestManager::Found RequestManager::find(std::uint64_t request_id, std::uint64_t transfer_id,
                                           std::uint32_t attempt) const {
  const auto found = requests_.find(request_id);
  if (found == requests_.end()) return {};
  for (const BranchPtr& branch : found->second->branches) {
    if (branch->attempt && branch->attempt->transfer_id == transfer_id &&
        branch->attempt->number == attempt) {
      return {found->second, branch};
    }
  }
  return {};
}

namespace {

template <class Message>
TokenLogprobs logprobs_of(std::int32_t id, const Message& message) {
  TokenLogprobs token;
  token.id = id;
  token.logprob = message.logprob();
  for (const proto::TokenLogprob& other : message.top()) {
    token.top.emplace_back(other.id(), other.logprob());
  }
  return token;
}

}  // namespace

void RequestManager::on_prompt_logprobs(WorkerId worker, const proto::PromptLogprobs& message) {
  const Found found = find(message.request_id(), message.transfer_id(), message.attempt());
  if (!found.request || found.branch->attempt->route.decode != worker) return;
  Request& request = *found.request;
  const std::vector<std::int32_t>& ids = request.generation.prompt;
  if (request.prompt.empty()) request.prompt.push_back({ids.front(), std::nullopt, {}});
  const auto count = static_cast<std::size_t>(message.entries_size());
  if (!request.wants_prompt() || message.position() != request.prompt.size() ||
      count > ids.size() - request.prompt.size()) {
    return attempt_failed(
        found.request, found.branch, "protocol",
        internal_error("log-probabilities of a prompt's tokens that were not asked for"), {worker});
  }
  for (const auto& entry : message.entries()) {
    request.prompt.push_back(logprobs_of(ids[request.prompt.size()], entry));
  }
}

// Before the first token or the end of a choice. False: they are not complete, the attempt failed.
bool RequestManager::give_prompt(const Found& found, WorkerId worker) {
  Request& request = *found.request;
  if (!request.wants_prompt()) return true;
  const std::vector<std::int32_t>& ids = request.generation.prompt;
  if (ids.size() == 1 && request.prompt.empty()) {
    request.prompt.push_back({ids.front(), std::nullopt, {}});
  }
  if (request.prompt.size() != ids.size()) {
    attempt_failed(found.request, found.branch, "protocol",
                   internal_error("a token before the log-probabilities of the prompt"), {worker});
    return false;
  }
  request.prompt_given = true;
  request.sink.prompt(std::move(request.prompt));
  return true;
}

void RequestManager::on_token(WorkerId worker, const proto::Token& token) {
  const Found found = find(token.request_id(), token.transfer_id(), token.attempt());
  if (!found.request || found.branch->attempt->route.decode != worker ||
      !found.branch->has(token.choice()) || found.request->choices[token.choice()].ended) {
    return parts_.metrics->token_dropped("stale");
  }
  Request& request = *found.request;
  Attempt& attempt = *found.branch->attempt;
  Choice& choice = request.choices[token.choice()];
  const std::uint32_t next = request.length_of(choice);
  if (token.position() < next) return parts_.metrics->token_dropped("duplicate");
  if (token.position() > next || token.id() < 0 ||
      choice.tokens.size() >= request.generation.max_tokens) {
    return attempt_failed(
        found.request, found.branch, "protocol",
        internal_error("token " + std::to_string(token.id()) + " at position " +
                       std::to_string(token.position()) + ", expected " + std::to_string(next)),
        {worker});
  }
  if (!give_prompt(found, worker)) return;
  if (token.has_usage()) attempt.kv = token.usage();
  if (!attempt.prefilled) {
    attempt.prefilled = true;
    parts_.router->prefilled(attempt.route, attempt.ids);
    request.bound_to = attempt.route.compute;
  }
  choice.tokens.push_back(token.id());
  if (request.generation.logprobs) choice.pending.push_back(logprobs_of(token.id(), token));
  count_token(request, choice);
  give_text(found, choice, choice.detokenizer.feed(token.id()));
}

void RequestManager::count_token(Request& request, Choice& choice) {
  const std::uint64_t now_ns = parts_.timers->now_ns();
  if (request.first_token_ns == 0) first_token(request);
  if (choice.last_token_ns != 0) {
    parts_.metrics->inter_token_seconds.observe(ms_between(choice.last_token_ns, now_ns) * 1e-3);
  }
  choice.last_token_ns = now_ns;
  parts_.metrics->completion_tokens.add();
}

void RequestManager::first_token(Request& request) {
  request.first_token_ns = parts_.timers->now_ns();
  parts_.metrics->ttft_seconds.observe(ms_between(request.arrived_ns, request.first_token_ns) *
                                       1e-3);
}

void RequestManager::give_text(const Found& found, Choice& choice, const std::string& piece) {
  const Generation& generation = found.request->generation;
  // As vLLM has it: stop strings count from the text of the first token beyond min_tokens on.
  const bool watched = choice.tokens.size() > generation.min_tokens;
  std::string text = watched ? choice.stops.feed(piece) : piece;
  const int hit = choice.stops.hit();
  if (hit < 0) {
    if (text.empty()) return;
    return found.request->sink.piece(
        {choice.index, std::move(text), std::exchange(choice.pending, {}), "", {}});
  }
  if (generation.include_stop) text += generation.stop[static_cast<std::size_t>(hit)];
  const auto others = [&](const Choice& other) {
    return &other != &choice && found.branch->has(other.index) && !other.ended;
  };
  const auto& choices = found.request->choices;
  if (std::any_of(choices.begin(), choices.end(), others)) {
    proto::Envelope envelope;
    envelope.mutable_cancel()->set_transfer_id(found.branch->attempt->transfer_id);
    envelope.mutable_cancel()->set_reason("stop string");
    envelope.mutable_cancel()->set_choice(choice.index);
    parts_.send(found.branch->attempt->route.decode, envelope);
  } else {
    cancel_attempt(*found.branch, "stop string");
  }
  end_choice(found.request, choice, std::move(text), "stop");
}

void RequestManager::on_finished(WorkerId worker, const proto::Finished& finished) {
  const Found found = find(finished.request_id(), finished.transfer_id(), finished.attempt());
  if (!found.request || found.branch->attempt->route.decode != worker) return;
  if (!found.branch->has(finished.choice()) || found.request->choices[finished.choice()].ended) {
    return;
  }
  if (finished.reason() != "stop" && finished.reason() != "length") {
    return attempt_failed(found.request, found.branch, "protocol",
                          internal_error("an unknown reason to finish: " + finished.reason()),
                          {worker});
  }
  if (!give_prompt(found, worker)) return;
  if (finished.has_usage()) found.branch->attempt->kv = finished.usage();
  end_text(found.request, found.request->choices[finished.choice()], finished.reason());
}

// Gives what detokenizer and stop buffer held back; a stop string may still be completed by it.
void RequestManager::end_text(const RequestPtr& request, Choice& choice,
                              const std::string& reason) {
  const Generation& generation = request->generation;
  std::string text = choice.stops.feed(choice.detokenizer.finish());
  const int hit = choice.stops.hit();
  if (hit < 0) text += choice.stops.finish();
  if (hit >= 0 && generation.include_stop) text += generation.stop[static_cast<std::size_t>(hit)];
  end_choice(request, choice, std::move(text), hit >= 0 ? "stop" : reason);
}

void RequestManager::end_choice(const RequestPtr& request, Choice& choice, std::string text,
                                const std::string& reason) {
  choice.ended = true;
  if (!text.empty()) {
    request->sink.piece({choice.index, std::move(text), std::exchange(choice.pending, {}), "", {}});
  }
  if (request->over) return;  // the sink has had enough
  request->sink.piece({choice.index, "", std::exchange(choice.pending, {}), reason, choice.tokens});
  if (request->over) return;
  for (const BranchPtr& branch : std::vector(request->branches)) {
    const auto open = [&](const Choice& each) { return branch->has(each.index) && !each.ended; };
    if (std::none_of(request->choices.begin(), request->choices.end(), open)) {
      end_branch(*request, branch);
    }
  }
  if (request->branches.empty()) finish(request, {});
}

void RequestManager::on_failed(WorkerId worker, const proto::Failed& failed) {
  const Found found = find(failed.request_id(), failed.transfer_id(), failed.attempt());
  if (!found.request) return;
  const Attempt& attempt = *found.branch->attempt;
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
  attempt_failed(found.request, found.branch, cause, status, blame);
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
  const proto::KvUsage& kv = request.kv;
  GenerationUsage usage;
  usage.prompt_tokens = static_cast<std::uint32_t>(request.generation.prompt.size());
  usage.completion_tokens = static_cast<std::uint32_t>(request.tokens());
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
