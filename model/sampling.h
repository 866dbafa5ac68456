// Choosing the next token. Counter-based: the random number of a token is a function of
// (seed, choice, position), so a request resumed on another worker draws the same ones.
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace kvferry::model {

struct SamplingParams {
  float temperature = 0.0f;  // 0: greedy. Range [0, 2]
  std::uint32_t top_k = 0;   // 0: all
  float top_p = 1.0f;        // (0, 1]
  std::uint64_t seed = 0;    // an unseeded request is given one by the gateway, which records it
  std::uint32_t choice = 0;  // index among the n choices of a request
};

// position: the absolute position in the sequence of the token being chosen. Ties of the argmax go
// to the lowest id; top-k and top-p cut in the order (logit descending, id ascending), and
// probabilities are summed in that order.
std::int32_t sample(std::span<const float> logits, const SamplingParams& params,
                    std::uint32_t position);

// log softmax of logits at id.
float logprob(std::span<const float> logits, std::int32_t id);

}  // namespace kvferry::model
