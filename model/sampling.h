// Choosing the next token. Counter-based: the random number of a token is a function of
// (seed, choice, position), so a request resumed on another worker draws the same ones.
//
// The order of operations is vLLM's (its V1 sampler): stop ids masked while min_tokens are not
// there, logit_bias, repetition penalty, frequency and presence penalties (model/choice_sampler.h
// has these, which need to know what came before), then here temperature, min_p, top_k, top_p and
// the draw.
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace kvferry::model {

struct LogitBias {
  std::int32_t id = 0;
  float bias = 0;  // added to the logit
};

struct SamplingParams {
  float temperature = 0.0f;  // 0: greedy. Range [0, 2]
  std::uint32_t top_k = 0;   // 0: all
  float top_p = 1.0f;        // (0, 1]
  float min_p = 0.0f;        // [0, 1]: tokens less probable than this times the most probable go
  float presence_penalty = 0.0f;       // [-2, 2]; OpenAI's: once for a token that was generated
  float frequency_penalty = 0.0f;      // [-2, 2]; OpenAI's: for each time that it was generated
  float repetition_penalty = 1.0f;     // (0, 2]; CTRL's (Keskar et al. 2019): prompt and generated
  std::vector<LogitBias> logit_bias;   // ids distinct
  std::uint32_t min_tokens = 0;        // until so many are generated, stop_ids are not chosen
  std::vector<std::int32_t> stop_ids;  // only for min_tokens
  std::uint64_t seed = 0;    // an unseeded request is given one by the gateway, which records it
  std::uint32_t choice = 0;  // index among the n choices of a request
};

// Temperature, min_p, top_k, top_p and the draw. position: the absolute position in the sequence of
// the token being chosen. Ties of the argmax go to the lowest id; top-k and top-p cut in the order
// (logit descending, id ascending), and probabilities are summed in that order.
std::int32_t sample(std::span<const float> logits, const SamplingParams& params,
                    std::uint32_t position);

struct TokenLogprob {
  std::int32_t id = 0;
  float logprob = 0;
};

// log softmax of logits at id.
float logprob(std::span<const float> logits, std::int32_t id);
// The same of the `count` largest logits (of all, if there are fewer), in the order (logit
// descending, id ascending). NaN is left out.
std::vector<TokenLogprob> top_logprobs(std::span<const float> logits, std::uint32_t count);

}  // namespace kvferry::model
