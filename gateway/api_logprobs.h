// The "logprobs" of a choice, as /v1/completions and /v1/chat/completions have them.
// Internal to gateway/. Thread contract: one thread.
#pragma once

#include <boost/json/value.hpp>
#include <cstddef>
#include <memory>
#include <span>

#include "gateway/endpoint.h"
#include "gateway/generation.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

namespace kvferry::gateway {

// Log-probabilities below this are told as this: JSON has no infinity, and OpenAI's API does so.
inline constexpr float kLeastLogprob = -9999.0f;

class LogprobsJson {
 public:
  // before: what is before the first token; nothing, if the prompt is repeated.
  LogprobsJson(Endpoint endpoint, std::shared_ptr<const text::Tokenizer> tokenizer,
               text::Detokenizer::Before before);

  // Of tokens that come behind those of earlier calls.
  // Completions: {"tokens", "token_logprobs", "top_logprobs", "text_offset"}. A token that is no
  // whole characters is written "bytes:\xNN...", so that the keys of top_logprobs stay distinct;
  // the token itself is always among them. Offsets count characters of the choice's text. Chat:
  // {"content": [{"token", "logprob", "bytes", "top_logprobs"}], "refusal": null}.
  boost::json::value write(std::span<const TokenLogprobs> tokens);

 private:
  boost::json::value completions(std::span<const TokenLogprobs> tokens);
  boost::json::value chat(std::span<const TokenLogprobs> tokens) const;
  std::string token_text(std::int32_t id) const;

  Endpoint endpoint_;
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  text::Detokenizer detokenizer_;
  std::size_t offset_ = 0;  // characters of the text so far
};

}  // namespace kvferry::gateway
