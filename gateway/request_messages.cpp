// What workers say of a request: tokens, the prompt's log-probabilities, the end, a failure. Each
// is taken only from the worker and for the attempt that it belongs to.
#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "base/log.h"
#include "cluster/messages.h"
#include "gateway/request_state.h"

namespace kvferry::gateway {

using scheduler::WorkerId;

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

}  // namespace kvferry::gateway
