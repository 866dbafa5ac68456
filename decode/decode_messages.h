// What a decode worker says of a request: tokens, log-probabilities, ends, and what its KV cost.
// Internal to decode/. Thread contract: pure functions of a request that stands still.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "control.pb.h"
#include "decode/decode_request.h"

namespace kvferry::decode {

// A token as it was chosen; logprob and top only where the plan asks for them.
struct ChosenToken {
  std::int32_t id = 0;
  float logprob = 0;
  std::vector<model::TokenLogprob> top;
};

// The next token of the choice. With its first two goes the usage: what the prompt's KV cost is
// known with the first, and with the second how long a decode step took; a choice that ends at a
// stop string or with its client never gets to Finished.
proto::Envelope token_message(const DecodeRequest& request, const Choice& choice,
                              const ChosenToken& token);

// reason: "stop" or "length".
proto::Envelope finished_message(const DecodeRequest& request, const Choice& choice,
                                 const char* reason);

// logits: rows of consecutive tokens from `first` on, [count][vocab]; each tells of the token
// behind it, so the prompt's last row tells of none.
proto::Envelope prompt_logprobs_message(const DecodeRequest& request, std::uint32_t first,
                                        std::uint32_t count, std::span<const float> logits);

}  // namespace kvferry::decode
