// A request as the gateway's inside sees it: ids and parameters in, pieces of text and an outcome
// out. One prompt, and one or more choices that answer it.
// Thread contract: values.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"

namespace kvferry::gateway {

struct Generation {
  std::string name;                  // of the request, in logs
  std::vector<std::int32_t> prompt;  // at least one id
  std::uint32_t choices = 1;         // 1 to cluster::kMaxChoices
  std::uint32_t max_tokens = 0;      // of each choice; prompt and this fit the context
  std::vector<std::int32_t> stop_ids;
  std::vector<std::string> stop;  // within text::StopBuffer's limits
  bool include_stop = false;      // the text ends with the stop string that was hit, not before it
  std::string codec;              // normalised spec
  // Sampling: model/sampling.h says what each means.
  float temperature = 0;
  std::uint32_t top_k = 0;
  float top_p = 1;
  float min_p = 0;
  float presence_penalty = 0, frequency_penalty = 0, repetition_penalty = 1;
  std::vector<std::pair<std::int32_t, float>> logit_bias;
  std::uint32_t min_tokens = 0;  // neither stop ids nor stop strings end a choice before
  std::uint64_t seed = 0;
  std::optional<std::uint32_t> logprobs;  // of each token, with so many of the most probable
  bool prompt_logprobs = false;           // of the prompt's tokens too
  std::uint64_t timeout_ns = 0;
};

// A token and what the model thought of it and of the most probable ones.
struct TokenLogprobs {
  std::int32_t id = 0;
  std::optional<float> logprob;                     // none for the first token of a prompt
  std::vector<std::pair<std::int32_t, float>> top;  // id, log-probability; descending
};

// What comes next of a choice. Text is whole UTF-8 characters.
struct GenerationPiece {
  std::uint32_t choice = 0;
  std::string text;
  std::vector<TokenLogprobs> tokens;  // since the last piece, where they are asked for
  std::string finish_reason;          // of the choice's last piece: "stop" or "length"
  std::vector<std::int32_t> ids;      // with it: of the whole answer, stop ids left out
};

struct GenerationUsage {
  std::uint32_t prompt_tokens = 0;
  std::uint32_t completion_tokens = 0;  // of all choices
  std::uint32_t cached_tokens = 0;
  std::uint32_t attempts = 0;
  // Sums over the attempts that got as far as a first token, or ended without any; the others never
  // said. An attempt's prompt is the request's and the tokens that came before. 0 when no worker
  // said.
  std::uint64_t values = 0, raw_bytes = 0, sent_bytes = 0;
  double bits_per_value = 0;  // all bits of these attempts over all their values
  // From here on of the last of these attempts alone.
  double closed_bits_per_value = 0;
  double queue_ms = 0;  // in the gateway and on the worker that prefilled
  double prefill_ms = 0, encode_ms = 0, transfer_ms = 0, first_decode_ms = 0;
  double ttft_ms = 0;  // from the request's arrival to its first token, or to its end without any
  bool remote_prefill = false;
};

struct GenerationOutcome {
  Status status;  // not OK: no complete answer, and this is why
  GenerationUsage usage;
};

// Where a generation goes. Nothing is called inside RequestManager::submit; `done` is called once,
// last, and not after RequestManager::cancel. With an OK outcome every choice has had its last
// piece.
struct GenerationSink {
  // Before any piece, if prompt_logprobs were asked for: an entry for each of the prompt's tokens.
  std::function<void(std::vector<TokenLogprobs>)> prompt;
  std::function<void(GenerationPiece)> piece;
  std::function<void(const GenerationOutcome&)> done;
};

}  // namespace kvferry::gateway
