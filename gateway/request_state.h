// A request on its way, as the request manager keeps it: its choices, and the branches that
// generate them, each by one attempt at a time. For the manager's own sources.
//
// Thread contract: the reactor's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "control.pb.h"
#include "gateway/request_manager.h"
#include "text/detokenizer.h"
#include "text/stop_buffer.h"

namespace kvferry::gateway {

inline double ms_between(std::uint64_t from_ns, std::uint64_t to_ns) {
  return to_ns < from_ns ? 0 : static_cast<double>(to_ns - from_ns) * 1e-6;
}

struct RequestManager::Attempt {
  std::uint64_t transfer_id = 0;
  std::uint32_t number = 0;  // among those of the request, from 1
  scheduler::Route route;
  std::uint32_t ids = 0;             // prompt and tokens it started with
  bool prefilled = false;            // its first token is here
  std::optional<proto::KvUsage> kv;  // what its decode worker said last
};

// Choices [first, first + count) of a request, which one attempt at a time generates.
struct RequestManager::Branch {
  std::uint32_t first = 0, count = 1;
  std::optional<Attempt> attempt;
  std::uint32_t attempts = 0, failures = 0;
  std::set<scheduler::WorkerId> failed;
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

}  // namespace kvferry::gateway
