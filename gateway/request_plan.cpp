// The plan of an attempt: all that its workers must know of a request.
#include <algorithm>

#include "gateway/request_state.h"

namespace kvferry::gateway {
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

proto::Plan RequestManager::plan_of(const Request& request, const Branch& branch) const {
  const Generation& generation = request.generation;
  const std::vector<std::int32_t>& tokens = request.tokens_of(branch);
  proto::Plan plan;
  plan.set_request_id(request.id);
  plan.set_transfer_id(branch.attempt->transfer_id);
  plan.set_attempt(branch.attempt->number);
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
  return plan;
}

}  // namespace kvferry::gateway
