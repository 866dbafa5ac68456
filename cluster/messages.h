// What every kind of worker reads out of plans, and the envelopes that it makes.
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"
#include "cluster/plan_limits.h"
#include "control.pb.h"

namespace kvferry::cluster {

// "This attempt ended without an answer, because."
inline proto::Envelope failed_envelope(const proto::Plan& plan, const Status& status) {
  proto::Envelope envelope;
  proto::Failed& failed = *envelope.mutable_failed();
  failed.set_request_id(plan.request_id());
  failed.set_transfer_id(plan.transfer_id());
  failed.set_attempt(plan.attempt());
  failed.set_code(static_cast<std::uint32_t>(status.code()));
  failed.set_message(status.message());
  return envelope;
}

// Whether every id of a plan is one of the model's `vocab` ids, and its counts are within their
// limits. Checked before a plan shares a step with others.
inline Status check_plan(const proto::Plan& plan, std::uint32_t vocab) {
  for (const std::int32_t id : plan.ids()) {
    if (id < 0 || static_cast<std::uint32_t>(id) >= vocab) {
      return invalid_argument("token id " + std::to_string(id) + " is outside the vocabulary of " +
                              std::to_string(vocab));
    }
  }
  if (plan.prompt_tokens() == 0 ||
      plan.prompt_tokens() > static_cast<std::uint32_t>(plan.ids_size())) {
    return invalid_argument("a plan of " + std::to_string(plan.ids_size()) + " ids with " +
                            std::to_string(plan.prompt_tokens()) + " tokens of a prompt");
  }
  if (plan.choices() == 0 || plan.choices() > kMaxChoices ||
      plan.first_choice() > kMaxChoices - plan.choices() || plan.logprobs() > kMaxLogprobs) {
    return invalid_argument("a plan has 1 to " + std::to_string(kMaxChoices) +
                            " choices and up to " + std::to_string(kMaxLogprobs) +
                            " log-probabilities a token");
  }
  if (!(plan.sampling().repetition_penalty() > 0)) {
    return invalid_argument("a plan's repetition_penalty is above 0; 1 is none");
  }
  return ok_status();
}

// The sampling of a plan's first choice, as model::SamplingParams, a type this room does not know.
template <class SamplingParams>
SamplingParams sampling_params(const proto::Plan& plan) {
  const proto::Sampling& from = plan.sampling();
  SamplingParams params;
  params.temperature = from.temperature();
  params.top_k = from.top_k();
  params.top_p = from.top_p();
  params.min_p = from.min_p();
  params.presence_penalty = from.presence_penalty();
  params.frequency_penalty = from.frequency_penalty();
  params.repetition_penalty = from.repetition_penalty();
  params.min_tokens = from.min_tokens();
  params.stop_ids.assign(plan.stop_ids().begin(), plan.stop_ids().end());
  for (const proto::LogitBias& bias : from.logit_bias()) {
    params.logit_bias.push_back({bias.id(), bias.bias()});
  }
  params.seed = from.seed();
  params.choice = plan.first_choice();
  return params;
}

// The Status in a Failed. Codes that this version does not know, and OK, which no failure has, are
// kInternal.
inline Status failed_status(const proto::Failed& failed) {
  const bool known = failed.code() > static_cast<std::uint32_t>(Code::kOk) &&
                     failed.code() <= static_cast<std::uint32_t>(Code::kInternal);
  return {known ? static_cast<Code>(failed.code()) : Code::kInternal, failed.message()};
}

}  // namespace kvferry::cluster
